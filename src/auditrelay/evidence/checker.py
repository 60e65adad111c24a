"""
Check the evidence of auditrelay: the auditor's program, one file, standard library only.

Each line of journal.ndjson is an *entry*: what a source, a sink or the instance did. The entries
are the leaves of a Merkle tree (RFC 6962). A *head* is the root over the first SIZE of them, as a
word: arh1.LOG.SIZE.ROOT.KEY.SIGNATURE. Heads leave the machine as events, so the SIEM holds them.
Heads from outside are compared with the roots that the entries give, and the entries with each
other. In a line of a SIEM's file the first word of 40 hexadecimal digits is the uid, the first of
64 the digest of the record, the latest time that of its index. Times are in microseconds.
"""

# ruff: noqa: C901, D107, FBT001, FBT002, PLR0912, PLR0913, PLR0914, PLR0915, PLR0917, RUF100, TRY301
import argparse
import base64
import gc
import json
import re
import sys
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from hashlib import sha256, sha512
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HOUR, EVER = 3_600_000_000, 1 << 62
HEAD = r"arh1\.([0-9a-f]{32})\.([0-9]{1,13})\.([0-9a-f]{64})\.(?:([0-9a-f]{8})\.([0-9a-f]{128})|-)"
CLAIM = r'"([^"{}]+)": ?{[^{}]*"accepted": ?(\d{1,15})[^{}]*"covered_until": ?(\d{1,17})'
SPANS = {"covered": 1, "gap": 1, "filled": -1, "retracted": -1}  # how often they count
SUMS = ("accepted", "put_aside", "vanished", "dead", "replayed", "dropped")
NOTES = {"dropped": "letters", "void": "spool", "clock": "clock"}
NOTES |= {"retired": "configuration", "back": "configuration"}
FACTS = {*SPANS, *SUMS, *NOTES, "configured", "reopened", "looked_again", "parcel", "backfill"}
FACTS |= {"forgot", "taken_over", "delivered", "refilled", "began", "started", "stopped", "key"}
FACTS |= {"head", "pruned", "operator", "continued", "restored"}
NUMBERS = ("events", "late", "start", "end", "until", "size")
DO = {
    "rewritten cut fork order form": "keep all files, compare: auditrelay evidence check OLD NEW",
    "branch": "ask who restored or copied it: he runs auditrelay evidence restored",
    "hole spool position letters state known": "read the log of that time; add --siem, --vendor",
    "unsigned key": "ask for the public key of that time, and who may write to the SIEM",
    "head_absent head_foreign not_in_siem only_in_siem changed_in_siem": "ask who edited the SIEM",
    "vendor nothing": "run auditrelay evidence export once more, with --uids",
}
FAULTS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
STRICT = json.JSONDecoder(parse_float=lambda _: None, parse_constant=lambda _: None)
P, ORDER = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493  # Ed25519, RFC 8032
D = -121665 * pow(121666, -1, P) % P
X, Y = (
    int("216936D3CD6E53FEC0A4E231FDD6DC5C692CC7609525A7B2C9562D608F25D51A", 16),
    4 * pow(5, -1, P) % P,
)
BASE: tuple[int, ...] = X, Y, 1, X * Y % P
ZERO: tuple[int, ...] = 0, 1, 1, 0


class Stop(Exception):
    """A fault behind which nothing can be read: its code, and a text."""


def node(left: bytes, right: bytes) -> bytes:
    """Return the hash above two hashes of the tree."""
    return sha256(b"\1" + left + right).digest()


def root_of(parts: list[bytes]) -> str:
    """Return the root of a tree, given the roots of its complete parts."""
    root = parts[-1] if parts else sha256().digest()
    for part in parts[-2::-1]:
        root = node(part, root)
    return root.hex()


def root_by_path(leaf: bytes, n: int, size: int, path: list[str]) -> bytes:
    """Return the root over *size* leaves to which *path* leads; ValueError or IndexError."""
    if (n, size, path) == (0, 1, []):
        return leaf
    half, other = 1 << (size - 1).bit_length() - 1, bytes.fromhex(path[-1])
    if n < half:
        return node(root_by_path(leaf, n, half, path[:-1]), other)
    return node(other, root_by_path(leaf, n - half, size - half, path[:-1]))


