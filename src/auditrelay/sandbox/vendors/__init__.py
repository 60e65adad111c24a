"""
The base class of the vendors' doubles.

A vendor's double is a module of this folder with one subclass of :class:`Vendor`, found by module
name. The class declares what tests over all vendors need: the settings of a source that reads it,
its refusals, and the switches under which a complete read is impossible.
"""

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from email.utils import formatdate
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from auditrelay.sandbox.history import Entry, History, Records, joined, over_rate
from auditrelay.sandbox.refusals import Refusal
from auditrelay.sandbox.server import Double

__all__ = ["Refusal", "SwitchValue", "Vendor", "available", "by_setting"]

SwitchValue = tuple[str, object]
"""The name of a switch, and one of its values."""


def by_setting(
    table: Mapping[str, Any] | None = None, /, **switches: Any
) -> Callable[["Vendor"], Mapping[str, Any]]:
    """Return a ``provoke`` that sets *switches*; *table* overrides settings of the source."""

    def provoke(double: "Vendor") -> Mapping[str, Any]:
        for name, value in switches.items():
            setattr(double.switches, name, value)
        return table or {}

    return provoke


class Vendor(Double, ABC):
    """
    An audit-log API. Add records with :meth:`add`; set :attr:`switches` at any time.

    *before_page* maps a page number *n* to a callback that runs once, just before page *n* of a
    list is read: rows that arrive or are deleted in the middle of a walk. Subclasses implement
    :meth:`add`, :meth:`settings` and :meth:`respond`.
    """

    REFUSALS: ClassVar[tuple[Refusal, ...]] = ()
    """Every documented refusal, and undocumented ones in their likely form."""

    MUST_FAIL: ClassVar[frozenset[SwitchValue]] = frozenset()
    """Switches under which a long list cannot be read to its end: a source must fail."""

    SILENT_LOSS: ClassVar[frozenset[SwitchValue]] = frozenset()
    """Switches under which rows are missing, with no sign of it in the answers."""

    UNSTABLE_ORDER: ClassVar[frozenset[SwitchValue]] = frozenset()
    """Switches under which rows change places between requests: one walk may not be enough."""

    ID_FIELDS: ClassVar[tuple[str, ...]] = ("id",)
    """Possible id fields of a record: the first one present counts."""

    MIN_PAGE_SIZE: ClassVar[int] = 1
    """The smallest page size that a source can use."""

    EXTRA_REQUESTS: ClassVar[int] = 0
    """Requests that a source makes before the first page of a walk."""

    EXPORTS: ClassVar[tuple[str, ...]] = ()
    """The kinds of files that the vendor exports."""

    REPORTS_TOTAL: ClassVar[bool] = True
    """Whether a page reports the number of rows of the whole list."""

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
        self.served = 0
        """How many records it has returned in lists, counting each as often as it was returned."""
        self._recent: deque[float] = deque()

    @classmethod
    def switch_values(cls) -> Iterator[SwitchValue]:
        """Yield every switch that has a finite choice, with each of its values."""
        for name, wanted in get_type_hints(cls.__annotations__["switches"]).items():
            # Literal[...], or Literal[...] | None.
            parts = get_args(wanted) if get_origin(wanted) in (Union, UnionType) else (wanted,)
            if bool in parts:
                yield from ((name, value) for value in (False, True))
            elif any(get_origin(part) is Literal for part in parts):
                for part in parts:
                    yield from ((name, value) for value in get_args(part) or (None,))

    @property
    def secret(self) -> str:
        """The credential of a source, which must not be sent to any other host."""
        return self.api_key

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the settings of a source that reads this double; it must have been started."""

    def file_settings(self, directory: Path) -> dict[str, Any]:
        """Return the settings of a source that reads the exports in *directory*."""
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
        """Add one record with the time *at* and given *fields*; return its native id."""

    def fill(self, count: int, start: datetime, end: datetime) -> list[str]:
        """Add *count* records at equal intervals over ``[start, end)``; return their ids."""
        return [self.add(start + (end - start) * number / count) for number in range(count)]

    def known_ids(self) -> Iterator[str]:
        """Yield what a SIEM knows each event by that comes of a record that was ever created."""
        return self.records.ids()

    def load(self, count: int, start: datetime, end: datetime, record_bytes: int) -> None:
        """Serve *count* records of about *record_bytes* bytes, in the cheapest way."""
        raise NotImplementedError(f"{type(self).__name__} has no records for load")

    def rotate(self, key: str) -> None:
        """Accept only *key* from now on."""
        self.api_key = key

    def _rows(self, part: Sequence[Entry]) -> bytes:
        """Return the texts of *part* of a list, joined by commas."""
        self.served += len(part)
        return joined(part)

    def _over_rate(self) -> int:
        """Count a request; return 0, or the seconds until the rate limit allows one."""
        rate = self.switches.rate
        return 0 if rate is None else over_rate(self._recent, rate, self.clock())

    def _retry_after(self, wait: int) -> dict[str, str]:
        """Return the header ``Retry-After`` of a 429, in the form that the switches say."""
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
