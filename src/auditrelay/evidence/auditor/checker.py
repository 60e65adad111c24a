"""
The auditor's checker: was the record changed after its heads had left the machine.

An export has journal.ndjson, a line for each *entry*: what a source, a sink or the instance did.
The lines are the leaves of a Merkle tree (RFC 6962). A *head* is the root over the first SIZE of
them, as a word: arh1.LOG.SIZE.ROOT.KEY.SIGNATURE. Heads leave the machine as events at once, so a
SIEM has them, and a line before one cannot be changed without the root being another.

This file alone proves that: the lines are spelled and numbered as they must be, each head from
outside has the root that they give, and a log that goes on as another one says so. Its report is
JSON: python3 -I -S checker.py EXPORT HEADS... The files beside it import it and add to it; none of
them imports what wrote the entries.
"""

import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

Entry = dict[str, Any]
Fact = dict[str, Any]
Step = Callable[..., None]

LONGEST = 60_000  # bytes of a line
FIELDS = ["at", "facts", "log", "n", "seq", "since", "state", "unit", "v"]
HEAD = r"arh1\.([0-9a-f]{32})\.([0-9]{1,13})\.([0-9a-f]{64})\.(?:([0-9a-f]{8})\.([0-9a-f]{128})|-)"
# What reading may raise if it is not as auditrelay writes it.
FAULTS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
STRICT = json.JSONDecoder(parse_float=lambda _: None, parse_constant=lambda _: None)
SPELLED = json.JSONEncoder(sort_keys=True, separators=(",", ":"), check_circular=False)
COMPARE = "keep all files, compare: auditrelay evidence check OLD NEW"
DO = dict.fromkeys(("rewritten", "cut", "fork", "order", "form"), COMPARE)  # by code: what to do
DO["head_foreign"] = "ask who edited the SIEM"
DO["branch"] = "ask who restored or copied it: he runs auditrelay evidence restored"
DO["nothing"] = "run auditrelay evidence export once more, with --uids"


class Stop(Exception):
    """A fault behind which nothing can be read: its code, and a text."""


class Report:
    """The findings, each bad or a note, and lines about what was compared."""

    def __init__(self) -> None:
        self.findings: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self.entries: list[Entry] = []

    def say(
        self, level: str, code: str, what: str, entry: int | None = None, where: str | None = None
    ) -> None:
        """Add what is "bad", or a "note", about an *entry*, by its number, or a line of a file."""
        at = None if entry is None or entry >= len(self.entries) else self.entries[entry]["at"]
        do = DO.get(code) if level == "bad" else None
        each = {"level": level, "code": code, "entry": entry, "at": at, "where": where}
        self.findings.append({**each, "what": what, "do": do})

    def attempt(self, entry: int | None, step: Step, *given: Any) -> bool:
        """Take a step; a fault in what it reads becomes a finding. Return whether there is none."""
        try:
            step(*given)
        except (*FAULTS, Stop) as fault:
            code, what = "form", "something is not as auditrelay writes it"
            if isinstance(fault, Stop):
                code, what = fault.args
            if entry is not None:
                what = f"line {entry + 1} of the journal: from there on only heads count: {what}"
            self.say("bad", code, what, entry)
            return False
        return True


def iso(at: Any) -> str:
    """Return a time, microseconds since 1970, in words."""
    known = type(at) is int and 0 <= at < 250_000_000_000_000_000
    return f"{datetime.fromtimestamp(at // 1_000_000, UTC):%Y-%m-%dT%H:%M:%SZ}" if known else "?"


@dataclass(eq=False)
class Head:
    """A head in a file, and what came of it: *state* is fit, beyond (a log left), or a code."""

    log: str
    size: int
    root: str
    key: str | None
    signature: str | None
    file: Path
    where: str
    line: str  # what stands around it
    state: str = ""


def heads_in(path: Path) -> list[Head]:
    """Return the heads in a file of any kind, each once."""
    found: dict[str, Head] = {}
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            for word in re.finditer(HEAD, line):
                log, size, root, key, signature = word.groups()
                where = f"{path.name} line {number}"
                found[word[0]] = Head(log, int(size), root, key, signature, path, where, line)
    return list(found.values())


