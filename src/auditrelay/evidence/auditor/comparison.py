"""
What others say: an older export, the heads in each file, and a SIEM.

The entries say what was accepted and delivered; here that is compared with what other people have.
In a line of a SIEM's file the first word of 40 hexadecimal digits is the uid, the first of 64 the
digest of the record, and the latest time that of its index.
"""

import base64
import json
import re
from bisect import bisect
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from . import allowances
from .checker import Fact, Head, Journal, Report, Stop, iso
from .replay import EVER, HOUR, Replay, Unit

ISO = r"\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d\b)?"
TIME = re.compile(rf"\b1\d{{9}}\b|{ISO}", re.ASCII)
CLAIM = r'"([^"{}]+)": ?{[^{}]*"accepted": ?(\d{1,15})[^{}]*"covered_until": ?(\d{1,17})'


@lru_cache(maxsize=1)  # a line may have many heads
def latest(text: str) -> int | None:
    """Return the latest time in a text, None if there is none; without a zone it is UTC."""
    found = []
    for time in TIME.findall(text):
        with suppress(ValueError):  # such as a 30th of February
            in_words = time if "T" in time else iso(int(time) * 1_000_000)
            moment = datetime.fromisoformat(in_words)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            found.append(int(moment.timestamp()) * 1_000_000)
    return max(found, default=None)


def lines_of(path: Path) -> Iterator[str]:
    """Yield the lines of a file, whatever is in it."""
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from file


# --- heads of a file, logs that were left, an older export ----------------------------------------


def compare_witness(path: Path, heads: list[Head], replay: Replay) -> int:
    """Say which heads a file lacks between others, or has late; return how many it lacks."""
    journal, report = replay.journal, replay.report
    fit = {head.size: head for head in heads if head.state == "fit"}
    # One whose signature was removed is in the file, but is no head of ours.
    sizes = [head.size for head in heads if head.state in {"fit", "unsigned"}]
    first, last = min(sizes, default=0), max(sizes, default=0)
    there = {head.size for head in heads if head.state in {"fit", "key"}}
    made = replay.named | replay.own
    absent = sorted(size for size in made - there if first <= size <= last)
    if absent or not heads:
        what = f"{path.name} lacks heads between others, {len(absent)} such as {absent[:1]}"
        what = what if heads else f"{path.name} has no head: no word arh1.LOG... in UTF-8"
        excused = bool(heads) and all(allowances.was_away(journal, size) for size in absent)
        report.say("note" if excused else "bad", "head_absent", what, where=path.name)
    late = []
    for size, head in fit.items():
        at, sealed = latest(head.line), journal.sealed(size)
        if at is not None and sealed is not None and not -HOUR < at - sealed < 3 * HOUR:
            late.append(f"{head.where}, indexed {iso(at)}, sealed {iso(sealed)}")
    if late:
        what = f"{len(late)} heads were indexed before their seal, or 3 h after it"
        report.say("note", "late_head", what, where=late[0])
    report.lines.append(f"heads      {path.name} {len(fit)} of {len(heads)} fit")
    return len(absent)


def compare_left(given: list[Head], replay: Replay, older: Replay | None) -> None:
    """Say what a log that was left had claimed, and whether the one after it has made it up."""
    for entry, left in replay.journal.facts["continued"]:
        said = any(e["n"] >= entry["n"] for e, _ in replay.journal.facts["restored"])
        log = left["log"]
        dead = [head for head in given if (head.log, head.state) == (log, "beyond")]
        if any((latest(head.line) or 0) > entry["at"] + HOUR for head in dead):
            what = f"heads of {log[:6]} are younger than its end: two instances ran"
            replay.report.say("note" if said else "bad", "fork", what, entry["n"])
        newest = max(dead, key=lambda head: head.size, default=None)
        claims = re.findall(CLAIM, newest.line) if newest else []
        if older and older.journal.log == log:
            units = (unit for unit in older.units.values() if unit.history)
            claims += [(u.name[7:], u.history[-1][2], u.history[-1][1]) for u in units]
        for source, claimed, until in claims:
            unit = replay.units.get(f"source {source}", Unit(source))
            before, made = made_up(unit, entry["n"], int(claimed), int(until))
            what = f"{source} had accepted {int(claimed) - before} more; "
            what += f"made up: {made}; lost: {int(claimed) - before - made}"
            replay.report.say("note", "branch", what, entry["n"])


