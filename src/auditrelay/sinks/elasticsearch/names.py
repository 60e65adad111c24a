"""
The index or data stream that an event goes to.

A name with a date is filled in by the event's own time, so that an event that is sent twice meets
itself. But who sets a record's time must not make an index for every day there is: a time that
is not plausible, as seen from when the record was read, is replaced by that. So there are at most
as many names as there are hours, days or months in :data:`PAST` and the life of the relay. Such an
event may meet itself in any of the indices, which are all searched for it.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from auditrelay.events.page import Page
from auditrelay.window import moment

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")

_DIRECTIVE = re.compile(r"%(.?)")

_DATES = "YmdHjGV"

_FORBIDDEN = re.compile(r'[\\/*?"<>| ,#:\x00-\x1f\x7f]')

_FORBIDDEN_IN_STREAM = re.compile(r'[-\\/*?"<>| ,#:\x00-\x1f\x7f]')

_HOUR: Final = 3_600_000_000
"""Microseconds."""

_DAY: Final = 24 * _HOUR

PAST: Final = 400 * _DAY
"""How far back an event's time is plausible: as long as uids are remembered by default."""

FUTURE: Final = _DAY
"""How far ahead: more than any time zone, or clock that is just wrong."""

MAX_TARGETS: Final = 10_000
"""Most targets that are cached; a cache that is full is emptied."""


class IndexName(str):
    """The name of an index or a stream, and where its events may be already."""

    __slots__ = ("searched",)

    searched: str

    @classmethod
    def of(cls, name: str, searched: str) -> Self:
        """Return *name*, whose events may be already in what *searched* names, a pattern or it."""
        made = cls(name)
        made.searched = searched
        return made


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """Where events go: an index or a data stream. Compared by identity, as there is one of each."""

    name: IndexName
    action: bytes
    """The action line up to the id."""
    stream: dict[str, str] | None
    """The parts of a data stream's name."""

    @classmethod
    def of(cls, index: str, vendor: str, source: str, at: int, *, plausible: bool = True) -> Self:
        """Fill in *index* for an event. Characters that a name cannot have become underscores."""
        # In the name of a data stream hyphens separate the parts, and occur nowhere else.
        wrong = _FORBIDDEN_IN_STREAM if is_data_stream(index) else _FORBIDDEN
        known = {"vendor": vendor, "source": source}
        time = moment(at)
        name = _DIRECTIVE.sub(lambda found: _filled_in(found[1], time), index)
        name = _PLACEHOLDER.sub(lambda found: wrong.sub("_", known[found[1]].lower()), name)
        name = name.lstrip("-_+.")
        parts = name.split("-")
        stream = None
        if name.startswith("logs-") and len(parts) == 3:
            # Constant within a stream: the cluster refuses a document with another value.
            stream = dict(zip(("type", "dataset", "namespace"), parts, strict=True))
        action = b'{"create":{"_index":"%b","_id":"' % name.encode()
        return cls(IndexName.of(name, name if plausible else wildcard(index)), action, stream)


class Targets:
    """Caches the targets of *index*: events of one source and one hour have the same."""

    def __init__(self, index: str) -> None:
        self._index = index
        self._dated = is_dated(index)
        self._cache: dict[tuple[str, str, int, bool], Target] = {}

    def of(self, vendor: str, source: str, at: int, fetched: int) -> Target:
        """Return where an event goes that happened *at* and was *fetched* (microseconds)."""
        if not self._dated:
            return self._of(vendor, source, 0)
        if is_plausible(at, fetched):
            return self._of(vendor, source, at)
        return self._of(vendor, source, fetched, plausible=False)

    def of_page(self, page: Page) -> list[Target]:
        """Return where each event of *page* goes."""
        sorts, of = [(sort.vendor, sort.source) for sort in page.sorts], self.of
        if self._dated:
            return [
                of(*sorts[sort], at, fetched)
                for sort, at, fetched in zip(page.sort, page.at, page.fetched, strict=True)
            ]
        targets = [of(*sort, 0, 0) for sort in sorts]
        return [targets[sort] for sort in page.sort]

    def _of(self, vendor: str, source: str, at: int, *, plausible: bool = True) -> Target:
        key = (vendor, source, at // _HOUR, plausible)
        target = self._cache.get(key)
        if target is None:
            if len(self._cache) >= MAX_TARGETS:
                self._cache.clear()
            target = Target.of(self._index, vendor, source, at, plausible=plausible)
            self._cache[key] = target
        return target


def is_plausible(at: int, fetched: int) -> bool:
    """Return whether an event that was *fetched* then can have happened *at*."""
    return fetched - PAST <= at <= fetched + FUTURE


def _filled_in(directive: str, time: datetime) -> str:
    """Return what *directive* stands for; Linux does not pad %Y and %G by itself."""
    text = time.strftime(f"%{directive}")
    return text.zfill(4) if directive in "YG" else text


def is_data_stream(index: str) -> bool:
    """Return whether *index* names a data stream."""
    return index.startswith("logs-") and index.count("-") == 2


def is_dated(index: str) -> bool:
    """Return whether *index* depends on the time of the event."""
    return "%" in index


def wildcard(index: str) -> str:
    """Return the pattern of all names that *index* can become, such as ``audit-*-*.*``."""
    return _DIRECTIVE.sub("*", _PLACEHOLDER.sub("*", index))


def example(index: str) -> str:
    """Return one of the names that *index* can become."""
    return _DIRECTIVE.sub("0", _PLACEHOLDER.sub("x", index))


def check_index(index: str) -> None:
    """Raise ValueError if *index*, filled in, would not be the name of an index."""
    for name in _PLACEHOLDER.findall(index):
        if name not in ("vendor", "source"):
            raise ValueError(f"{{{name}}} is unknown: only {{vendor}} and {{source}} exist")
    for letter in _DIRECTIVE.findall(index):
        if letter not in _DATES or not letter:
            raise ValueError(f"%{letter} is unknown: only %{', %'.join(_DATES)} exist")
    plain = example(index)
    wrong = _FORBIDDEN.search(plain) or re.search(r"[{}]", plain)
    if wrong:
        raise ValueError(f"{index!r}: an index name must not contain {wrong[0]!r}")
    if plain != plain.lower():
        raise ValueError(f"{index!r}: an index name has no capital letters")
    if plain.startswith(("-", "_", "+", ".")) or not plain:
        raise ValueError(f"{index!r}: an index name starts with a letter or a digit")
    if len(plain.encode()) > 255:
        raise ValueError(f"{index!r}: an index name has at most 255 bytes")
