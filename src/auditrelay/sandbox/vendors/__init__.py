"""
What the doubles of all vendors have in common, and what they say about themselves.

A vendor's double is a module of this folder with one class that is a :class:`Vendor`; it is found
by that, and its name is the module's. What a test of every vendor must know of one of them stands
in the class: how a source is pointed at it, how it refuses, and which of its switches let nobody
read everything.
"""

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import formatdate
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from auditrelay.sandbox.history import History, Records, over_rate
from auditrelay.sandbox.server import Double

SwitchValue = tuple[str, object]
"""A switch and a value of it."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """
    A way in which a vendor refuses everything until an operator acts.

    *provoke* brings it about and returns what is to be different in the table of the source. The
    answer then has *status*, and *words* in it.
    """

    name: str
    status: int
    words: str
    provoke: Callable[[Any], Mapping[str, Any]]


def by_setting(
    table: Mapping[str, Any] | None = None, /, **switches: Any
) -> Callable[["Vendor"], Mapping[str, Any]]:
    """Return what turns *switches*, and changes *table* in that of the source."""

    def provoke(double: "Vendor") -> Mapping[str, Any]:
        for name, value in switches.items():
            setattr(double.switches, name, value)
        return table or {}

    return provoke


class Vendor(Double, ABC):
    """
    An audit-log API. Put records in with :meth:`add`; turn :attr:`switches` at any time.

    *before_page* holds what is to be done once, just before page *n* of a list is read: rows that
    arrive or vanish in the middle of a walk. Subclasses implement :meth:`add`, :meth:`settings` and
    :meth:`respond`.
    """

    REFUSALS: ClassVar[tuple[Refusal, ...]] = ()
    """Every documented refusal, and those that are open as the vendor is likely to give them."""

    MUST_FAIL: ClassVar[frozenset[SwitchValue]] = frozenset()
    """Switches under which a long list cannot be read to its end, and a source must say so."""

    SILENT_LOSS: ClassVar[frozenset[SwitchValue]] = frozenset()
    """Switches under which rows are left out, and nothing in the answers tells."""

    UNSTABLE_ORDER: ClassVar[frozenset[SwitchValue]] = frozenset()
    """Switches under which rows change places by themselves: one walk may not be enough."""

    ID_FIELDS: ClassVar[tuple[str, ...]] = ("id",)
    """Where a record has its id: the first of them that it has."""

    MIN_PAGE_SIZE: ClassVar[int] = 1
    """Rows that a source must be able to ask for at once."""

    EXTRA_REQUESTS: ClassVar[int] = 0
    """Requests that a source needs before the first page of a walk."""

    EXPORTS: ClassVar[tuple[str, ...]] = ()
    """The kinds of files that the vendor exports, for people to drop into a folder."""

    REPORTS_TOTAL: ClassVar[bool] = True
    """Whether a page tells how many rows the whole list has."""

    switches: Any
    api_key: str

    def __init__(
        self,
        *,
        history: Records | None = None,
        clock: Callable[[], float] = time.time,
        seed: int = 0,
    ) -> None:
        super().__init__(clock=clock, seed=seed)
        self.history = History()
        self.records: Records = history or self.history
        self.before_page: dict[int, Callable[[], object]] = {}
        self._recent: deque[float] = deque()

    @classmethod
    def switch_values(cls) -> Iterator[SwitchValue]:
        """Yield every switch with each of its values, where those are a few."""
        for name, wanted in get_type_hints(cls.__annotations__["switches"]).items():
            # A choice of words, which may be left out: Literal[...] | None.
            parts = get_args(wanted) if get_origin(wanted) in (Union, UnionType) else (wanted,)
            if bool in parts:
                yield from ((name, value) for value in (False, True))
            elif any(get_origin(part) is Literal for part in parts):
                for part in parts:
                    yield from ((name, value) for value in get_args(part) or (None,))

    @property
    def secret(self) -> str:
        """What a source proves itself with, and must show to nobody else."""
        return self.api_key

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the table of a source that reads this double; it must have been started."""

    def file_settings(self, directory: Path) -> dict[str, Any]:
        """Return the table of a source that reads the exports in *directory*."""
        raise NotImplementedError(f"{type(self).__name__} exports nothing")

    def drop(self, directory: Path, kind: Any) -> Path:
        """Export everything into *directory*, as one of :attr:`EXPORTS`; return the file."""
        raise NotImplementedError(f"{type(self).__name__} exports nothing")

    @abstractmethod
    def add(
        self,
        at: datetime,
        *,
        visible_from: datetime | None = None,
        gone_from: datetime | None = None,
        **fields: Any,
    ) -> str:
        """Make one record that happened *at*, with *fields* of its own; return its native id."""

    def fill(self, count: int, start: datetime, end: datetime) -> list[str]:
        """Make *count* records at equal distances over ``[start, end)``; return their ids."""
        return [self.add(start + (end - start) * number / count) for number in range(count)]

    def load(self, count: int, start: datetime, end: datetime, record_bytes: int) -> None:
        """Hold *count* records of about *record_bytes* bytes, by what is cheapest to keep."""
        raise NotImplementedError(f"{type(self).__name__} has no records for load")

    def rotate(self, key: str) -> None:
        """Accept only *key* from now on."""
        self.api_key = key

    def _over_rate(self) -> int:
        """Count a request; return in how many seconds the next one is free, or 0."""
        rate = self.switches.rate
        return 0 if rate is None else over_rate(self._recent, rate, self.clock())

    def _retry_after(self, wait: int) -> dict[str, str]:
        """Return the header of a 429 that says when to come back, as the switches have it."""
        match self.switches.retry_after:
            case "seconds":
                return {"Retry-After": str(wait)}
            case "date":
                return {"Retry-After": formatdate(self.clock() + wait, usegmt=True)}
        return {}


def available() -> dict[str, type[Vendor]]:
    """Return the double of every vendor, by the name of its module."""
    return {
        name: _double(name) for name in sorted(module.name for module in iter_modules(__path__))
    }


def _double(name: str) -> type[Vendor]:
    module = import_module(f"{__name__}.{name}")
    return next(
        thing
        for thing in vars(module).values()
        if isinstance(thing, type)
        and issubclass(thing, Vendor)
        and thing.__module__ == module.__name__
    )