def plus(p: tuple[int, ...], q: tuple[int, ...]) -> tuple[int, ...]:
    """Return the sum of two points of the curve."""
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def is_signed(public: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether a key (32 bytes) has made the signature (64 bytes) of a message."""
    y, odd = int.from_bytes(public, "little") & 2**255 - 1, public[31] >> 7
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    x = x if (x * x - square) % P == 0 else x * pow(2, (P - 1) // 4, P) % P
    s = int.from_bytes(signature[32:], "little")
    if (x * x - square) % P or y >= P or (odd and not x) or s >= ORDER:
        return False
    digest = int.from_bytes(sha512(signature[:32] + public + message).digest(), "little") % ORDER
    x = x if x & 1 != odd else P - x
    minus, total = (x, y, 1, x * y % P), ZERO
    choice = (ZERO, BASE, minus, plus(BASE, minus))
    for bit in range(255, -1, -1):  # s times the base minus digest times the key
        total = plus(plus(total, total), choice[(s >> bit & 1) + 2 * (digest >> bit & 1)])
    x, y = (each * pow(total[2], -1, P) % P for each in total[:2])
    return (y | (x & 1) << 255).to_bytes(32, "little") == signature[:32]


def chain(digests: Iterable[bytes], total: bytes = bytes(32)) -> str:
    """Return the digest of pages with these *digests*."""
    for digest in digests:
        total = sha256(total + digest).digest()
    return total.hex()


def iso(at: Any) -> str:
    """Return a time in words."""
    known = type(at) is int and 0 <= at < 250_000_000_000_000_000
    return f"{datetime.fromtimestamp(at // 1_000_000, UTC):%Y-%m-%dT%H:%M:%SZ}" if known else "?"


def latest(text: str) -> int | None:
    """Return the latest time in a line, in seconds or ISO 8601; ValueError if it cannot be."""
    times = re.findall(r"\b1\d{9}\b|\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d", text, re.ASCII)
    each = [int(t) if t.isdigit() else datetime.fromisoformat(t + "Z").timestamp() for t in times]
    return int(max(each)) * 1_000_000 if each else None


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line of a file, whatever is in it."""
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from enumerate(file, 1)


def heads_in(path: Path) -> list[Any]:
    """Return the heads in a file of any kind, each once, and what stands beside them."""
    found = dict[str, Any]()
    for number, text in lines_of(path):
        for word in re.finditer(HEAD, text):
            head = found.setdefault(
                word[0], SimpleNamespace(file=path, size=int(word[2]), state="")
            )
            head.log, head.root, head.key, head.signature = word.group(1, 3, 4, 5)
            head.at, head.claims = latest(text), re.findall(CLAIM, text)
            head.where = f"{path.name} line {number}"
    return list(found.values())


def records_in(path: Path) -> dict[bytes, Any]:
    """Return by uid the record's digest, when it was indexed, and how often, in a SIEM's file."""
    found = dict[bytes, Any]()
    for _, text in lines_of(path):
        if uid := re.search(r"\b[0-9a-f]{40}\b", text):
            raw, times = re.search(r"\b[0-9a-f]{64}\b", text), re.search(r',"?(\d{1,9})"?$', text)
            digest, count = raw[0] if raw else "", int(times[1]) if times else 1
            before, _, more = found.get(bytes.fromhex(uid[0]), (digest, 0, 0))
            digest = digest if digest == before else "two"
            found[bytes.fromhex(uid[0])] = digest, latest(text) or 0, count + more
    return found


def entry_of(line: bytes) -> Any:
    """Return the entry in a line, which must be spelled exactly as it would be written again."""
    body = line.removesuffix(b"\n")
    entry = STRICT.decode(body.decode("ascii"))  # a float becomes null, which is spelled otherwise
    newer = {fact["fact"] for fact in entry["facts"]} - FACTS
    if newer or not body.endswith(b',"v":1}'):
        raise Stop("form", f"is by a newer auditrelay: version {entry['v']}, {newer}")
    same = CANONICAL.encode(entry).encode() == body != line and len(body) <= 60_000
    same &= "".join(entry) == "atfactslognseqsincestateunitv" and b"\\u0000" not in body
    for fact in entry["facts"]:
        same &= all(type(fact.get(key, 0)) is int for key in NUMBERS)
        same &= all(count > 0 for key in ("pages", "done") for _, count in fact.get(key, ()))
    if not same or not re.fullmatch("[0-9a-f]{32}", entry["log"]):
        raise Stop("form", "is not an entry as auditrelay spells it")
    return entry


def levels(ranges: Iterable[tuple[int, int, int]]) -> Iterable[tuple[int, int]]:
    """Yield from where on how many ranges lie there; they are given as start, end, weight."""
    steps, level = Counter[int](), 0
    for start, end, weight in ranges:
        steps[start] += weight
        steps[end] -= weight
    for at in sorted(steps):
        level += steps[at]
        yield at, level


class Report:
    """What was found, and lines about the rest."""

    def __init__(self) -> None:
        self.findings, self.lines = list[dict[str, Any]](), list[str]()

    def say(
        self, code: str, what: str, entry: Any = None, where: Any = None, *, note: bool = False
    ) -> None:
        """Add a finding, which is bad or a note; *where* is a line of a file."""
        do = None if note else next((DO[codes] for codes in DO if code in codes.split()), None)
        finding = {"level": "note" if note else "bad", "code": code, "entry": entry, "at": None}
        self.findings.append(finding | {"where": where, "what": what, "do": do})

    def attempt(self, n: int | None, step: Any, *more: Any) -> bool:
        """Take a step; whatever is not as auditrelay writes it ends in a finding, of entry *n*."""
        try:
            step(*more)
        except (*FAULTS, Stop) as fault:
            code, what = "form", "something is not as auditrelay writes it"
            if isinstance(fault, Stop):
                code, what = fault.args
            where = (
                ""
                if n is None
                else f"line {n + 1} of the journal: from there on only heads count: "
            )
            self.say(code, where + what, n)
            return False
        return True


class Journal:
    """One export: the roots that its lines give, and what its entries say together."""

    def __init__(self, path: Path, wanted: set[int], report: Report) -> None:
        self.path, self.report, self.say = path, report, report.say
        self.whole, self.log, self.at = True, "", 0
        self.exported: list[Any] | None = None
        self.leaves, self.ats, self.roots = list[bytes](), [0], dict[int, str]()
        self.ends, self.seals = dict[str, int](), list[int]()  # of logs; where seals begin
        self.units, self.facts = dict[str, Any](), defaultdict[str, list[Any]](list)
        self.named, self.pages = set[int](), list[Any]()
        parts = list[bytes]()
        with path.open("rb") as file:
            while line := file.readline(60_002):
                size = len(self.leaves)
                if size in wanted or b'"unit":"instance"' in line:
                    self.roots[size] = root_of(parts)
                self.whole = self.whole and report.attempt(size, self.take, line)
                self.leaves.append(part := sha256(b"\0" + line.removesuffix(b"\n")).digest())
                self.ats.append(self.at)
                while size & 1:
                    part, size = node(parts.pop(), part), size >> 1
                parts.append(part)
        self.roots[len(self.leaves)], self.ends[self.log] = root_of(parts), len(self.leaves)
        self.whole = self.whole and report.attempt(None, self.replay)

    def take(self, line: bytes) -> None:
        """Take the next entry, which must follow the others."""
        entry, n = entry_of(line), len(self.leaves)
        at, log, name, facts = entry["at"], entry["log"], entry["unit"], entry["facts"]
        if name not in self.units:
            self.units[name] = SimpleNamespace(seq=0, at=None, state={}, facts=[], sums=Counter())
            vars(self.units[name]).update(done=[], history=[], first=EVER, begin=-EVER)
        unit = self.units[name]
        if (entry["n"], entry["seq"], entry["since"]) != (n, unit.seq + 1, unit.at) or at < self.at:
            raise Stop("order", f"is not entry {n}: number {unit.seq + 1} of {name}")
        left = [fact["log"] for fact in facts if fact["fact"] == "continued"]
        self.ends |= dict.fromkeys(left, n)
        if log in self.ends or (n and left[:1] != [self.log] * (log != self.log)):
            raise Stop("branch", "begins a log that does not say which other one it continues")
        if name == "instance" and n and unit.state is not None:  # a seal begins
            self.seals += [n] * (log == self.log)
            if at - self.at > 3 * HOUR:
                self.say("downtime", f"nothing from {iso(self.at)} to {iso(at)}", n, note=True)
        self.log, self.at, unit.seq, unit.at, unit.state = log, at, unit.seq + 1, at, entry["state"]
        for fact in facts:
            if fact["fact"] == "operator" and fact["did"] == "forget":
                unit.facts, unit.first = [], EVER
            unit.facts.append(SimpleNamespace(n=n, at=at, into=log, unit=name, **fact))
            unit.sums.update({fact["fact"]: fact.get("events", 0), "late": fact.get("late", 0)})
            self.facts[fact["fact"]].append(unit.facts[-1])
        if unit.state and unit.state.get("started") is not None:
            unit.first, end = min(unit.first, unit.state["started"]), unit.state["covered_until"]
            unit.history.append((n, end, unit.state["accepted"]))
            if any(fact["fact"] == "taken_over" for fact in facts):
                unit.begin = end  # nothing is claimed of the time before

    def replay(self) -> None:
        """Compare the entries with each other."""
        for head in self.facts["head"] + self.facts["continued"]:
            if self.roots.get(head.size) != head.root:
                self.say("rewritten", f"head {head.size} has another root in this entry", head.n)
        self.named = {head.size for head in self.facts["head"]}
        for n in {*self.seals} - self.named:
            self.say("order", "the entry does not name the head before it", n)
        for fact in (fact for kind in NOTES for fact in self.facts[kind]):
            self.say(NOTES[fact.fact], CANONICAL.encode(vars(fact)), fact.n, note=True)
        versions = defaultdict[Any, dict[str, Any]](dict)
        for fact in self.facts["configured"]:
            versions[fact.at, fact.digest] |= fact.settings  # several facts have one digest
        for old, new in pairwise(versions):
            both = [(key, versions[old].get(key), versions[new].get(key)) for key in versions[new]]
            what = ", ".join(f"{key} {one} -> {other}" for key, one, other in both if one != other)
            if what:
                self.say("configuration", f"{iso(new[0])}: {what}", note=True)
        paged = self.facts["accepted"] + self.facts["refilled"] + self.facts["replayed"]
        self.pages = [(first, first + count, 1) for fact in paged for first, count in fact.pages]
        for at, level in [*levels(self.pages)][:-1]:
            if level != 1:
                self.say("spool", f"place {at} was given to {level} events")
        for name, unit in self.units.items():
            self.replay_unit(name, unit, unit.state, unit.facts)

    def replay_unit(self, name: str, unit: Any, state: Any, facts: list[Any]) -> None:
        """Compare what a source or a sink did with its state."""
        for key in SUMS:
            if state.get(key, unit.sums[key]) != unit.sums[key]:
                what = f"{name}: {state[key]} {key}, but {unit.sums[key]} by its entries"
                self.say("letters" if name.startswith("sink") else "state", what)
        looked = {str(fact.delay): fact.until for fact in facts if fact.fact == "looked_again"}
        for delay, until in state.get("looked_again", {}).items():
            if until > looked.get(delay, -EVER):
                self.say("state", f"{name}: not yet reswept until {iso(until)} ({delay} s)")
        unit.done = sorted(
            (a, a + count, 1) for f in facts if f.fact == "delivered" for a, count in f.done
        )
        if unit.done and state["position"] is not None:
            stated = [(min(unit.done[0][0], state["position"]), state["position"], -1)]
            stated += [(first, first + count, -1) for first, count in state["ahead"]]
            wrong = [at for at, level in levels(unit.done + stated) if level]
            last = max(self.pages, default=(0, EVER, 0))[1]
            wrong += [end for _, end, _ in unit.done if end > last]
            for at in wrong[:1]:
                self.say("position", f"{name}: its entries settle other places, as from {at} on")
        again = [(fact.start, fact.end) for fact in facts if fact.fact == "reopened"]
        start, end = max(unit.first, unit.begin), state.get("covered_until") or 0
        spans = [(f.start, f.end, SPANS[f.fact]) for f in facts if f.fact in SPANS]
        spans += [(f.start, f.end, -1) for f in facts if f.fact == "gap" and f.reason == "damaged"]
        for at, level in levels([*spans, (start, max(start, end), 0)]):
            spare = level > 1 and any(first <= at < last for first, last in again)
            if start <= at < end and level != 1 and not spare:
                self.say("hole", f"{name}: from {iso(at)} on it is covered or a gap {level} times")

    def verdict(self, head: Any) -> str:
        """Return what this export says of a head."""
        end = self.ends.get(head.log, -1 if self.whole else len(self.leaves))
        if head.size > end:
            return "head_foreign" if end < 0 else "cut" if end == len(self.leaves) else "beyond"
        return "fit" if self.roots[head.size] == head.root else "rewritten"


def trusted_keys(new: Journal, pins: list[bytes]) -> dict[str, bytes]:
    """Return by id the keys that are pinned, and those that a trusted one has signed."""
    trusted = {sha256(pin).hexdigest()[:8]: pin for pin in pins}
    for fact in new.facts["key"]:
        public, signature = bytes.fromhex(fact.public), bytes.fromhex(fact.signature or "")
        fact.id, text = sha256(public).hexdigest()[:8], b"auditrelay key " + fact.public.encode()
        vouched = fact.before in trusted and is_signed(trusted[fact.before], signature, text)
        if not vouched and public not in pins and (pins or fact.before):
            what = f"no known key has signed the new key {fact.id}" if public else "no key any more"
            new.say("key", what, fact.n, note=not pins)
        if vouched or not pins:
            trusted[fact.id] = public
    return trusted


def judge(given: list[Any], journals: list[Journal], pins: list[bytes]) -> None:
    """Give each head from outside its state, and say what does not fit."""
    new, groups = journals[-1], defaultdict[Any, list[Any]](list)
    trusted = trusted_keys(new, pins)
    for head in sorted(given, key=lambda head: -head.size):
        states = [journal.verdict(head) for journal in journals]
        head.state = next((each for each in ("fit", "rewritten") if each in states), states[-1])
        head.dead = states[-1] == "beyond"
        if head.state == "rewritten" and groups[head.log, "fit"]:
            head.state = "fork"  # a larger one fits: two histories of one log
        keys = [fact.id for fact in new.facts["key"] if fact.n < head.size][-1:]
        public = trusted.get(
            head.key if head.key in keys or states[-1] != "fit" or not keys else ""
        )
        root = base64.b64encode(bytes.fromhex(head.root)).decode()
        body = f"auditrelay/{head.log}\n{head.size}\n{root}\n".encode()
        if not head.key and (keys or (pins and not new.facts["key"])):
            head.state = "unsigned"
        elif head.key and trusted:
            signed = public and is_signed(public, bytes.fromhex(head.signature), body)
            head.state = head.state if signed else "key"
        groups[head.log, head.state].append(head)
    for (log, state), heads in [*groups.items()]:
        if state not in ("fit", "beyond"):
            head, fit = heads[-1], [each.size for each in groups[log, "fit"]]
            below = max((size for size in fit if size < head.size), default=0)
            why = [f.reason for f in new.facts["restored"] if state == "fork" and f.n >= below]
            what = (
                f"head {head.size} ({head.where}, indexed {iso(head.at)}), {len(heads)} like it\n"
            )
            what += "; ".join([f"the newest head before it that fits is {below}", *map(str, why)])
            new.say(state, what, where=head.where, note=bool(why))
    for branch in new.facts["continued"]:
        dead = [head for head in given if head.dead and head.log == branch.log]
        left(branch, dead, journals[0], new)


def left(branch: Any, dead: list[Any], old: Journal, new: Journal) -> None:
    """Say what a log that was left had claimed, and whether the new one has made it up."""
    why = [f"uid {fact.by}: {fact.reason}" for fact in new.facts["restored"] if fact.n >= branch.n]
    young = any(head.at and head.at > branch.at + HOUR for head in dead)
    what = f"{branch.log[:6]} was continued as {branch.into[:6]}: {branch.why}"
    what += f" ({'; '.join(why) or 'no operator has said why'})\n"
    what += f"{len(dead)} heads of {branch.log[:6]} lie beyond" + ": two instances ran" * young
    claims = [
        claim for head in sorted(dead, key=lambda head: head.size)[-1:] for claim in head.claims
    ]
    for name, unit in old.units.items() if old.log == branch.log else ():
        claims += [(name[7:], events, end) for _, end, events in unit.history[-1:]]
    for source, claimed, until in claims:
        history = getattr(new.units.get(f"source {source}"), "history", [])
        before = max((events for n, _, events in history if n < branch.n), default=0)
        after = [events for n, end, events in history if n >= branch.n and end >= int(until)]
        made = min(int(claimed), *after[:1], EVER if after else before) - before
        what += f"\n{source} had accepted {int(claimed) - before} more; "
        what += f"made up: {made}; lost: {int(claimed) - before - made}"
    new.say("fork" if young else "branch", what, branch.n, note=bool(why))


def witnessed(path: Path, heads: list[Any], new: Journal) -> int:
    """Say which heads a file from outside lacks between others, or has late; return how many."""
    fit = {head.size: head for head in heads if head.state == "fit"}
    first, last = min(fit, default=0), max(fit, default=0)
    absent = sorted(size for size in new.named - fit.keys() if first < size < last)
    if absent or not heads:
        what = f"{path.name} lacks heads between others, {len(absent)} such as {absent[:1]}, or all"
        new.say("head_absent", what, where=path.name)
    delays = {head.where: head.at - new.ats[size] for size, head in fit.items() if head.at}
    late = [where for where, delay in delays.items() if not -HOUR < delay < 3 * HOUR]
    if late:
        what = f"{len(late)} heads were indexed before their seal, or 3 h after it"
        new.say("late_head", what, where=late[0], note=True)
    new.report.lines.append(f"heads      {path.name} {len(fit)} of {len(heads)} fit")
    return len(absent)


def exported(new: Journal) -> None:
    """Give the facts of accepted pages their uids, and the journal these facts if all have."""
    pages, whole, file = dict[Any, bytes](), True, new.path.parent / "uids.ndjson"
    for line in file.read_bytes().splitlines() if file.exists() else ():
        page = json.loads(line)
        pages[page["n"], page["first"]] = base64.b64decode(page["keys"])
    for fact in new.facts["accepted"]:
        keys = [pages.pop((fact.n, first), b"") for first, _ in fact.pages]
        whole &= [len(each) for each in keys] == [28 * count for _, count in fact.pages]
        fact.uids_of = [[page[i + 8 : i + 28] for i in range(0, len(page), 28)] for page in keys]
        if all(keys) and chain(sha256(page).digest() for page in keys) != fact.uids:
            raise Stop("known", f"{fact.unit}: uids.ndjson has others than it accepted")
    if pages:
        raise Stop("known", f"uids.ndjson has a page that no entry has: {min(pages)}")
    new.exported = new.facts["accepted"] if whole else None


def changed(facts: list[Any], theirs: dict[bytes, Any]) -> Iterator[Any]:
    """Yield the facts all of whose records they have, but not as they were accepted."""
    for fact in facts:
        raws = [[theirs.get(uid, [""])[0] for uid in page] for page in fact.uids_of]
        digests = [sha256("".join(page).encode()).digest() for page in raws]
        if all(map(all, raws)) and chain(digests) != fact.raws:
            yield fact


def is_done(sink: Any, place: int) -> bool:
    """Return whether a sink has settled a place."""
    near = sink.done[max(0, bisect(sink.done, (place, EVER)) - 1) :][:1]
    return any(first <= place < end for first, end, _ in near)


def in_siem(name: str, path: Path, new: Journal, given: list[Any]) -> None:
    """Compare the uids that a SIEM has with those that its sink has settled."""
    facts, sink, theirs = new.exported, new.units.get(f"sink {name}"), records_in(path)
    if facts is None or sink is None:
        raise Stop("nothing", f"{name} is no sink of this export, or it has not all uids")
    for fact in changed(facts, theirs):
        new.say("changed_in_siem", f"{name}: a record of {fact.unit} has another digest", fact.n)
    again = dict[str, int]()  # for a dead letter the place at which it was replayed
    for fact in (each for each in sink.facts if each.fact in ("dead", "replayed")):
        again |= dict.fromkeys(fact.each, fact.pages[0][0] if fact.fact == "replayed" else EVER)
    known = {f"head {head.log} {head.size} {head.root}" for head in given}  # judged as heads
    known.add(f"head {new.log} {len(new.leaves)} {new.roots[len(new.leaves)]}")  # of the next entry
    ours, due = {sha256(each.encode()).digest()[:20] for each in known}, set[bytes]()
    for fact in facts:
        since = sink.state["since"].get(fact.unit.removeprefix("source "), EVER)
        for (first, _), page in zip(fact.pages, fact.uids_of, strict=True):
            ours.update(page)
            for place, uid in enumerate(page, first):
                places = place, again.get(uid.hex(), place)
                if place >= since and all(is_done(sink, each) for each in places):
                    due.add(uid)
    lacks, more = sorted(due - theirs.keys()), sorted(theirs.keys() - ours)
    if lacks:
        new.say("not_in_siem", f"{name} lacks {len(lacks)} of {len(due)}, such as {lacks[0].hex()}")
    if more:
        early = any(theirs[uid][1] <= new.at for uid in more)
        what = f"{name} has {len(more)} that no entry has, such as {more[0].hex()}"
        new.say("only_in_siem", what, note=not early)
    twice = sum(times > 1 for _, _, times in theirs.values())
    new.report.lines.append(
        f"siem       {name}: {len(due) - len(lacks)} of {len(due)} found; {len(more)} more than "
        f"were sent; {twice} twice"
    )


def by_vendor(path: Path, new: Journal) -> None:
    """Compare what a vendor shows with what was covered."""
    asked, *rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    name, begin, end = f"source {asked['source']}", asked["from"], asked["to"]
    if name not in new.units:
        raise Stop("nothing", f"{path.name} is of {name}, which is not in this export")
    mine, sums = [f for f in new.exported or [] if f.unit == name], new.units[name].sums
    theirs = {bytes.fromhex(row["uid"]): (row["raw_sha256"], row["time"]) for row in rows}
    for fact in changed(mine, theirs):
        new.say("vendor", f"{name} shows another record than was accepted", fact.n)
    pages = [
        (first, page) for f in mine for (first, _), page in zip(f.pages, f.uids_of, strict=True)
    ]
    place_of = {uid: place for first, page in pages[::-1] for place, uid in enumerate(page, first)}
    keys = sorted((at + 2**63).to_bytes(8, "big") + uid for uid, (_, at) in theirs.items())
    for fact in (each for each in new.facts["covered"] if each.unit == name):
        if begin <= fact.start and fact.end <= end:
            ends = [bisect(keys, (at + 2**63).to_bytes(8, "big")) for at in (fact.start, fact.end)]
            shown = [key for key in keys[slice(*ends)] if place_of.get(key[8:], 0) < fact.before]
            if sha256(b"".join(shown)).hexdigest() != fact.uids:
                what = (
                    f"{name} shows {len(shown)} events from {iso(fact.start)} on, not {fact.events}"
                )
                gone, late = sums["vanished"] + sums["put_aside"], sums["late"]
                fair = 0 < fact.events - len(shown) <= gone or (  # without uids a late one counts
                    new.exported is None and 0 < len(shown) - fact.events <= late
                )
                new.say("vendor", what, fact.n, note=fair)


def proved(head: Any, each: Any, unit: str) -> Any:
    """Return an entry of a proof, which must lead to the head; ValueError if it does not."""
    entry, leaf = entry_of(f"{each['line']}\n".encode()), b"\0" + each["line"].encode()
    root = root_by_path(sha256(leaf).digest(), each["n"], head.size, each["path"])
    if root.hex() != head.root or entry["unit"] != unit:
        raise ValueError("the entry is of another head or unit")
    return entry


def check_proof(path: Path, given: list[Any], report: Report) -> None:
    """Check the proof that one event was accepted, and which sinks took it."""
    (head,), proof = heads_in(path), json.loads(path.read_bytes())
    uid, page = proof["uid"], proof["page"]
    keys, after = base64.b64decode(page["keys"]), [bytes.fromhex(each) for each in page["after"]]
    index = [keys[i + 8 : i + 28].hex() for i in range(0, len(keys), 28)].index(uid)
    uids = chain([sha256(keys).digest(), *after], bytes.fromhex(page["d"]))
    entry = proved(head, proof["accepted"], f"source {proof['source']}")
    (fact,) = (f for f in entry["facts"] if f["fact"] == "accepted" and f["uids"] == uids)
    first, count = fact["pages"][-1 - len(after)]
    if 28 * count != len(keys):
        raise ValueError("the page is another")
    what = f"event      {uid} of {proof['source']}: accepted by {iso(entry['at'])}, {fact['via']}"
    report.lines.append(f"{what} (entry {entry['n']})")
    for name, each in sorted(proof["sinks"].items()):
        entry = proved(head, each, f"sink {name}")
        done = [pair for fact in entry["facts"] for pair in fact.get("done", ())]
        if not any(start <= first + index < start + count for start, count in done):
            raise ValueError("the entry is of another event")
        did = "refused" if any(uid in f.get("each", ()) for f in entry["facts"]) else "took"
        what = f"sink       {name} {did} it by {iso(entry['at'])} (entry {entry['n']})"
        report.lines.append(f"{what}; if it has it: --siem")
    same = [each for each in given if (each.log, each.size) == (head.log, head.size)]
    for each in same:
        report.lines.append(f"head       {head.size} is in {each.where}")
        if each.root != head.root:
            report.say("rewritten", f"head {head.size} has another root", where=each.where)
    if not same:
        report.say("no_witness", f"no file has head {head.size}, where it leads", note=True)


def check_exports(
    paths: list[Path], given: list[Any], pins: list[bytes], report: Report
) -> Journal:
    """Check an export, or an older and a newer one, by the heads that are given and its own."""
    file = paths[-1].parent / "heads.txt"
    own = heads_in(file) if file.exists() else []
    journals = [Journal(path, {head.size for head in given + own}, report) for path in paths]
    old, new = journals[0], journals[-1]
    report.attempt(None, judge, given, journals, pins)
    for head in [head for head in own if new.verdict(head) != "fit"][:1]:
        report.say(new.verdict(head), "a head in its own heads.txt does not fit", where=head.where)
    both = zip(old.leaves, new.leaves, strict=False)
    parted = next((n for n, (one, other) in enumerate(both) if one != other), len(new.leaves))
    branched = [fact.n for fact in new.facts["continued"] if fact.log == old.log]
    if parted < len(old.leaves) and parted not in branched:
        code = "rewritten" if parted < len(new.leaves) else "cut"
        report.say(code, f"the older export has another entry {parted}", parted)
    if not given:
        report.say("no_witness", "no head from outside: the export fits itself, no more", note=True)
    new.named |= {head.size for head in own}
    report.lines.append(f"log        {new.log}, until {iso(new.at)}, {len(new.leaves)} entries")
    for name, unit in sorted(new.units.items()) if new.whole else ():
        state: dict[str, Any] = {k: v for k, v in unit.state.items() if type(v) is int}
        state |= {key: iso(state[key]) for key in ("started", "covered_until") if key in state}
        gaps = {"gaps": sum(fact.fact == "gap" for fact in unit.facts), "late": unit.sums["late"]}
        state |= gaps if "started" in state else {}
        report.lines.append(f"{name}: " + ", ".join(f"{key} {state[key]}" for key in state))
    return new


def check(
    paths: list[Path],
    witness: list[Path],
    pins: list[bytes],
    siems: dict[str, Path],
    vendors: list[Path],
) -> dict[str, Any]:
    """Check an export, an older and a newer one, or a proof; return the report."""
    report, given = Report(), [head for path in witness for head in heads_in(path)]
    files = [path / "journal.ndjson" if path.is_dir() else path for path in paths]
    result: dict[str, Any] = {"log": None, "entries": 0, "until": None, "branches": []}
    heads = {"given": len(given)}
    if files[0].suffix == ".json":
        report.attempt(None, check_proof, files[0], given, report)
    elif not all((f in paths or f.exists()) and f.stat().st_size for f in files):
        report.say("nothing", "there is no journal.ndjson with an entry in it")
    else:
        new = check_exports(files, given, pins, report)
        by_file = {path: [head for head in given if head.file == path] for path in witness}
        absent = sum(witnessed(path, heads, new) for path, heads in by_file.items())
        states = Counter(head.state for head in given)
        against = states["rewritten"] + states["fork"] + states["cut"]
        heads |= {"fit": states["fit"], "absent": absent, "contradict": against}
        branches = [vars(branch) for branch in new.facts["continued"]]
        result = {"log": new.log, "entries": len(new.leaves), "until": new.at, "branches": branches}
        listed = siems or vendors or (new.path.parent / "uids.ndjson").exists()
        if new.whole and listed and report.attempt(None, exported, new):
            for name, file in siems.items():
                report.attempt(None, in_siem, name, file, new, given)
            for file in vendors:
                report.attempt(None, by_vendor, file, new)
    whole = all(each["level"] == "note" for each in report.findings)
    return {"whole": whole, **result, "heads": heads, **vars(report)}


def main(argv: list[str] | None = None) -> int:
    """Run the command; return 0: whole, 1: not, or nothing is there, 2: wrong usage."""
    parser = argparse.ArgumentParser("auditrelay evidence check", description="Check evidence.")
    parser.add_argument("paths", nargs="+", type=Path, help="an export, two, or a proof.json")
    parser.add_argument("--witness", action="append", default=[], type=Path, help="has heads")
    parser.add_argument("--key", action="append", default=[], type=Path, help="a public key")
    parser.add_argument("--siem", action="append", default=[], help="SINK=FILE, what a SIEM has")
    parser.add_argument("--vendor", action="append", default=[], type=Path, help="by verify --list")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    asked = parser.parse_args(argv)
    gc.disable()  # almost all is kept to the end
    try:
        pins = [base64.b64decode(file.read_bytes().strip(), validate=True) for file in asked.key]
        siems = {name: Path(file) for name, _, file in (each.partition("=") for each in asked.siem)}
        if any(len(pin) != 32 for pin in pins) or len(asked.paths) > 2 or Path() in siems.values():
            raise ValueError("a key is 32 bytes in base64, --siem SINK=FILE, two exports at most")
        result = check(asked.paths, asked.witness, pins, siems, asked.vendor)
    except (OSError, ValueError) as error:
        sys.stderr.write(re.sub(r"\[Errno \d+\] ", "", f"auditrelay evidence check: {error}\n"))
        return 2
    lines = result.pop("lines")
    for each in result["findings"]:
        where = each["where"] or f"entry {each['entry']}" * (each["entry"] is not None)
        level = "BAD " if each["level"] == "bad" else "note"
        what = (each["what"] + f" ({where})" * bool(where)).replace("\n", "\n     ")
        lines.append(f"{level} {each['code']}: {what}")
        lines += [f"     do: {each['do']}"] * bool(each["do"])
    end = f"nothing before entry {result['entries']} was changed or removed. After it nothing is "
    end = f"{end}proved yet." if result["log"] else "the proof fits the head that it leads to."
    lines.append(f"whole: {end}" if result["whole"] else "not whole")
    text = json.dumps(result, indent=2) if asked.json else "\n".join(lines)
    sys.stdout.write(re.sub(r"[^\n -~]", "?", text) + "\n")  # no sequences that move a cursor
    return 0 if result["whole"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