def made_up(unit: Unit, branch: int, claimed: int, until: int) -> tuple[int, int]:
    """Return what a source had accepted before a branch, and how much of more it then has."""
    before = max((events for n, _, events in unit.history if n < branch), default=0)
    after = [events for n, end, events in unit.history if n >= branch and end >= until]
    return before, min(claimed, after[0] if after else before) - before


def compare_older(older: Journal, journal: Journal, given: list[Head], report: Report) -> None:
    """Compare an export with an older one, which must be the beginning of it, or of a log left."""
    both = zip(older.tree.rows[0], journal.tree.rows[0], strict=False)
    parted = next((n for n, (one, two) in enumerate(both) if one != two), journal.size)
    left = [e["n"] for e, fact in journal.facts["continued"] if fact["log"] == older.log]
    if parted < older.size and parted not in left:
        code = "rewritten" if parted < journal.size else "cut"
        report.say("bad", code, f"the older export has another entry {parted}", parted)
    for head in given:
        if head.state == "beyond" and older.verdict(head) == "rewritten":
            what = f"head {head.size} has another root in the older export"
            report.say("bad", "rewritten", what, where=head.where)


# --- uids -----------------------------------------------------------------------------------------


def chain(digests: Iterable[bytes], total: bytes = bytes(32)) -> str:
    """Return the digest of pages with these *digests*."""
    for digest in digests:
        total = sha256(total + digest).digest()
    return total.hex()


@dataclass
class Accepted:
    """A fact that a source has accepted events, and the uids of its pages."""

    n: int
    source: str
    fact: Fact
    uids: list[list[bytes]]

    def places(self) -> Iterator[tuple[int, bytes]]:
        """Yield place and uid of each event."""
        for (first, _), page in zip(self.fact["pages"], self.uids, strict=True):
            yield from enumerate(page, first)


def accepted_in(journal: Journal) -> tuple[list[Accepted], bool]:
    """Return what was accepted, and whether uids.ndjson has all uids of it."""
    pages: dict[tuple[int, int], bytes] = {}
    file, whole = journal.path.parent / "uids.ndjson", True
    for line in lines_of(file) if file.exists() else ():
        page = json.loads(line)
        pages[page["n"], page["first"]] = base64.b64decode(page["keys"])
    found = []
    for entry, fact in journal.facts["accepted"]:
        keys = [pages.pop((entry["n"], first), b"") for first, _ in fact["pages"]]
        whole &= [len(each) for each in keys] == [28 * count for _, count in fact["pages"]]
        if all(keys) and chain(sha256(page).digest() for page in keys) != fact["uids"]:
            raise Stop("known", f"{entry['unit']}: uids.ndjson has others than it accepted")
        uids = [[page[i + 8 : i + 28] for i in range(0, len(page), 28)] for page in keys]
        found.append(Accepted(entry["n"], entry["unit"].removeprefix("source "), fact, uids))
    if pages:
        raise Stop("known", f"uids.ndjson has a page that no entry has: {min(pages)}")
    return found, whole


def changed(accepted: Iterable[Accepted], theirs: dict[bytes, str]) -> Iterator[Accepted]:
    """Yield the facts all of whose records they have, but with other digests."""
    for each in accepted:
        raws = [[theirs.get(uid, "") for uid in page] for page in each.uids]
        digests = [sha256("".join(page).encode()).digest() for page in raws]
        if all(map(all, raws)) and chain(digests) != each.fact["raws"]:
            yield each


# --- a SIEM ---------------------------------------------------------------------------------------


@dataclass
class Record:
    """An event as a SIEM has it: the digest of its record, when it was indexed, how often."""

    digest: str
    at: int
    times: int


