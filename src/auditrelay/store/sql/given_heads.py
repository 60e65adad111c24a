"""Compare heads from outside, and the tip, with the entries."""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from auditrelay.evidence.heads import Head
from auditrelay.evidence.tree import Frontier, leaf
from auditrelay.store.sql.checks import FAULTS, Checked, Finding, bad
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.evidence import entries
from auditrelay.window import iso, micros, moment

_EXPLAINED: Final = "an operator has said why; what was lost is shown by: auditrelay evidence check"


def with_heads(db: Connection, checked: Checked, given: Sequence[tuple[str, Head]]) -> Checked:
    """Return *checked* with what contradicts the heads *given*: each with where it was found."""
    roots, ends, said = _log(db, {head.size for _, head in given})
    log = checked.log or ""
    ends[log] = max(roots)
    findings: dict[object, Finding] = {}
    contradict = 0
    for where, head in given:
        finding = _contradiction(where, head, roots, ends, log)
        if finding is None:
            continue
        contradict += 1
        about: object = head
        if finding.code == "branch":  # one for all heads of a log that was left
            about = head.log
            if said >= ends[head.log]:
                contradict -= 1
                finding = dataclasses.replace(finding, level="note", do=_EXPLAINED)
        findings.setdefault(about, finding)
    return dataclasses.replace(
        checked,
        heads=checked.heads + len(given),
        contradict=checked.contradict + contradict,
        findings=(*checked.findings, *findings.values()),
    )


def _log(db: Connection, wanted: Collection[int]) -> tuple[dict[int, bytes], dict[str, int], int]:
    """
    Return the roots over all entries and over the first *wanted*, and what is said of branches.

    That is where each log ends that was left, and before which entry an operator last said why.
    """
    frontier = Frontier()
    roots = {0: frontier.root()}
    ends: dict[str, int] = {}
    said = -1
    for n, text in entries(db):
        if '"fact":"continued"' in text:
            ends |= _left(text, n)
        if '"fact":"restored"' in text:
            said = n
        frontier.append(leaf(text.encode()))
        if frontier.size in wanted:
            roots[frontier.size] = frontier.root()
    for (text,) in db.execute("select text from fact where text like '%\"continued\"%'"):
        ends |= _left(f'{{"facts":[{text}]}}', frontier.size)
    query = 'select 1 from fact where text like \'%"fact":"restored"%\''
    if db.execute(query).fetchone():
        said = frontier.size
    return roots | {frontier.size: frontier.root()}, ends, said


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
    where: str, head: Head, roots: Mapping[int, bytes], ends: Mapping[str, int], log: str
) -> Finding | None:
    """Return what is wrong with a *head*, if anything; *log* is the one that goes on."""
    end = ends.get(head.log)
    if end is None:
        what = f"head {head.size} is of log {head.log}, which is not known here"
        return bad("head_foreign", what, where=where)
    if head.size > end:
        if head.log == log:
            return bad(
                "cut", f"the head is over {head.size} entries, and there are {end}", where=where
            )
        what = f"log {head.log} was left at entry {end}, and the head is over {head.size} of it"
        return bad("branch", what, where=where, entry=end)
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
