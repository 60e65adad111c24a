"""
What a SIEM holds, compared uid by uid with what its sink has settled.

In a line of a SIEM's file the first word of 40 hexadecimal digits is the uid, the first of 64 the
digest of the record, and the latest time that of its index.
"""

import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from . import allowances
from .checker import Head, Journal
from .comparison import latest
from .replay import EVER, Replay, Unit, is_in
from .uids import Accepted, compared, lines_of

ON_THE_WAY = 600_000_000
"""So long after it was read, or by its SIEM's clock, an event may be accepted, in microseconds."""


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


def sent(unit: Unit, place: int) -> bool:
    """Return whether a sink has settled a place, and was sent what is there."""
    return is_in(unit.done, place, place + 1) and not is_in(unit.excluded, place, place + 1)


def due_to(sink: Unit, accepted: list[Accepted], journal: Journal) -> set[bytes]:
    """Return the uids that a sink has taken, by its entries."""
    again: dict[str, int] = {}  # for a dead letter the place at which it was replayed
    for fact in sink.facts:
        if fact["fact"] == "dead":
            again |= dict.fromkeys(fact["each"], EVER)
        elif fact["fact"] == "replayed":
            again |= dict.fromkeys(fact["each"], fact["pages"][0][0] if fact["pages"] else EVER)
    since, lost = (sink.state or {})["since"], allowances.lost_by(journal, sink.name)
    places = [
        (place, key[8:])
        for each in accepted
        for place, key in each.events()
        if place >= since.get(each.source, EVER)
    ]
    copies = allowances.copies_for(journal, sink.name)
    places += [(each.place, bytes.fromhex(each.uid)) for each in copies if each.place is not None]
    return {
        uid
        for place, uid in places
        if sent(sink, place)
        and sent(sink, again.get(uid.hex(), place))
        and not any(place in each for each in lost)
    }


def compare_siem(
    name: str, path: Path, given: list[Head], accepted: list[Accepted], replay: Replay
) -> None:
    """Compare the uids that a SIEM has with those that its sink has settled."""
    journal, report = replay.journal, replay.report
    sink, theirs = replay.units[f"sink {name}"], records_in(path)
    digests = {uid: record.digest for uid, record in theirs.items()}
    records = 0
    for each, is_changed in compared(accepted, digests):
        records += each.fact["events"]
        if is_changed:
            what = f"{name}: a record of source {each.source} has another digest"
            report.say("bad", "changed_in_siem", what, each.n)
    heads = {f"head {head.log} {head.size} {head.root}" for head in given}  # judged as heads
    heads.add(f"head {journal.log} {journal.size} {journal.tree.root(journal.size)}")
    ours = {sha256(head.encode()).digest()[:20] for head in heads}
    ours.update(key[8:] for each in accepted for _, key in each.events())
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
        early = sum(theirs[uid].at <= journal.at - ON_THE_WAY for uid in more)
        report.say("bad" if early > before else "note", "only_in_siem", what)
    twice = sum(record.times > 1 for record in theirs.values())
    report.lines.append(
        f"siem       {name}: {len(due) - len(lacks)} of {len(due)} found; {len(more)} more than "
        f"were sent; {twice} twice; {sink.sums['excluded']} excluded; {records} of "
        f"{sum(each.fact['events'] for each in accepted)} records compared"
    )