def records_in(path: Path) -> dict[bytes, Record]:
    """Return by uid what a SIEM's file has."""
    found: dict[bytes, Record] = {}
    for line in lines_of(path):
        if uid := re.search(r"\b[0-9a-f]{40}\b", line):
            raw, count = re.search(r"\b[0-9a-f]{64}\b", line), re.search(r',"?(\d{1,9})"?$', line)
            record = Record(raw[0] if raw else "", latest(line) or 0, int(count[1]) if count else 1)
            if before := found.get(bytes.fromhex(uid[0])):
                record.times += before.times
                record.digest = record.digest if record.digest == before.digest else "two"
            found[bytes.fromhex(uid[0])] = record
    return found


def settled(unit: Unit, place: int) -> bool:
    """Return whether a sink has settled a place."""
    at = bisect(unit.done, (place, EVER)) - 1
    return at >= 0 and unit.done[at][0] <= place < unit.done[at][1]


def due_to(sink: Unit, accepted: list[Accepted], journal: Journal) -> set[bytes]:
    """Return the uids that a sink has taken, by its entries."""
    again: dict[str, int] = {}  # for a dead letter the place at which it was replayed
    for fact in sink.facts:
        if fact["fact"] == "dead":
            again |= dict.fromkeys(fact["each"], EVER)
        elif fact["fact"] == "replayed":
            again |= dict.fromkeys(fact["each"], fact["pages"][0][0] if fact["pages"] else EVER)
    since, lost = (sink.state or {})["since"], allowances.lost_by(journal, sink.name)
    sent = [
        (place, uid)
        for each in accepted
        for place, uid in each.places()
        if place >= since.get(each.source, EVER)
    ]
    copies = allowances.copies_for(journal, sink.name)
    sent += [(each.place, bytes.fromhex(each.uid)) for each in copies if each.place is not None]
    return {
        uid
        for place, uid in sent
        if settled(sink, place)
        and settled(sink, again.get(uid.hex(), place))
        and not any(place in places for places in lost)
    }


def compare_siem(
    name: str, path: Path, given: list[Head], accepted: list[Accepted], replay: Replay
) -> None:
    """Compare the uids that a SIEM has with those that its sink has settled."""
    journal, report = replay.journal, replay.report
    sink, theirs = replay.units[f"sink {name}"], records_in(path)
    digests = {uid: record.digest for uid, record in theirs.items()}
    for each in changed(accepted, digests):
        what = f"{name}: a record of source {each.source} has another digest"
        report.say("bad", "changed_in_siem", what, each.n)
    heads = {f"head {head.log} {head.size} {head.root}" for head in given}  # judged as heads
    heads.add(f"head {journal.log} {journal.size} {journal.tree.root(journal.size)}")
    ours = {sha256(head.encode()).digest()[:20] for head in heads}
    ours.update(uid for each in accepted for page in each.uids for uid in page)
    ours.update(bytes.fromhex(copy.uid) for copy in allowances.copies_for(journal, sink.name))
    due, (begun, before) = due_to(sink, accepted, journal), allowances.before_evidence(journal)
    lacks = sorted(due - theirs.keys())
    more = sorted(uid for uid in theirs.keys() - ours if not 0 < theirs[uid].at <= begun)
    if lacks:
        what = f"{name} lacks {len(lacks)} of {len(due)}, such as {lacks[0].hex()}"
        report.say("bad", "not_in_siem", what)
    if more:
        what = f"{name} has {len(more)} that no entry has, such as {more[0].hex()}"
        what += f"; up to {before} are from before the evidence" * bool(before)
        early = sum(theirs[uid].at <= journal.at for uid in more)
        report.say("bad" if early > before else "note", "only_in_siem", what)
    twice = sum(record.times > 1 for record in theirs.values())
    report.lines.append(
        f"siem       {name}: {len(due) - len(lacks)} of {len(due)} found; {len(more)} more than "
        f"were sent; {twice} twice"
    )
