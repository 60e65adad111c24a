"""Compare heads from outside, and the tip, with the entries."""

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from auditrelay.evidence.heads import Head
from auditrelay.evidence.tree import Frontier, leaf
from auditrelay.store.sql.check_report import FAULTS, Checked, Finding, bad
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.evidence import entries
from auditrelay.window import iso, micros, moment


def with_heads(db: Connection, checked: Checked, given: Sequence[tuple[str, Head]]) -> Checked:
    """Return *checked* with what contradicts the heads *given*: each with where it was found."""
    roots, ends = _log(db, {head.size for _, head in given})
    log = checked.log or ""
    ends[log] = max(roots)
    found: dict[Head, Finding] = {}
    beyond: dict[str, list[int]] = {}
    fitting: dict[str, set[int]] = {}
    fit = contradict = 0
    for where, head in given:
        end = ends.get(head.log)
        if end is not None and head.size > end and head.log != log:
            beyond.setdefault(head.log, []).append(head.size)
        elif (finding := _contradiction(where, head, roots, end)) is None:
            fit += 1
            fitting.setdefault(where, set()).add(head.size)
        else:
            contradict += finding.code != "head_foreign"
            found.setdefault(head, finding)
    lacks = [*_absent(db, {where: sizes for where, sizes in fitting.items() if len(sizes) > 1})]
    kept = [each for each in checked.findings if each.code != "branch"]
    left = [
        each.finding(len(sizes), max(sizes, default=0))
        for each in checked.branches
        for sizes in [beyond.get(each.log, [])]
    ]
    return dataclasses.replace(
        checked,
        heads=checked.heads + len(given),
        fit=checked.fit + fit,
        contradict=checked.contradict + contradict,
        absent=sum(count for count, _ in lacks),
        findings=(*kept, *left, *found.values(), *(finding for _, finding in lacks)),
    )


def _absent(
    db: Connection, fitting: Mapping[str, Collection[int]]
) -> Iterator[tuple[int, Finding]]:
    """Yield how many heads each file lacks between those that are *fitting*, and a note of it."""
    for where, sizes in fitting.items():
        query = "select size from head where size > ? and size < ? order by size"
        rows = db.execute(query, (min(sizes), max(sizes)))
        lacks = [size for (size,) in rows if size not in sizes]
        if lacks:
            what = f"{len(lacks)} heads between others are missing, such as that over {lacks[0]}"
            note = dataclasses.replace(bad("head_absent", what, where=where), level="note")
            yield len(lacks), note


def _log(db: Connection, wanted: Collection[int]) -> tuple[dict[int, bytes], dict[str, int]]:
    """Return the roots over all entries and over the first *wanted*, and where logs were left."""
    frontier = Frontier()
    roots = {0: frontier.root()}
    ends: dict[str, int] = {}
    for n, text in entries(db):
        if '"fact":"continued"' in text:
            ends |= _left(text, n)
        frontier.append(leaf(text.encode()))
        if frontier.size in wanted:
            roots[frontier.size] = frontier.root()
    for (text,) in db.execute("select text from fact where text like '%\"continued\"%'"):
        ends |= _left(f'{{"facts":[{text}]}}', frontier.size)
    return roots | {frontier.size: frontier.root()}, ends


def _left(line: str, n: int) -> dict[str, int]:
    """Return the logs that were left for another one with the entry *n*: up to which entry each."""
    try:
        return {
            fact["log"]: min(n, fact["size"])
            for fact in json.loads(line)["facts"]
            if fact["fact"] == "continued"
        }
    except FAULTS:  # which is a finding of the check
        return {}


def _contradiction(
    where: str, head: Head, roots: Mapping[int, bytes], end: int | None
) -> Finding | None:
    """Return what is wrong with a *head*, if anything; its log ends at *end* (None: unknown)."""
    if end is None:
        what = f"head {head.size} is of log {head.log}, which is not known here"
        return bad("head_foreign", what, where=where)
    if head.size > end:
        what = f"the head is over {head.size} entries, and there are {end}"
        return bad("cut", what, where=where)
    if roots[head.size] != head.root:
        what = f"the entries give another root than the head over the first {head.size} tells"
        return bad("rewritten", what, where=where)
    return None


def with_age(checked: Checked, now: datetime, most: timedelta) -> Checked:
    """Return *checked* with a finding if its newest head is older than *most* at *now*."""
    if checked.until is None or micros(now) - checked.until <= most / timedelta(microseconds=1):
        return checked
    what = f"the newest head is of {iso(moment(checked.until))}: nothing was sealed since"
    finding = bad("downtime", what, at=checked.until)
    return dataclasses.replace(checked, findings=(*checked.findings, finding))
