"""
What others say: the heads in each file, logs that were left, and an older export.

The entries say what was accepted and delivered; here that is compared with what other people have.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from . import allowances
from .checker import HEAD, Head, Journal, Report, iso
from .replay import HOUR, Replay, Unit
from .uids import OWN, Accepted

ISO = r"\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d\b)?"
TIME = re.compile(rf"\b1\d{{9}}\b|{ISO}", re.ASCII)
UNTOLD = "only uids tell whether that was made up or lost: OLD NEW, both exported with --uids"
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


@lru_cache(maxsize=1)
def alone(line: str) -> str:
    """Return a line with one head; an empty one if it has several, as a reply to a search has."""
    return line if len({word[0] for word in re.finditer(HEAD, line)}) == 1 else ""


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
        at, sealed = latest(alone(head.line)), journal.sealed(size)
        if at is not None and sealed is not None and not -HOUR < at - sealed < 3 * HOUR:
            late.append(f"{head.where}, indexed {iso(at)}, sealed {iso(sealed)}")
    if late:
        what = f"{len(late)} heads were indexed before their seal, or 3 h after it"
        report.say("note", "late_head", what, where=late[0])
    report.lines.append(f"heads      {path.name} {len(fit)} of {len(heads)} fit")
    return len(absent)


def compare_left(
    given: list[Head],
    replay: Replay,
    older: Replay | None,
    mine: list[Accepted] | None,
    theirs: list[Accepted] | None,
) -> None:
    """
    Say what a log that was left had claimed, and what became of that in the one after it.

    *mine* and *theirs* are the uids of the export and of the older one; None: not all are listed.
    """
    for entry, left in replay.journal.facts["continued"]:
        said = any(e["n"] >= entry["n"] for e, _ in replay.journal.facts["restored"])
        log = left["log"]
        dead = [head for head in given if (head.log, head.state) == (log, "beyond")]
        if any((latest(alone(head.line)) or 0) > entry["at"] + HOUR for head in dead):
            what = f"heads of {log[:6]} are younger than its end: two instances ran"
            replay.report.say("note" if said else "bad", "fork", what, entry["n"])
        newest = max(dead, key=lambda head: head.size, default=None)
        found = re.findall(CLAIM, alone(newest.line)) if newest else []
        claims = {source: (int(accepted), int(until)) for source, accepted, until in found}
        shown: dict[str, tuple[int, int]] = {}  # what an export of that log shows, and not a head
        if older and older.journal.log == log:
            units = (unit for unit in older.units.values() if unit.history)
            shown = {unit.name[7:]: (unit.history[-1][2], unit.history[-1][1]) for unit in units}
        for source in sorted({*claims, *shown}):
            unit = replay.units.get(f"source {source}", Unit(source))
            before = max((count for n, _, count in unit.history if n < entry["n"]), default=0)
            own = None if mine is None else [each for each in mine if each.source == source]
            if shown.get(source, (0, 0))[0] > before:
                more, until = shown[source][0] - before, shown[source][1]
                became = UNTOLD
                if own is not None and theirs is not None:
                    lived = (e for e in theirs if e.source == source and e.n >= entry["n"])
                    became = by_uid(own, lived)
                what = f"{source} had accepted {more} more, until {iso(until)}; {became}"
                replay.report.say("note", "branch", what, entry["n"])
                before = shown[source][0]
            if claims.get(source, (0, 0))[0] > before:
                more, until = claims[source][0] - before, claims[source][1]
                became = UNTOLD
                if source in shown:
                    became = "the older export does not show these: give a later one"
                elif own is not None:
                    became = by_time([e for e in own if e.n >= entry["n"]], more, until)
                what = f"{source} had accepted {more} more, until {iso(until)}; {became}"
                replay.report.say("note", "branch", what, entry["n"])


def by_uid(mine: list[Accepted], dead: Iterable[Accepted]) -> str:
    """Return how many of the events that the dead log has accepted the other one has, or lacks."""
    uids = {key[8:] for each in mine for _, key in each.events()}
    pages = [(each.fact["via"] in OWN, each.events()) for each in dead]
    had = [key for is_own, events in pages if not is_own for _, key in events]
    notices = sum(1 for is_own, events in pages if is_own for _ in events)
    lost = sorted(key for key in had if key[8:] not in uids)
    became = f"made up: {len(had) - len(lost)}; lost: {len(lost)}"
    if lost:
        first, last = (iso(int.from_bytes(key[:8]) - 2**63) for key in (lost[0], lost[-1]))
        became += f", from {first} to {last}, such as {lost[0][8:].hex()}"
    return became + f"; of auditrelay itself or replayed: {notices}" * bool(notices)


def by_time(since: list[Accepted], more: int, until: int) -> str:
    """Return what is known of *more* events of the dead log of which there are no uids."""
    end = (until + 2**63).to_bytes(8)
    count = sum(key[:8] < end for each in since for _, key in each.events())
    became = f"of before that time {count} were accepted since"
    if count < more:
        return f"{became}, so {more - count} or more are lost, events of auditrelay itself included"
    return f"{became}; whether these are the same only both exports with uids tell: OLD NEW"


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