def node(left: bytes, right: bytes) -> bytes:
    """Return the hash above two hashes of the tree."""
    return sha256(b"\1" + left + right).digest()


class Tree:
    """The roots of a growing list of lines: rows[k] has those over each 2^k of them."""

    def __init__(self) -> None:
        self.rows: list[list[bytes]] = []

    def append(self, line: bytes) -> None:
        """Put a line behind the others."""
        root = sha256(b"\0" + line).digest()
        for row in self.rows:
            row.append(root)
            if len(row) % 2:
                return
            root = node(row[-2], row[-1])
        self.rows.append([root])

    def root(self, size: int) -> str:
        """Return the root over the first *size* lines; IndexError if there are fewer."""
        root, end = None, size
        for row in self.rows:  # from the shortest part, which is the last one, to the first
            if end % 2:
                root = row[end - 1] if root is None else node(row[end - 1], root)
            end //= 2
        if end:
            raise IndexError(size)
        return (root or sha256().digest()).hex()


def entry_of(line: bytes) -> Entry:
    """Return the entry in a line, which must be spelled exactly as it would be written again."""
    text = line.removesuffix(b"\n").decode("ascii")
    entry: Entry = STRICT.raw_decode(text)[0]  # 1e3 becomes null, which is spelled otherwise
    if not text.endswith(',"v":1}'):
        raise Stop("form", "is by a newer auditrelay (take its checker), or has another line end")
    spelled = SPELLED.encode(entry) == text and len(line) == len(text) + 1 <= LONGEST + 1
    numbers = type(entry["at"]) is type(entry["n"]) is type(entry["seq"]) is int
    if not (spelled and numbers and list(entry) == FIELDS) or "\\u0000" in text:
        raise Stop("form", "is not an entry as auditrelay spells it")
    return entry


class Journal:
    """An export: the tree of its lines, and its entries up to the first that does not follow."""

    def __init__(self, path: Path, report: Report) -> None:
        self.path, self.tree = path, Tree()
        self.entries = report.entries
        self.facts: dict[str, list[tuple[Entry, Fact]]] = defaultdict(list)  # by kind
        self.log, self.at, self.size, self.whole = "", 0, 0, True
        self.ends: dict[str, int] = {}  # of each log: the first entry that is not in it
        self.last: dict[str, tuple[int, int | None]] = {}  # of each unit: seq, and at
        with path.open("rb") as file:
            while line := file.readline(LONGEST + 2):
                self.whole = self.whole and report.attempt(self.size, self.take, line)
                self.tree.append(line.removesuffix(b"\n"))
                self.size += 1
        self.ends[self.log] = self.size

    def take(self, line: bytes) -> None:
        """Take the next entry, which must follow the others."""
        entry = entry_of(line)
        at, log, unit = entry["at"], entry["log"], entry["unit"]
        seq, since = self.last.get(unit, (0, None))
        order = entry["n"], entry["seq"], entry["since"]
        if order != (self.size, seq + 1, since) or at < self.at:
            raise Stop("order", f"is not entry {self.size}: number {seq + 1} of {unit}")
        left = [fact for fact in entry["facts"] if fact["fact"] == "continued"]
        for fact in left:
            self.ends[fact["log"]] = self.size
            if self.tree.root(fact["size"]) != fact["root"]:
                raise Stop("rewritten", f"continues a log whose head {fact['size']} was another")
        before = [self.log] if self.entries and log != self.log else []
        if log in self.ends or (self.entries and [fact["log"] for fact in left[:1]] != before):
            raise Stop("branch", "begins a log that does not say which other one it continues")
        self.log, self.at, self.last[unit] = log, at, (seq + 1, at)
        self.entries.append(entry)
        for fact in entry["facts"]:
            self.facts[fact["fact"]].append((entry, fact))

    def sealed(self, size: int) -> int | None:
        """Return when the head of a size was made, None if that is not known."""
        return self.entries[size - 1]["at"] if 0 < size <= len(self.entries) else None

    def verdict(self, head: Head) -> str:
        """Return what this export says of a head."""
        end = self.ends.get(head.log, -1 if self.whole else self.size)
        if head.size > end:
            return "head_foreign" if end < 0 else "cut" if end == self.size else "beyond"
        return "fit" if self.tree.root(head.size) == head.root else "rewritten"


