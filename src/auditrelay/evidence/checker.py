"""
Check the evidence of auditrelay: the auditor's program, one file, standard library only.

An export is a folder. ``journal.ndjson`` has one *entry* a line: what a source, a sink or the
instance did. The entries are the leaves of a Merkle tree (RFC 6962). A *head* is the root over the
first SIZE of them, as a word: ``arh1.LOG.SIZE.ROOT.KEY.SIGNATURE``. Heads leave the machine as
events, so that the SIEM holds them. Here heads from outside are compared with the roots that the
entries give, and the entries with each other. Times: microseconds since 1970; ends: exclusive.
"""
# fmt: off
# ruff: noqa: C901, D101, D102, D103, E401, E701, I001, PLR0912, TRY301
# Laid out by hand: it is to be read and printed as a whole, so it has few lines, and what a
# function does stands behind its name.

import argparse, base64, csv, json, re, sqlite3, sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from hashlib import sha256, sha512
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HOUR, EVER = 3_600_000_000, 1 << 62
HEAD = r"arh1\.([0-9a-f]{32})\.([0-9]{1,13})\.([0-9a-f]{64})\.(?:([0-9a-f]{8})\.([0-9a-f]{128})|-)"
UID = "event_id", "auditrelay.uid", "@evt.id", "metadata.uid", "_id", "uid"
RAW = ("auditrelay.raw_sha256", "@auditrelay.raw_sha256", "event.hash", "raw_data_hash.value",
       "raw_sha256")
TIME = "_indextime", "event.ingested", "time"
TIMES = ("count",)
CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
FACTS = {
    "accepted", "covered", "gap", "filled", "reopened", "retracted", "looked_again", "vanished",
    "put_aside", "void", "parcel", "backfill", "forgot", "taken_over", "delivered", "dead", "began",
    "replayed", "dropped", "refilled", "retired", "back", "started", "stopped", "configured", "key",
    "head", "pruned", "operator", "clock", "continued", "restored"}
NOTES = {"dropped": "letters", "void": "spool", "clock": "clock", "retired": "configuration",
         "back": "configuration"}  # facts that an auditor wants to see, and their codes
NEEDED = {"accepted": ("pages", "events", "uids", "raws"), "dead": ("events", "each"),
          "covered": ("start", "end", "before", "events", "uids")}
SPANS = {"covered", "gap", "filled", "reopened", "retracted"}
DO = {
    "rewritten cut fork order form": "keep all files and export again; compare with an older export"
        " or a backup: auditrelay evidence check OLD NEW",
    "branch": "ask who restored, copied or moved it: he runs auditrelay evidence restored",
    "hole spool position letters state known": "read the log of that time; add --siem and --vendor",
    "unsigned key": "ask for the public key of that time, and who may write to the SIEM",
    "head_absent head_foreign not_in_siem only_in_siem changed_in_siem": "search the SIEM for who"
        " sent, deleted or edited it; check another sink, or the heads file",
    "vendor nothing": "run auditrelay evidence export once more, with --uids"}

class Stop(Exception): ...  # a fault behind which nothing can be read: its code and a text

class Report:  # findings, and lines about the rest
    def __init__(self) -> None:
        self.findings, self.lines = list[dict[str, Any]](), list[str]()

    def say(self, level: str, code: str, what: str, at: Any = None, where: Any = None) -> None:
        """Add a finding, which is bad or a note; *where* is an entry, or a line of a file."""
        do = "".join(DO[codes] for codes in DO if code in codes.split() and level == "bad") or None
        entry, where = (where, None) if type(where) is int else (None, where)
        self.findings.append({"level": level, "code": code, "entry": entry, "at": at,
                              "where": where, "what": what, "do": do})

def iso(at: Any) -> str:  # a time in words
    known = type(at) is int and 0 <= at < 250_000_000_000_000_000
    return f"{datetime.fromtimestamp(at // 1_000_000, UTC):%Y-%m-%dT%H:%M:%SZ}" if known else "?"

def node(left: bytes, right: bytes) -> bytes:  # the hash above two hashes of the tree
    return sha256(b"\1" + left + right).digest()

def append(parts: list[bytes], size: int, line: bytes) -> bytes:
    """Append a line to a tree of *size* lines, the roots of its whole parts; return its hash."""
    leaf = part = sha256(b"\0" + line).digest()
    while size & 1:
        part, size = node(parts.pop(), part), size >> 1
    parts.append(part)
    return leaf

def root_of(parts: list[bytes]) -> str:  # the root of a tree
    root = parts[-1] if parts else sha256().digest()
    for part in parts[-2::-1]: root = node(part, root)
    return root.hex()

def root_by_path(line: str, n: int, size: int, path: list[str]) -> str:
    """Return the root to which *path* leads from line *n* of *size*; ValueError or IndexError."""
    part, last = sha256(b"\0" + line.encode()).digest(), size - 1
    rest = [bytes.fromhex(each) for each in path]
    while 0 <= n <= last != 0:
        if n & 1 or n < last:
            part = node(rest.pop(0), part) if n & 1 else node(part, rest.pop(0))
        n, last = n >> 1, last >> 1
    if n or last or rest: raise ValueError("the path leads to no head")
    return part.hex()

P, ORDER = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493  # Ed25519, RFC 8032
D = -121665 * pow(121666, -1, P) % P
Point = tuple[int, int, int, int]

