"""File descriptors: every connection and open file takes one."""

import resource
from contextlib import suppress
from typing import Final

MOST: Final = 65_536
"""More are not asked for: no instance needs them, and what is inherited is often a million."""


def allow_descriptors() -> None:
    """Raise the soft limit to the hard one, or MOST: the usual 1,024 are for old programs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # forbidden, or more than the system has
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
