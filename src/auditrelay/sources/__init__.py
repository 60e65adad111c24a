"""
What a source is: an audit-log API that shows its records page by page for a window of time.

A source is one file here: its settings, its identity towards the vendor, and how to turn pages.
It has no retry, sleep, clock, log or store; those belong to ``http`` and ``collect``. The name of
the module is the ``type`` in the configuration.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Protocol, runtime_checkable

from auditrelay.settings import SourceSettings
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import EPOCH, Interval, iso


@dataclass(frozen=True, slots=True)
class Page:
    """
    One page of a walk.

    *records* are the JSON texts of the records, as the vendor sent them. *last* says that the
    vendor has shown the whole window. *total* is how many records the vendor says the window has,
    or None if it does not say. *shrunk* is true when the vendor's answer shows that records
    vanished while the walk went on, so that others may have slipped past it.

    *partial* is the reason, a short code, for which the vendor leaves a part of what happened in
    this window out of its answers. If the last page of a walk has it, the window enters the ledger
    as a gap of that reason instead of as covered; its events are forwarded all the same. *gaps*
    are spans of the window that could not be read, each with its reason; the rest is covered.
    """

    records: list[bytes]
    last: bool
    total: int | None = None
    shrunk: bool = False
    partial: str | None = None
    gaps: tuple[tuple[Interval, str], ...] = ()


class Source(Protocol):
    """One configured audit-log API."""

    @property
    def scope(self) -> str:
        """The organisation or tenant that record ids are unique in, where records do not tell."""

    def walk(self, window: Interval) -> AsyncGenerator[Page, None]:
        """
        Yield every page of *window*, pages and records in any order.

        Records just outside of the window may be among them. The last page says that it is the
        last; it may be empty. A walk that ends without one has proved nothing. Raises Retryable
        when the vendor does not answer even after retries, Refused when it will not answer until
        an operator acts, and WalkBroken when its answers cannot be a whole window.
        """

    async def close(self) -> None:
        """Release connections."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no record: its *text* as it lies in the file, its *line*, and *why*."""

    text: bytes
    line: int
    why: str


@dataclass(frozen=True, slots=True)
class ParcelPage:
    """
    One page of a parcel.

    *records* are JSON texts of records; *bad* are rows that are none. With the *last* page, and no
    other, comes what the parcel claims: the spans that it *covers*, and *gaps* that it may have,
    each with its reason.
    """

    records: list[bytes]
    last: bool
    bad: tuple[BadRow, ...] = ()
    covers: tuple[Interval, ...] = ()
    gaps: tuple[tuple[Interval, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Parcel:
    """
    A file of records that somebody has put before a source.

    *key* is the digest of its content, by which it is known whatever it is called; *name* is for
    people. *pages* raises Rejected if the file as a whole is of no use; nothing has been claimed by
    then.
    """

    key: bytes
    name: str
    pages: AsyncGenerator[ParcelPage, None]


@runtime_checkable
class Drop(Protocol):
    """One configured place where files are put, instead of an API that is asked for windows."""

    @property
    def scope(self) -> str:
        """The organisation or tenant that record ids are unique in, where records do not tell."""

    def parcels(
        self, known: Callable[[bytes], Awaitable[bool]], now: datetime
    ) -> AsyncGenerator[Parcel, None]:
        """
        Yield every file that lies there and is complete, the oldest first.

        *known* tells whether the content of a key was read whole before; such a file is passed
        over. It is asked when the parcel's turn comes, so that of two files with one content the
        second is known once the first was read. A file that was rejected is shown again, and
        rejected without being read while it stays as it is. Raises Refused when the place cannot
        be read until an operator acts.
        """

    async def check(self) -> str:
        """Return what lies there, in words for people. Raises Refused."""

    async def close(self) -> None:
        """Release what is open."""


@runtime_checkable
class Keeper(Protocol):
    """A source that has something of its own to keep between two runs, such as a session."""

    def keep_in(self, folder: Path) -> None:
        """Keep it in *folder*, which nobody else uses, and make that for its owner only."""


def make(name: str, settings: SourceSettings, metrics: Metrics, state_dir: Path) -> Source | Drop:
    """Return the source that the configuration calls *name*, of the type that *settings* are of."""
    source: Source | Drop = import_module(f"{__name__}.{settings.type}").build(
        name, settings, metrics
    )
    if isinstance(source, Keeper):
        source.keep_in(state_dir / "sources" / name)
    return source


def available() -> list[str]:
    """Return the types of source that there are: the names of the modules in this folder."""
    return sorted(module.name for module in iter_modules(__path__))


GRANULE = timedelta(milliseconds=1)
"""What :func:`in_milliseconds` can write, and the precision of most vendors' times."""


def widened(window: Interval, granule: timedelta = GRANULE) -> Interval:
    """
    Return bounds in whole *granules* that hold all of *window* whether a vendor includes them.

    A vendor that shows only what is strictly after a bound must be asked from a granule earlier.
    The end is not part of *window*, so rounding it up is enough.
    """
    return Interval(
        window.start - (window.start - EPOCH) % granule - granule,
        window.end + (EPOCH - window.end) % granule,
    )


def in_milliseconds(at: datetime) -> str:
    """Return *at* in the one spelling that every vendor reads: ``2026-03-01T00:00:00.000Z``."""
    return iso(at, "milliseconds")
