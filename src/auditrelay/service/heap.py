"""The C library's heap, which holds every object of more than 512 bytes."""

import ctypes
from contextlib import suppress
from typing import Final

# From malloc.h of glibc.
_M_TRIM_THRESHOLD: Final = -1
_M_ARENA_MAX: Final = -8

_KEPT_BYTES: Final = 128 * 1024
"""What glibc keeps at the end of the heap at first; it would grow to twice the largest block."""


def keep_heap_small() -> None:
    """
    Return memory to the system after a large batch; call this before there is a second thread.

    glibc gives threads a heap each, so that they need not wait for each other: here they have the
    interpreter's lock for that. And it keeps ever more of what was freed. Both together are 2 MB at
    rest. Another C library has no such options, and is left as it is.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