def plus(p: Point, q: Point) -> Point:  # the sum of two points
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P

def point(encoded: bytes) -> Point | None:  # the point that 32 bytes are, or None
    y, sign = int.from_bytes(encoded, "little") & 2**255 - 1, encoded[31] >> 7
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    x = x if (x * x - square) % P == 0 else x * pow(2, (P - 1) // 4, P) % P
    if (x * x - square) % P or y >= P or (sign and not x): return None
    x = x if x & 1 == sign else P - x
    return x, y, 1, x * y % P

def is_signed(public: bytes, signature: bytes, message: bytes) -> bool:  # of 32, 64 and any bytes
    key, base = point(public), point(bytes.fromhex("58" + "66" * 31))
    s = int.from_bytes(signature[32:], "little")
    if not key or not base or s >= ORDER: return False
    digest = int.from_bytes(sha512(signature[:32] + public + message).digest(), "little") % ORDER
    minus = (P - key[0], key[1], 1, P - key[3])
    total = zero = (0, 1, 1, 0)
    choice = (zero, base, minus, plus(base, minus))
    for bit in range(255, -1, -1):  # s times the base minus digest times the key
        total = plus(plus(total, total), choice[(s >> bit & 1) + 2 * (digest >> bit & 1)])
    x, y = (each * pow(total[2], -1, P) % P for each in total[:2])
    return (y | (x & 1) << 255).to_bytes(32, "little") == signature[:32]

def refuse(number: str) -> Any:
    raise ValueError(number)

STRICT = json.JSONDecoder(parse_float=refuse, parse_constant=refuse)

def entry_of(line: bytes) -> dict[str, Any]:  # the entry in a line, spelled exactly as it must be
    body = line.removesuffix(b"\n")
    try:
        entry: dict[str, Any] = STRICT.decode(body.decode("ascii"))
        newer = {fact["fact"] for fact in entry["facts"]} - FACTS or not body.endswith(b',"v":1}')
        same = CANONICAL.encode(entry).encode() == body != line and len(body) <= 60_000
        same &= "".join(entry) == "atfactslognseqsincestateunitv" and b"\\u0000" not in body
        same &= type(entry["unit"]) is str and bool(re.fullmatch("[0-9a-f]{32}", entry["log"]))
    except (ValueError, LookupError, TypeError, RecursionError): same = newer = False
    if newer: raise Stop("form", f"is by a newer auditrelay: version {entry['v']}, {newer}")
    if not same: raise Stop("form", "is not an entry as auditrelay spells it")
    return entry

def dotted(pairs: list[tuple[str, Any]]) -> dict[str, Any]:  # the fields inside by dotted names
    return {f"{name}.{inner}".strip(".").removeprefix("_source."): value for name, each in pairs
            for inner, value in (each.items() if isinstance(each, dict) else [("", each)])}

def fields(text: Any) -> dict[str, Any]:  # the fields of a JSON object by dotted name, or none
    try: found = json.loads(text, object_pairs_hook=dotted) if str(text).startswith("{") else {}
    except (ValueError, RecursionError): return {}
    return dict(found)

def rows(path: Path) -> Iterator[tuple[int, str, dict[Any, Any]]]:
    """Yield number, text and fields of each row: NDJSON, CSV with a known column, or text."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        header = file.readline(100_000)
        file.seek(0)
        if header[:1] != "{" and any(name in header for name in UID + TIME):
            table = csv.DictReader(file)
            for row in table: yield table.line_num, str(row), row
        for number, line in enumerate(file, 1): yield number, line, fields(line)

def cell(row: dict[Any, Any], names: Iterable[str]) -> str:  # the first of these fields there is
    return next((str(row[name]) for name in names if row.get(name)), "")

def instant(text: str) -> int | None:  # a time: seconds, microseconds or ISO 8601
    try:
        if re.fullmatch(r"[0-9]{1,11}(\.[0-9]+)?", text): return int(float(text) * 1_000_000)
        if re.fullmatch(r"[0-9]{12,18}", text): return int(text)
        return int(datetime.fromisoformat(text).timestamp()) * 1_000_000
    except (ValueError, OverflowError): return None

def heads_in(path: Path) -> Iterator[SimpleNamespace]:  # each once, with what stands beside it
    seen = set[str]()
    for number, text, row in rows(path):
        for word in re.finditer(HEAD, text):
            if word[0] in seen: continue
            seen.add(word[0])
            inner = [pair for value in row.values() for pair in fields(value).items()]
            yield SimpleNamespace(
                log=word[1], size=int(word[2]), root=word[3], key=word[4], signature=word[5],
                file=path, where=f"{path.name} line {number}", at=instant(cell(row, TIME)),
                row=row | dict(inner))

def state_of(name: str, state: dict[str, Any]) -> dict[str, Any]:  # ValueError if it is none
    for key, value in state.items():
        inner = value.values() if key in ("looked_again", "since") else [value]
        if key == "ahead": inner = [number for pair in value for number in pair]
        if any(type(each) is not int for each in inner if each is not None or inner != [value]):
            raise ValueError("no number")
    needed = ["position", "ahead", "since"] if name.startswith("sink") else []
    needed += ["accepted"] if name.startswith("source") else []
    needed += ["covered_until", "looked_again"] if state.get("started") is not None else []
    if not state.keys() >= set(needed): raise ValueError("too short")
    return state

TABLES = """
    create table span (unit, kind, start, end); create table place (unit, first, end, n);
    create table letter (unit, uid blob, again, primary key (unit, uid));
    create table ours (place integer primary key, uid blob, unit); create table since (unit, place);
    create table theirs (uid blob primary key, raw, at, times)"""
# How often each instant is covered or a gap: 1 from the start on. A gap that was reopened may be
# declared again; a damaged page makes a gap of what was covered.
LEVELS = """
    with part as (select start, end, case kind when 'covered' then 1 when 'gap' then 1
        when 'filled' then -1 when 'retracted' then -1 else 0 end as times,
        kind = 'reopened' as spare
        from span where unit = :unit union all select :start, :end, 0, 0),
    edge as (select start as at, times, spare from part
        union all select end, -times, -spare from part),
    level as (select at, sum(sum(times)) over (order by at) as times,
        sum(sum(spare)) over (order by at) as spare from edge group by at)
    select at, times from level
    where at >= :start and at < :end and times not between 1 and 1 + spare"""

class Journal:  # one export, read line by line: its roots, and what its entries say together
    def __init__(self, path: Path, report: Report, wanted: set[int]) -> None:
        self.path, self.say, self.whole, self.log, self.last = path, report.say, True, "", ""
        self.tree, self.leaves, self.roots = list[bytes](), list[bytes](), dict[int, Any]()
        self.units, self.ends, self.heads = dict[str, Any](), dict[str, int](), dict[int, str]()
        self.branches, self.restored, self.keys = list[Any](), list[Any](), list[Any]()
        self.at, self.first, self.settings = 0, 0, dict[str, Any]()
        self.db = sqlite3.connect("")  # a temporary file
        self.db.executescript(TABLES)
        self.keep_root()
        with path.open("rb") as file:
            while line := file.readline(60_002):
                if self.whole: self.attempt(self.take, line)
                self.leaves.append(append(self.tree, len(self.leaves), line.removesuffix(b"\n")))
                if len(self.leaves) in wanted: self.keep_root()
        self.ends[self.log] = len(self.leaves)
        if self.whole: self.attempt(self.add_up)

    def keep_root(self) -> None:
        self.roots[len(self.leaves)] = root_of(self.tree), self.at

    def attempt(self, step: Any, *line: bytes) -> None:
        code, what = "form", "has a field that is not as auditrelay writes it"
        try: step(*line)
        except Stop as stop: code, what = stop.args
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError): pass
        except sqlite3.Error as error: what = f"has a field that cannot be: {error}"
        else: return
        self.whole, number = False, len(self.leaves) + bool(line)
        self.say("bad", code, f"line {number} of {self.path.name} {what}; from there on only heads "
                 "are compared", None, len(self.leaves))

    def take(self, line: bytes) -> None:
        entry, n = entry_of(line), len(self.leaves)
        at, log, name, facts = entry["at"], entry["log"], entry["unit"], entry["facts"]
        if name not in self.units: self.units[name] = SimpleNamespace(
            seq=0, at=None, state={}, sums=Counter(), looked={}, first=EVER, begin=-EVER,
            found=False, history=[])
        unit = self.units[name]
        if (entry["n"], entry["seq"], entry["since"]) != (n, unit.seq + 1, unit.at) or at < self.at:
            raise Stop("order", f"is not entry {n}: number {unit.seq + 1} of {name}")
        before = [fact["log"] for fact in facts if fact["fact"] == "continued"]
        known = log in self.ends or (n > 0 and before != [self.log])
        if log in before or (log != self.log and known):
            raise Stop("branch", "begins a log that does not say which other one it continues")
        if log != self.log: self.ends |= dict.fromkeys(before, n)
        if name == "instance" != self.last:  # a seal begins
            self.keep_root()
            if log == self.log and not any(fact.get("size") == n for fact in facts):
                self.say("bad", "order", f"entry {n} does not name the head before it", at, n)
            if n and at - self.at > 3 * HOUR:
                self.say("note", "downtime", f"nothing from {iso(self.at)} to {iso(at)}", at, n)
        self.at, self.log, self.last, unit.seq, unit.at = at, log, name, unit.seq + 1, at
        self.first = self.first or at
        for fact in facts: self.add(name, unit, fact, fact["fact"], n)
        if (state := entry["state"]) is not None:
            unit.state = state_of(name, state)
            if state.get("started") is not None:
                unit.first = min(unit.first, state["started"])
                unit.history.append((at, state["covered_until"], state["accepted"]))
            if unit.found:  # in a state from before there was evidence: nothing is claimed of it
                unit.found, unit.begin = False, state["covered_until"]

    def add(self, name: str, unit: Any, fact: dict[str, Any], kind: str, n: int) -> None:
        def say(code: str, what: str, level: str = "bad") -> None:
            self.say(level, code, f"{name}: {what}", self.at, n)
        if not all(key in fact for key in NEEDED.get(kind, ())): raise ValueError("no fact")
        unit.sums.update({kind: fact.get("events", 0), "late": fact.get("late", 0)})
        if kind in NOTES: say(NOTES[kind], CANONICAL.encode(fact), "note")
        if kind in SPANS:
            kind = "damaged" if fact.get("reason") == "damaged" and kind == "gap" else kind
            self.db.execute("insert into span values (?, ?, ?, ?)", (
                name, kind, max(fact["start"], unit.begin), max(fact["end"], unit.begin)))
        elif kind in ("accepted", "refilled", "replayed", "delivered"):
            self.db.executemany("insert into place values (?, ?, ?, ?)", (
                (name if kind == "delivered" else "", first, first + count, n)
                for first, count in fact["done" if kind == "delivered" else "pages"]))
        if kind in ("dead", "replayed"):  # uids that the sink need not have, or from which place on
            again = fact["pages"][0][0] if fact.get("pages") else EVER
            self.db.executemany("replace into letter values (?, ?, ?)", (
                (name, bytes.fromhex(uid), again) for uid in fact["each"]))
        elif kind == "looked_again": unit.looked[str(fact["delay"])] = fact["until"]
        elif kind == "taken_over": unit.found, unit.begin = name != "instance", EVER
        elif kind == "operator" and fact["did"] == "forget":  # of the source or sink itself
            unit.first = EVER
            self.db.execute("delete from span where unit = ?", (name,))
            self.db.execute("delete from place where unit = ?", (name,))
        elif kind == "head":
            if self.roots.get(fact["size"], [""])[0] == fact["root"]:
                self.heads[fact["size"]] = fact["root"]
            else: say("rewritten", f"names head {fact['size']}, which has another root here")
        elif kind == "configured":
            old, new = self.settings, fact["settings"]
            for key in sorted(old.keys() | new.keys() if old else ()):
                if old.get(key) != new.get(key):
                    say("configuration", f"{key} {old.get(key)} -> {new.get(key)}", "note")
            self.settings = new
        elif kind == "key":
            public, signature = (bytes.fromhex(fact[key] or "") for key in ("public", "signature"))
            if len(public) != 32: raise ValueError("no key")
            self.keys.append((n, public, str(fact["before"] or ""), signature))
        elif kind == "restored": self.restored.append((n, f"uid {fact['by']}: {fact['reason']}"))
        elif kind == "continued":
            self.branches.append(SimpleNamespace(
                log=bytes.fromhex(fact["log"]).hex(), to=self.log, n=n, at=self.at,
                why=fact["why"]))
            if (fact["size"], fact["root"]) != (n, self.roots[n][0]):
                say("rewritten", f"log {fact['log']} had another root or size: {fact['why']}")

    def add_up(self) -> None:  # what all entries say together
        for unit, first, before, n in self.db.execute(
                "select * from (select unit, first, lag(end) over (partition by unit order by "
                "first) as before, n from place) "
                "where first < before or (unit = '' and first > before)"):
            self.say("bad", "position" if unit else "spool", f"{unit or 'events'}: place {first} is"
                     f" given twice, or places from {before} on are left out", None, n)
        ((last,),) = self.db.execute("select max(end) from place where unit = ''")
        for name, unit in self.units.items():
            def bad(code: str, what: str, name: str = name, at: Any = unit.at) -> None:
                self.say("bad", code, f"{name}: {what}", at)
            state, sums = unit.state, unit.sums
            for key in ("accepted", "put_aside", "vanished", "dead", "replayed", "dropped"):
                if state.get(key, sums[key]) != sums[key]:
                    bad("letters" if "dead" in state else "state",
                        f"{state[key]} {key} in all, but {sums[key]} by its entries")
            for delay, until in state.get("looked_again", {}).items():
                if until > unit.looked.get(delay, -EVER):
                    bad("state", f"no entry has reswept it until {iso(until)} ({delay} s)")
            if state.get("started") is not None:
                start, end = max(unit.first, unit.begin), state["covered_until"]
                span = {"unit": name, "start": start, "end": end}
                for at, times in self.db.execute(LEVELS, span):
                    what = "twice, or as an open gap" if times > 0 else "neither, nor as a gap"
                    bad("hole", f"from {iso(at)} on it is covered {what}")
            ((first, end, done),) = self.db.execute(
                "select min(first), max(end), sum(end - first) from place where unit = ?", (name,))
            if done and state.get("position") is not None:
                parts = [(first, max(0, state["position"] - first)), *state["ahead"]]
                ends = max(start + count for start, count in parts)
                if done != sum(count for _, count in parts) or end != ends or end > (last or end):
                    bad("position", f"is at {state['position']}, but its entries settle {done} "
                        f"places from {first} to {end}, and events have places below {last}")

    def verdict(self, head: Any) -> str:  # on a head from outside
        end = self.ends.get(head.log, -1 if self.whole else len(self.leaves))
        if end < 0: return "head_foreign"
        left = head.log in self.ends and head.log != self.log
        if head.size > end: return "beyond" if left else "cut"
        return "fit" if self.roots[head.size][0] == head.root else "rewritten"

WHAT = {"rewritten": "has another root here", "cut": "is over more entries than are here",
        "fork": "has another root here, but one that is not smaller fits: two histories of one log",
        "head_foreign": "is of a log that is not known here", "unsigned": "is not signed",
        "key": "is not signed by the key of its time"}

def name_of(public: bytes) -> str:  # the id of a key
    return sha256(public).hexdigest()[:8]

def judge(given: list[Any], journals: list[Journal], pins: list[bytes], say: Any) -> None:
    """Give each head its state; say what contradicts the newest journal."""
    new, groups = journals[-1], defaultdict[tuple[str, str], list[Any]](list)
    trusted = {name_of(public): public for public in pins}
    for n, public, before, signature in new.keys:
        text = b"auditrelay key " + public.hex().encode()
        vouched = before in trusted and is_signed(trusted[before], signature, text)
        if not vouched and public not in pins and (pins or before):
            level = "bad" if pins else "note"
            say(level, "key", f"no known key has signed the new key {name_of(public)}", None, n)
        if vouched or not pins: trusted[name_of(public)] = public
    for head in sorted(given, key=lambda head: -head.size):
        states = [journal.verdict(head) for journal in journals]
        head.state = next((each for each in ("fit", "rewritten") if each in states), states[-1])
        if head.state == "rewritten" and groups[head.log, "fit"]: head.state = "fork"
        signer = [name_of(public) for n, public, *_ in new.keys if n < head.size][-1:]
        allowed = signer if signer and states[-1] == "fit" else trusted
        root = base64.b64encode(bytes.fromhex(head.root)).decode()
        body = f"auditrelay/{head.log}\n{head.size}\n{root}\n".encode()
        if not head.key and (signer or (pins and not new.keys)): head.state = "unsigned"
        elif head.key and (pins or new.keys) and not (head.key in allowed and head.key in trusted
                and is_signed(trusted[head.key], bytes.fromhex(head.signature), body)):
            head.state = "key"
        groups[head.log, head.state].append(head)
        if states[-1] == "beyond": groups[head.log, "dead"].append(head)
    for (log, state), heads in list(groups.items()):
        if state not in WHAT: continue
        first = heads[-1]
        smaller = [each.size for each in groups[log, "fit"] if each.size < first.size]
        below = max(smaller, default=0)
        why = [reason for n, reason in new.restored if n >= below] if state == "fork" else []
        what = f"head {first.size} ({first.where}, indexed {iso(first.at)}) {WHAT[state]}"
        what += f" ({why[0]})" if why else ""
        if state in ("rewritten", "fork"):
            what += (f"\nthe newest head that fits before it is {below}: an entry of {below}.."
                     f"{first.size - 1} was changed, put in or taken out")
        if len(heads) > 1: what += f"\n{len(heads) - 1} more heads like this"
        say("note" if why else "bad", state, what, first.at, first.where)
    for branch in new.branches:
        left(branch, groups[branch.log, "dead"], new, journals[:-1], say)

def left(branch: Any, dead: list[Any], new: Journal, old: list[Journal], say: Any) -> None:
    """Say what a log that was left had claimed, and whether the new one has made it up."""
    why = [reason for n, reason in new.restored if n >= branch.n]
    young = any(head.at and head.at > branch.at + HOUR for head in dead)
    what = (f"{branch.log[:6]} was continued as {branch.to[:6]} at entry {branch.n}, "
            f"{iso(branch.at)} ({branch.why}; {why[0] if why else 'no operator has said why'})")
    if dead: what += (f"\n{len(dead)} heads of {branch.log[:6]} lie beyond, up to {dead[0].size}"
                      + (", indexed after it: two instances ran" if young else ""))
    claims = defaultdict[str, list[tuple[int, int]]](list)  # by source: time, and events by then
    for row in [head.row for head in dead]:
        for key, accepted in row.items():
            found = re.search(r"sources\.(.+)\.accepted$", str(key))
            until = row.get(str(key).removesuffix("accepted") + "covered_until")
            if found and type(accepted) is type(until) is int:
                claims[found[1]].append((until, accepted))
    for journal in [each for each in old if each.log == branch.log]:
        for name, unit in journal.units.items():
            if unit.history: claims[name[7:]].append(unit.history[-1][1:])
    for source, claimed in sorted(claims.items()):
        until, accepted = max(claimed)
        history = getattr(new.units.get(f"source {source}"), "history", [])
        before = max((events for at, _, events in history if at < branch.at), default=0)
        after = [events for at, end, events in history if at >= branch.at and end >= until]
        more, made = accepted - before, min(accepted, after[0] if after else before) - before
        what += (f"\n{source} had accepted {more} more until {iso(until)}; made up: {made}; "
                 f"lost: {more - made}")
    say("note" if why else "bad", "fork" if young else "branch", what, branch.at, branch.n)

def by_file(given: list[Any], witness: list[Path], new: Journal, report: Report) -> dict[str, int]:
    """Say which heads are absent from a file between others, or came late; count the heads."""
    texts, lacking = list[str](), 0
    for path in witness:
        mine = [head for head in given if head.file == path]
        fit = {head.size: head for head in mine if head.state == "fit"}
        first, last = min(fit, default=0), max(fit, default=0)
        absent = sorted(size for size in new.heads if first < size < last and size not in fit)
        lacking += len(absent)
        if absent or not mine:
            what = f"{len(absent)} between others, such as {absent[0]}" if absent else "all"
            report.say("bad", "head_absent", f"{path.name} lacks heads: {what}", None, path.name)
        late = [(head.at - new.roots[head.size][1], head) for head in fit.values() if head.at]
        late = [(delay, head) for delay, head in late if not -HOUR < delay < 3 * HOUR]
        for delay, head in late[:1]:
            what = f"{len(late)} heads were indexed 3 h after their seal, or later, or before it"
            report.say("note", "late_head", f"{what}: {head.size} by {delay // 60_000_000} min",
                       head.at, head.where)
        texts.append(f"{path.name} {len(fit)} of {len(mine)} fit")
    if not given: report.say("note", "no_witness", "no head from outside was given (--witness): "
                             "this shows only that the export fits itself")
    report.lines.append("heads      " + ("; ".join(texts) or "none"))
    states = Counter(head.state for head in given)
    return {"given": len(given), "fit": states["fit"], "absent": lacking,
            "contradict": states["rewritten"] + states["fork"] + states["cut"]}

def facts_in(journal: Journal, kind: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    with journal.path.open("rb") as file:
        for n, line in enumerate(file):
            entry: Any = json.loads(line) if f'"fact":"{kind}"'.encode() in line else {"facts": ()}
            for fact in entry["facts"]:
                if fact["fact"] == kind: yield n, entry["unit"], fact

def chain(digests: Iterable[bytes], total: bytes = bytes(32)) -> str:  # the digest of pages
    for digest in digests: total = sha256(total + digest).digest()
    return total.hex()

def uids_in(path: Path) -> Iterator[tuple[int, int, bytes]]:  # entry, first place, keys of a page
    if not path.exists(): return
    with path.open("rb") as file:
        for line in file:
            try:
                page = json.loads(line)
                yield page["n"], page["first"], base64.b64decode(page["keys"])
            except (ValueError, LookupError, TypeError, RecursionError): yield -1, -1, b""

def exported(new: Journal) -> list[Any] | None:
    """Take the uids that were exported; return what entries say of them, or None if not all are."""
    pages, whole, facts = uids_in(new.path.parent / "uids.ndjson"), True, list[Any]()
    page = next(pages, None)
    for n, unit, fact in facts_in(new, "accepted"):
        keys = list[bytes]()
        for first, count in fact["pages"]:
            if page and page[:2] == (n, first) and len(page[2]) == 28 * count:
                new.db.executemany("insert or ignore into ours values (?, ?, ?)", (
                    (first + i, page[2][28 * i + 8:28 * i + 28], unit) for i in range(count)))
                keys.append(page[2])
                page = next(pages, None)
        if len(keys) < len(fact["pages"]): whole = False
        elif chain(sha256(each).digest() for each in keys) == fact["uids"]:
            facts.append((n, unit, fact["pages"], fact["raws"]))
        else: new.say("bad", "known", f"{unit}: uids.ndjson has others than it accepted", None, n)
    if page: new.say("bad", "known", f"uids.ndjson has a page that no entry has: {page[:2]}")
    new.db.executescript(
        "create index by_uid on ours (uid); create index by_first on place (unit, first)")
    return facts if whole else None

def load(db: sqlite3.Connection, path: Path) -> None:  # what a SIEM or a vendor has
    every = ((cell(row, UID).lower(), row) for _, _, row in rows(path))
    db.execute("delete from theirs")
    db.executemany(
        "insert into theirs values (?, ?, ?, ?) on conflict do update set times = times + "
        "excluded.times, raw = iif(raw = excluded.raw, raw, 'two')",
        ((bytes.fromhex(uid), cell(row, RAW), instant(cell(row, TIME)), int(cell(row, TIMES) or 1))
         for uid, row in every if re.fullmatch("[0-9a-f]{40}", uid)))

def other_records(db: sqlite3.Connection, facts: list[Any]) -> Iterator[tuple[int, str]]:
    for n, unit, pages, digest in facts:
        raws = [[raw or "" for raw, in db.execute(
            "select raw from ours left join theirs using (uid) where place >= ? and place < ? "
            "order by place", (first, first + count))] for first, count in pages]
        found = chain(sha256("".join(page).encode()).digest() for page in raws)
        if all(map(all, raws)) and found != digest: yield n, unit

DONE = """coalesce((select end > {0} from place where unit = :sink and first <= {0}
    order by first desc limit 1), 0)"""
DUE = f"""select count(*), count(theirs.uid), min(iif(theirs.uid is null, hex(ours.uid), null))
    from ours join since on since.unit = ours.unit and since.place <= ours.place
    left join letter on letter.unit = :sink and letter.uid = ours.uid
    left join theirs on theirs.uid = ours.uid
    where {DONE.format("ours.place")} and (letter.uid is null or {DONE.format("letter.again")})
    """  # noqa: S608  # constants
MORE = """select count(*), min(hex(uid)), sum(coalesce(at, 0) <= ?) from theirs
    where uid not in (select uid from ours)"""

def in_siem(name: str, new: Journal, facts: list[Any] | None, lines: list[str]) -> None:
    sink, say = new.units.get(f"sink {name}"), new.say
    if sink is None or facts is None:
        say("bad", "nothing", f"{name} is no sink of this export, or it has not all uids")
        return
    for n, unit in other_records(new.db, facts):
        say("bad", "changed_in_siem", f"{name}: a record of {unit} has another raw_sha256", None, n)
    new.db.execute("delete from since")
    new.db.executemany("insert into since values (?, ?)", (
        (f"source {source}", place) for source, place in sink.state["since"].items()))
    ((due, found, uid),) = new.db.execute(DUE, {"sink": f"sink {name}"})
    if due > found:
        what = f"{name} lacks {due - found} of {due} events that it took, such as {uid.lower()}"
        say("bad", "not_in_siem", what)
    ((more, uid, before),) = new.db.execute(MORE, (new.at,))
    if more:
        what = f"{more - before} of them from after {iso(new.at)}, such as {uid.lower()}"
        say("bad" if before else "note", "only_in_siem",
            f"{name} has {more} events that no entry has, {what}")
    ((twice,),) = new.db.execute("select count(*) from theirs where times > 1")
    lines.append(f"siem       {name}: {found} of {due} found; {more} more than were sent; "
                 f"{twice} twice")

def by_vendor(file: Path, new: Journal, facts: list[Any] | None) -> None:
    with file.open(encoding="utf-8-sig", errors="replace") as text:
        first = fields(text.readline(10_000))
    name, unit = f"source {first.get('source')}", new.units.get(f"source {first.get('source')}")
    begin, end = (instant(str(first.get(key))) for key in ("from", "to"))
    if unit is None or begin is None or end is None:
        new.say("bad", "nothing", f"{file.name} does not begin with source, from and to")
        return
    for n, _ in other_records(new.db, [fact for fact in facts or () if fact[1] == name]):
        new.say("bad", "vendor", f"{name} shows another record than was accepted", None, n)
    late = unit.sums["late"] if facts is None else 0  # by its uid, a late one has a later place
    for n, _, fact in [each for each in facts_in(new, "covered") if each[1] == name]:
        if fact["start"] < begin or fact["end"] > end: continue
        keys = [(at + 2**63).to_bytes(8, "big") + uid for at, uid in new.db.execute(
            "select at, uid from theirs left join ours using (uid) where at >= ? and at < ? and "
            "coalesce(place, 0) < ? order by 1, 2", (fact["start"], fact["end"], fact["before"]))]
        if sha256(b"".join(keys)).hexdigest() != fact["uids"]:
            more, gone = len(keys) - fact["events"], unit.sums["vanished"] + unit.sums["put_aside"]
            new.say("note" if 0 < more <= late or 0 < -more <= gone else "bad", "vendor",
                    f"{name} shows {len(keys)} events from {iso(fact['start'])} to "
                    f"{iso(fact['end'])}, but {fact['events']} were covered, or others", None, n)

def check_proof(path: Path, given: list[Any], report: Report) -> None:
    """Check the proof that one event was accepted, and which sinks took it."""
    def entry_in(each: Any) -> Any:
        if root_by_path(each["line"], each["n"], head.size, each["path"]) != head.root:
            raise ValueError("of another head")
        return entry_of(each["line"].encode() + b"\n")
    try:
        proof, (head,) = json.loads(path.read_bytes()), list(heads_in(path))
        uid, page, entry = proof["uid"], proof["page"], entry_in(proof["accepted"])
        keys, after = base64.b64decode(page["keys"]), list(map(bytes.fromhex, page["after"]))
        index = [keys[i + 8:i + 28].hex() for i in range(0, len(keys), 28)].index(uid)
        digest = chain([sha256(keys).digest(), *after], bytes.fromhex(page["d"]))
        (fact,) = (each for each in entry["facts"]
                   if each["fact"] == "accepted" and each["uids"] == digest)
        first, count = fact["pages"][-1 - len(after)]
        if (entry["unit"], 28 * count) != (f"source {proof['source']}", len(keys)):
            raise ValueError("of another source or page")
        report.lines.append(f"event      {uid} of {proof['source']}: accepted by "
                            f"{iso(entry['at'])}, {fact['via']} (entry {entry['n']})")
        for name, each in sorted(proof["sinks"].items()):
            entry = entry_in(each)
            done = [pair for fact in entry["facts"] for pair in fact.get("done", ())]
            taken = any(start <= first + index < start + count for start, count in done)
            if entry["unit"] != f"sink {name}" or not taken:
                raise ValueError("of another sink")
            dead = any(uid in fact.get("each", ()) for fact in entry["facts"])
            report.lines.append(f"sink       {name} {'refused' if dead else 'took'} it by "
                                f"{iso(entry['at'])} (entry {entry['n']}); if it has it: --siem")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, Stop):
        report.say("bad", "form", f"{path.name} is no proof: a path, a digest or a field is wrong")
        return
    same = [each for each in given if (each.log, each.size) == (head.log, head.size)]
    for each in same:
        if each.root == head.root: report.lines.append(f"head       {head.size} is in {each.where}")
        else: report.say("bad", "rewritten", f"head {head.size} has another root", None, each.where)
    if not same: report.say("note", "no_witness", f"no file has head {head.size}, where it leads")

def summary(new: Journal) -> Iterator[str]:
    yield f"log        {new.log}, {iso(new.first)} .. {iso(new.at)}, {len(new.leaves)} entries"
    for name, unit in sorted(new.units.items()):
        kind, _, short = name.partition(" ")
        ((gaps, hours, filled),) = new.db.execute(
            "select count(*) filter (where kind = 'gap'), total(end - start) filter (where kind = "
            "'gap') / 3.6e9, count(*) filter (where kind = 'filled') from span where unit = ?",
            (name,))
        if unit.state.get("started") is not None:
            yield (f"coverage   {short}: {iso(max(unit.first, unit.begin))} .. "
                   f"{iso(unit.state['covered_until'])}; {gaps} gaps ({hours:.1f} h), {filled} "
                   f"filled; {unit.sums['late']} late, {unit.sums['vanished']} vanished")
        if kind == "source": yield f"accepted   {short}: {unit.sums['accepted']} events"
        letters = unit.sums["dead"] - unit.sums["replayed"] - unit.sums["dropped"]
        if kind == "sink": yield (f"delivered  {short}: all before place "
                                  f"{unit.state.get('position')}; {letters} dead letters")

def parted(old: Journal, new: Journal, say: Any) -> None:  # where an older export and this one part
    both = zip(old.leaves, new.leaves)  # noqa: B905  # one may be longer
    at = next((n for n, (one, other) in enumerate(both) if one != other), len(new.leaves))
    if at < len(old.leaves) and (old.log, at) not in [(each.log, each.n) for each in new.branches]:
        if at == len(new.leaves): say("bad", "cut", f"the older one has {len(old.leaves)} entries")
        else: say("bad", "rewritten", f"entry {at} is not the one of the older export", None, at)

def check(paths: list[Path], witness: list[Path], pins: list[bytes], siems: dict[str, Path],
          vendors: list[Path]) -> dict[str, Any]:
    """Check an export, an older and a newer one, or a proof; return the report."""
    report, given = Report(), [head for path in witness for head in heads_in(path)]
    result: dict[str, Any] = {"log": None, "entries": 0, "until": None,
                              "heads": {"given": len(given)}, "branches": []}
    files = [path / "journal.ndjson" if path.is_dir() else path for path in paths]
    if files[0].suffix == ".json": check_proof(files[0], given, report)
    elif any(path not in paths and not path.exists() for path in files) or not all(
            path.stat().st_size for path in files):
        report.say("bad", "nothing", "there is no journal.ndjson with an entry in it")
    else:
        own = files[-1].parent / "heads.txt"
        named = list(heads_in(own)) if own.exists() else []
        journals = [Journal(path, report, {each.size for each in given + named}) for path in files]
        new = journals[-1]
        report.lines += summary(new)
        judge(given, journals, pins, report.say)
        wrong = [(head, new.verdict(head)) for head in named if new.verdict(head) != "fit"]
        for head, code in wrong[:1]:
            report.say("bad", code, f"{len(wrong)} of its own heads do not fit", None, head.where)
        new.heads |= {head.size: head.root for head in named if new.verdict(head) == "fit"}
        if len(journals) > 1: parted(journals[0], new, report.say)
        result = {"log": new.log, "entries": len(new.leaves), "until": new.at,
                  "heads": by_file(given, witness, new, report),
                  "branches": [vars(branch) for branch in new.branches]}
        listed = (new.path.parent / "uids.ndjson").exists()
        facts = exported(new) if new.whole and (listed or siems or vendors) else None
        for name, file in siems.items() if new.whole else ():
            load(new.db, file)
            in_siem(name, new, facts, report.lines)
        for file in vendors if new.whole else ():
            load(new.db, file)
            by_vendor(file, new, facts)
    whole = all(each["level"] != "bad" for each in report.findings)
    return {"whole": whole, **result, "findings": report.findings, "lines": report.lines}

def main(argv: list[str] | None = None) -> int:
    """Run the command; return 0: whole, 1: not, or nothing is there, 2: wrong usage."""
    parser = argparse.ArgumentParser("auditrelay evidence check", description="Check evidence.")
    parser.add_argument("paths", nargs="+", type=Path, metavar="DIR|FILE",
                        help="an export, an older and a newer one, or a proof.json")
    for name, metavar, text in (
            ("witness", "FILE", "heads from outside: what a SIEM exports, or any text"),
            ("key", "FILE", "a public key that you keep (auditrelay evidence head --public)"),
            ("siem", "SINK=FILE", "the uids, and raw_sha256, that a SIEM has"),
            ("vendor", "FILE", "what a vendor shows (auditrelay verify --list)")):
        parser.add_argument(f"--{name}", action="append", default=[], metavar=metavar, help=text)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    asked = parser.parse_args(argv)
    csv.field_size_limit(1 << 24)
    try:
        pins = [base64.b64decode(Path(file).read_text("ascii").strip(), validate=True)
                for file in asked.key]
        siems = {name: Path(file) for name, _, file in (each.partition("=") for each in asked.siem)}
        if any(len(pin) != 32 for pin in pins) or len(asked.paths) > 2 or Path() in siems.values():
            raise ValueError("a key is 32 bytes in base64, --siem SINK=FILE, two exports at most")
        result = check(asked.paths, list(map(Path, asked.witness)), pins, siems,
                       list(map(Path, asked.vendor)))
    except (OSError, ValueError, OverflowError, csv.Error, sqlite3.Error) as error:
        sys.stderr.write(f"auditrelay evidence check: {error}\n")
        return 2
    lines = result.pop("lines")
    for each in result["findings"]:
        where = each["where"] or ("" if each["entry"] is None else f"entry {each['entry']}")
        text = f"{'BAD ' if each['level'] == 'bad' else 'note'} {each['code']}: {each['what']}"
        text += f" ({where})" * bool(where) + f"\ndo: {each['do']}" * bool(each["do"])
        lines.append(text.replace("\n", "\n     "))
    lines.append(f"whole: nothing before entry {result['entries']} was changed or removed. After it"
                 " nothing is proved yet." if result["whole"] else "not whole")
    text = json.dumps(result, indent=2) if asked.json else "\n".join(lines)
    sys.stdout.write(re.sub(r"[^\n -~]", "?", text) + "\n")  # no sequences that move a cursor
    return 0 if result["whole"] else 1

if __name__ == "__main__":
    raise SystemExit(main())
