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
"""What is kept for the next batch: to get memory again for each is costly."""

REST: Final = 1.0
"""
Seconds after which what is free goes back to the system, also while events come: what is left free
between blocks in use is a few megabytes more with every hundred thousand events. It takes about a
millisecond each time.
"""


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
    """Returns memory to the system every REST while events come, and once after the last one."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._used_since = False
        """Whether it was used again since the timer was set."""

    def used(self) -> None:
        """Return what is free after REST from now, unless that is due earlier and again later."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(REST, self._rest)
        else:
            self._used_since = True

    def _rest(self) -> None:
        return_free_memory()
        self._timer = None
        if self._used_since:
            self._used_since = False
            self.used()

    def close(self) -> None:
        """Return nothing any more."""
        if self._timer is not None:
            self._timer.cancel()


def return_free_memory() -> None:
    """Return to the system what the heap does not use; this takes about a millisecond."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
