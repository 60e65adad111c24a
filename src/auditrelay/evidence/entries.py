"""
Entries: the lines that the evidence consists of, one for what a unit did since its last one.

The line that is written is what is hashed, and is never made again: ASCII, sorted keys, no blanks,
whole numbers only. So a check needs no rules of how a value is spelled.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from auditrelay.evidence.facts import Body, halves, text

MAX_LINE: Final = 60_000
"""Bytes of a line: a witness of C2SP takes entries of up to 65,535 (https://c2sp.org/tlog-tiles)."""

_FRAME: Final = 220
"""Bytes of a line that has neither facts nor state nor unit, at most: numbers have 20 digits."""


def lines(
    unit: str,
    facts: Sequence[Body],
    state: Body,
    *,
    log: str,
    n: int,
    seq: int,
    since: int | None,
    at: int,
) -> list[bytes]:
    """
    Return the entry of *unit* as lines, without newlines: one, or several if it is too long.

    *n* is the number of the first in the tree, from 0, *seq* that in its unit, from 1; those of the
    others follow. *at* is now, *since* the *at* of the unit's entry before (None: there is none); a
    further line has the *at* of the line before it. *facts* are merged ones. *state* holds once
    all of them are: it stands in the last line, and the others have ``null`` there.

    Raises ValueError if the state, or a fact that cannot be cut, is longer than a line.
    """
    whole = text(state)
    room = MAX_LINE - _FRAME - len(text(unit))
    if len(whole) > room:
        raise ValueError(f"the state of {unit} is longer than an entry: {len(whole)} bytes")
    groups = list(_groups(facts, room))
    if not groups or _length(groups[-1]) + len(whole) > room:
        groups.append([])
    made: list[bytes] = []
    for number, group in enumerate(groups):
        last = number == len(groups) - 1
        made.append(
            f'{{"at":{at},"facts":[{",".join(group)}],"log":"{log}","n":{n + number},'
            f'"seq":{seq + number},"since":{_number(at if number else since)},'
            f'"state":{whole if last else "null"},"unit":{text(unit)},"v":1}}'.encode("ascii")
        )
    return made


def _groups(facts: Sequence[Body], room: int) -> Iterator[list[str]]:
    """Yield the texts of *facts* in groups that fit into *room* bytes each."""
    group: list[str] = []
    left = room
    for each in facts:
        for part in _parts(each, room):
            if group and len(part) + 1 > left:
                yield group
                group, left = [], room
            group.append(part)
            left -= len(part) + 1
    if group:
        yield group


def _parts(fact: Body, room: int) -> Iterator[str]:
    """Yield the text of *fact*, or of the parts that it must be cut into to fit into *room*."""
    whole = text(fact)
    if len(whole) < room:
        yield whole
        return
    for half in halves(fact):
        yield from _parts(half, room)


def _length(group: Sequence[str]) -> int:
    return sum(len(each) + 1 for each in group)


def _number(value: int | None) -> str:
    return "null" if value is None else str(value)
