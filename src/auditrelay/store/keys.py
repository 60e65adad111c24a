"""The key by which an event is known: its time first, so that neighbours in time lie together."""

from typing import Final

from auditrelay.events import AuditEvent

TIMELESS: Final = bytes(8)


def known_key(event: AuditEvent) -> bytes:
    """
    Return the key of *event*: eight bytes of its time (see :func:`sortable`), twenty of its uid.

    A time that we made up at fetching is no part of it: the next fetch would make up another.
    """
    if event.time_quality == "fetched":
        return TIMELESS + bytes.fromhex(event.uid)
    return sortable(event.at) + bytes.fromhex(event.uid)


def sortable(at: int) -> bytes:
    """Return eight bytes that sort as the moment *at* (microseconds) does, before 1970 too."""
    return (at + (1 << 63)).to_bytes(8)


def time_of(key: bytes) -> int:
    """Return the event time in a *key*, in microseconds."""
    return int.from_bytes(key[:8]) - (1 << 63)
