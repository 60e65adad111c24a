"""The C library's heap, which holds every object of more than 512 bytes."""

import asyncio
import ctypes
from contextlib import suppress
from typing import Final

# From malloc.h of glibc.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

_KEPT_BYTES: Final = 32 << 20
"""What is kept for the next batch while events come: to get memory again is costly."""

REST: Final = 5.0
"""Seconds after which what is free goes back to the system: a batch that lingers is out by then."""


def tune_heap() -> None:
    """
    Give all threads one heap that keeps what it needs; call this before there is a second thread.

    glibc gives threads a heap each, so that they need not wait for each other: here they have the
    interpreter's lock for that. And it asks the system for every large block again, which costs
    more than compressing what is in it. Other C libraries lack these options.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * _KEPT_BYTES)


class Heap:
    """Returns memory to the system once no more events come, and none are delivered."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None

    def used(self) -> None:
        """Return what is free after a rest from now, unless this is called again before."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(REST, return_free_memory)

    def close(self) -> None:
        """Return nothing any more."""
        if self._timer is not None:
            self._timer.cancel()


def return_free_memory() -> None:
    """Return to the system what the heap does not use; this takes about a millisecond."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
