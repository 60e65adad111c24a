"""
What a source is: an audit-log API that shows its records page by page for a window of time.

A source is one file here: its settings, its identity towards the vendor, and how to turn pages.
It has no retry, sleep, clock, log or store; those belong to ``http`` and ``collect``. The name of
the module is the ``type`` in the configuration.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pkgutil import iter_modules
from typing import Protocol

from auditrelay.window import Interval


@dataclass(frozen=True, slots=True)
class Page:
    """
    One page of a walk.

    *records* are the JSON texts of the records, as the vendor sent them. *last* says that the
    vendor has shown the whole window. *total* is how many records the vendor says the window has,
    or None if it does not say. *shrunk* is true when the vendor's answer shows that records
    vanished while the walk went on, so that others may have slipped past it.
    """

    records: list[bytes]
    last: bool
    total: int | None = None
    shrunk: bool = False


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


def available() -> list[str]:
    """Return the types of source that there are: the names of the modules in this folder."""
    return sorted(module.name for module in iter_modules(__path__))


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def widened(window: Interval, granule: timedelta) -> Interval:
    """
    Return bounds in whole *granules* that hold all of *window* whether a vendor includes them.

    A vendor that shows only what is strictly after a bound must be asked from a granule earlier.
    The end is not part of *window*, so rounding it up is enough.
    """
    return Interval(
        window.start - (window.start - _EPOCH) % granule - granule,
        window.end + (_EPOCH - window.end) % granule,
    )


def in_milliseconds(at: datetime) -> str:
    """Return *at* in the one spelling that every vendor reads: ``2026-03-01T00:00:00.000Z``."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