def judge(given: list[Head], journal: Journal) -> None:
    """Give each head from outside its state."""
    fitting = set()
    for head in sorted(given, key=lambda head: -head.size):
        head.state = journal.verdict(head)
        if head.state == "fit":
            fitting.add(head.log)
        elif head.state == "rewritten" and head.log in fitting:
            head.state = "fork"  # a larger one fits: two histories of one log


def reasons(journal: Journal, since: int) -> list[str]:
    """Return why operators have restored, copied or moved the state, from an entry on."""
    later = [fact for entry, fact in journal.facts["restored"] if entry["n"] >= since]
    return [f"uid {fact['by']}: {fact['reason']}" for fact in later]


def say_heads(given: list[Head], journal: Journal, report: Report) -> None:
    """Say which heads do not fit, once for those of one log and one state."""
    groups: dict[tuple[str, str], list[Head]] = {}
    for head in sorted(given, key=lambda head: head.size):
        groups.setdefault((head.log, head.state), []).append(head)
    for (log, state), heads in groups.items():
        if state in {"fit", "beyond"}:
            continue
        first, fit = heads[0], groups.get((log, "fit"), [])
        below = max((head.size for head in fit if head.size < first.size), default=0)
        why = reasons(journal, below) if state == "fork" else []
        what = (
            f"head {first.size} ({first.where}), {len(heads)} like it\nthe newest head before it "
        )
        what += f"that fits is {below}, of {iso(journal.sealed(below))}"
        level = "note" if why else "bad"
        report.say(level, state, "; ".join([what, *why]), where=first.where)


def say_branches(given: list[Head], journal: Journal, report: Report) -> None:
    """Say which logs were continued as another one; a note if an operator has said why."""
    for entry, left in journal.facts["continued"]:
        why, old = reasons(journal, entry["n"]), left["log"]
        dead = [head for head in given if (head.log, head.state) == (old, "beyond")]
        what = f"{old[:6]} was continued as {entry['log'][:6]}: {left['why']}"
        what += f" ({'; '.join(why) or 'no operator has said why'})\n"
        what += f"{len(dead)} heads of {old[:6]} lie beyond"
        report.say("note" if why else "bad", "branch", what, entry["n"])


def journal_in(path: Path) -> Path | None:
    """Return the journal of an export, a folder or the file itself; None if nothing is in it."""
    file = path / "journal.ndjson" if path.is_dir() else path
    return file if (file == path or file.exists()) and file.stat().st_size else None


def check(path: Path, witness: list[Path], further: Step = lambda *_: None) -> dict[str, Any]:
    """Check an export against the heads in some files, and *further*; return the report."""
    report, given = Report(), [head for file in witness for head in heads_in(file)]
    if (file := journal_in(path)) is None:
        report.say("bad", "nothing", "there is no journal.ndjson with an entry in it")
        return result_of(report, given)
    journal = Journal(file, report)
    judge(given, journal)
    further(given, journal, report)
    for step in (say_heads, say_branches):
        report.attempt(None, step, given, journal, report)
    if not given:
        report.say("note", "no_witness", "no head from outside: the export fits itself, no more")
    return result_of(report, given, journal)


def result_of(report: Report, given: list[Head], journal: Journal | None = None) -> dict[str, Any]:
    """Return the report as JSON; null: which heads the files lack is not looked at here."""
    log, size, until, left = None, 0, None, list[Fact]()
    if journal:
        log, size, until = journal.log or None, journal.size, journal.at or None
        left = [{**fact, "n": entry["n"]} for entry, fact in journal.facts["continued"]]
    states = Counter(head.state for head in given)
    against = states["rewritten"] + states["fork"] + states["cut"]
    heads = {"given": len(given), "fit": states["fit"], "absent": None, "contradict": against}
    whole = all(each["level"] == "note" for each in report.findings)
    about = {"whole": whole, "log": log, "entries": size, "until": until, "heads": heads}
    return {**about, "branches": left, "findings": report.findings, "lines": report.lines}


if __name__ == "__main__":
    try:
        export, *files = map(Path, sys.argv[1:])
        found = check(export, files)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"python3 checker.py EXPORT HEADS...: {error}\n")
        raise SystemExit(2) from None
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    raise SystemExit(not found["whole"])
