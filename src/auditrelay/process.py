"""
What every command does to its own process before anything else, which takes long to import.

Only the standard library is needed for it.
"""

import contextlib
import ctypes
import os
import resource
import signal
from typing import Final

_PR_SET_DUMPABLE: Final = 4  # from prctl.h of Linux


def end_at_once(number: int, _frame: object) -> None:
    """End the process for the signal *number*; a handler."""
    os._exit(128 + number)


def begin() -> None:
    """
    Let SIGTERM end the process from now on, and keep its memory from everybody else.

    Linux drops a signal that process 1 has no handler for, and in a container this is process 1.
    The memory has credentials and events: it goes into no core dump, and no other process of the
    same user may read it (``PR_SET_DUMPABLE``; a handler of core dumps that is a program ignores
    the limit).
    """
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, end_at_once)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(AttributeError, OSError):  # it is Linux's alone
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
