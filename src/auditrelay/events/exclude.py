"""
Which events a sink is not sent: those whose kind and verb, or whose own action, fit a glob. Pure.

Events of auditrelay itself are never excluded: a gap that a sink does not hear of would be silent,
and a head that it does not get could not be compared.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final, NamedTuple

from auditrelay.events import AuditEvent
from auditrelay.events.page import Page, Sort

_REMEMBERED: Final = 1000
"""How many actions are remembered with their globs: the vendors choose how many there are."""


class Sifted(NamedTuple):
    """The rows of a page that are *kept*, and by glob those that are *excluded*."""

    kept: Sequence[int]
    excluded: dict[str, list[int]]


class Exclude:
    """The *globs* of one sink, over ``kind.verb`` and over native actions."""

    def __init__(self, globs: Sequence[str]) -> None:
        self.globs = tuple(globs)
        self._find = lru_cache(_REMEMBERED)(self._first)

    def glob_of(self, event: AuditEvent | Sort) -> str | None:
        """Return the first glob that *event*, or all events of a sort, fit; None: it is sent."""
        if event.notice:
            return None
        return self._find(f"{event.kind}.{event.verb}", event.native_action)

    def sift(self, page: Page) -> Sifted:
        """Return which events of *page* are kept; each sort is looked at once."""
        globs = [self.glob_of(sort) for sort in page.sorts]
        if not any(globs):
            return Sifted(range(len(page)), {})
        kept: list[int] = []
        excluded: dict[str, list[int]] = {}
        lists = [kept if glob is None else excluded.setdefault(glob, []) for glob in globs]
        for row, sort in enumerate(page.sort):
            lists[sort].append(row)
        # A part of a page has all sorts of it: there may be no event of some.
        return Sifted(kept, {glob: rows for glob, rows in excluded.items() if rows})

    def _first(self, kind: str, action: str) -> str | None:
        fits = (glob for glob in self.globs if fnmatchcase(kind, glob) or fnmatchcase(action, glob))
        return next(fits, None)
