"""
Regular expressions that are compiled when one is first used, not when its module is imported.

Of those that find secrets and odd times most runs need a few; to compile all of them takes as long
as to import a library.
"""

import re
from typing import Any, AnyStr, Generic, cast


class _Lazy(Generic[AnyStr]):
    def __init__(self, pattern: AnyStr, flags: int) -> None:
        self.pattern: AnyStr = pattern
        self._flags = flags

    def __getattr__(self, name: str) -> Any:
        # A method of the compiled one; from now on it is an attribute, and found as fast.
        method = getattr(re.compile(self.pattern, self._flags), name)
        setattr(self, name, method)
        return method


def lazily(pattern: AnyStr, flags: int = 0) -> re.Pattern[AnyStr]:
    """Return what has the methods of ``re.compile(pattern, flags)``, and ``pattern``."""
    return cast("re.Pattern[AnyStr]", _Lazy(pattern, flags))
