"""
What a source is: an audit-log API that shows its records page by page for a window of time.

A source is one file here: its settings, its identity towards the vendor, and how to turn pages.
It has no retry, sleep, clock, log or store; those belong to ``http`` and ``collect``. The name of
the module is the ``type`` in the configuration.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
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

    def walk(self, window: Interval) -> AsyncIterator[Page]:
        """
        Yield every page of *window*, pages and records in any order.

        Records just outside of the window may be among them. The last page says that it is the
        last; it may be empty. A walk that ends without one has proved nothing. Raises Retryable
        when the vendor does not answer even after retries, Refused when it will not answer until
        an operator acts, and WalkBroken when its answers cannot be a whole window.
        """
