"""The key that events are deduplicated by: time first, so that a page's keys are close together."""

from collections.abc import Sequence
from typing import Final

from auditrelay.events import AuditEvent
from auditrelay.events.page import Page

TIMELESS: Final = bytes(8)

TIMELESS_AT: Final = -(1 << 63)
"""The time whose bytes these are."""


def known_key(event: AuditEvent) -> bytes:
    """
    Return the key of *event*: eight bytes of its time (see :func:`sortable`), twenty of its uid.

    A time assigned at fetching is not part of the key: the next fetch would assign another.
    """
    if event.time_quality == "fetched":
        return TIMELESS + bytes.fromhex(event.uid)
    return sortable(event.at) + bytes.fromhex(event.uid)


def known_keys(page: Page) -> list[bytes]:
    """Return the key of each event of *page*, as :func:`known_key` does."""
    timeless = {number for number, sort in enumerate(page.sorts) if sort.time_quality == "fetched"}
    times = [
        TIMELESS if sort in timeless else sortable(at)
        for sort, at in zip(page.sort, page.at, strict=True)
    ]
    return [time + bytes.fromhex(uid) for time, uid in zip(times, page.uid, strict=True)]


def keys_of(uids: Sequence[str], at: Sequence[int]) -> list[bytes]:
    """Return the keys of events with these *uids* and times; TIMELESS_AT is none."""
    return [sortable(each) + bytes.fromhex(uid) for uid, each in zip(uids, at, strict=True)]


def sortable(at: int) -> bytes:
    """Return eight bytes that sort like the time *at* (microseconds), also before 1970."""
    return (at + (1 << 63)).to_bytes(8)


def time_of(key: bytes) -> int:
    """Return the event time in a *key*, in microseconds."""
    return int.from_bytes(key[:8]) - (1 << 63)
