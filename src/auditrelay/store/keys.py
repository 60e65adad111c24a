"""
The key that a known event is stored by: time first, so that a page's keys are close together.

An event is known by its uid alone. The time in its key is the one under which it was first known:
the vendor may tell another one today.
"""

from collections.abc import Sequence
from typing import Final

from auditrelay.events import AuditEvent, TimeQuality
from auditrelay.events.page import Page

KEY: Final = 8 + 20
"""How many bytes a key has: a time and a uid."""

_ZERO: Final = 1 << 63
"""What is added to a time, so that its eight bytes sort like it, also before 1970."""

TIMELESS: Final = bytes(8)
"""The time in the key of an event whose record does not tell one."""

TIMELESS_AT: Final = -_ZERO
"""The time in microseconds whose bytes these are."""


def known_key(event: AuditEvent) -> bytes:
    """
    Return the key of *event*: eight bytes of its time (see :func:`sortable`), twenty of its uid.

    A time assigned at fetching is not part of the key: the next fetch would assign another.
    """
    return sortable(time_in_key(event)) + bytes.fromhex(event.uid)


def time_in_key(event: AuditEvent) -> int:
    """Return the time of *event* as it is in its key: TIMELESS_AT if its record tells none."""
    return TIMELESS_AT if event.time_quality == "fetched" else event.at


def known_keys(page: Page) -> list[bytes]:
    """Return the key of each event of *page*, as :func:`known_key` does."""
    of_sort = [sort.time_quality for sort in page.sorts]
    if "fetched" not in of_sort:
        return keys_of(page.uid, page.at)
    return keys_of(page.uid, known_times(page.at, [of_sort[number] for number in page.sort]))


def known_times(at: Sequence[int], qualities: Sequence[TimeQuality]) -> Sequence[int]:
    """Return the times *at* as they are in keys: TIMELESS_AT where a record does not tell one."""
    if "fetched" not in qualities:
        return at
    return [
        TIMELESS_AT if quality == "fetched" else time
        for time, quality in zip(at, qualities, strict=True)
    ]


def keys_of(uids: Sequence[str], at: Sequence[int]) -> list[bytes]:
    """Return the keys of events with these *uids* and times (microseconds; TIMELESS_AT: none)."""
    from_hex = bytes.fromhex  # looked up once: this is on the way of every event
    return [(time + _ZERO).to_bytes(8) + from_hex(uid) for uid, time in zip(uids, at, strict=True)]


def uid_bytes(uids: Sequence[str]) -> list[bytes]:
    """Return *uids*, which are hexadecimal, as twenty bytes each."""
    return list(map(bytes.fromhex, uids))


def sortable(at: int) -> bytes:
    """Return eight bytes that sort like the time *at* (microseconds), also before 1970."""
    return (at + _ZERO).to_bytes(8)


def time_of(key: bytes) -> int:
    """Return the event time in a *key*, in microseconds."""
    return int.from_bytes(key[:8]) - _ZERO
