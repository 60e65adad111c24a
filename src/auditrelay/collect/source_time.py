"""
What time it certainly is for one source: it is asked before anything in doubt is decided.

See :mod:`auditrelay.confirmed_time`. A declared gap and a covered span are for good, so a clock
that is wrong for a few seconds must not decide them.
"""

import contextlib
from datetime import datetime, timedelta
from typing import Final

from auditrelay.clock import Clock
from auditrelay.confirmed_time import TOLERANCE
from auditrelay.errors import Refused, WalkBroken
from auditrelay.settings import SourceSettings
from auditrelay.sources import Source
from auditrelay.window import Interval, overdue

SET_BACK: Final = timedelta(minutes=5)
"""How far the clock may be behind the checkpoint; further, and it must have been set back."""

ASKED: Final = timedelta(minutes=1)
"""How much time is asked for to hear what time it is: a page at most is read of it."""

MAX_BEYOND: Final = timedelta(days=1)
"""How much of the newest time is read on the word of the vendor's clock alone."""


class SourceTime:
    """The time for *source*, which the configuration calls *name* and gives *settings*."""

    def __init__(self, name: str, settings: SourceSettings, source: Source, clock: Clock) -> None:
        self._name = name
        self._settings = settings
        self._source = source
        self._clock = clock

    @property
    def known_certain(self) -> datetime:
        """The latest moment that is certainly past, by what was heard so far."""
        return self._clock.confirmed.certain(self._name)

    async def certain(self, checkpoint: datetime | None) -> datetime:
        """
        Return the latest moment that is certainly past; ask the source if that is in doubt.

        It is if clocks differ, or if by ours alone a gap would be declared after the *checkpoint*,
        or would even be behind it. Raises what the source raises if it was asked.
        """
        if self._is_in_doubt(checkpoint):
            await self._ask()
        return self.known_certain

    def require_past(self, checkpoint: datetime) -> None:
        """Raise Refused if it is earlier than the *checkpoint*, by our clock and the vendor's."""
        now = max(self.known_certain, self._clock.confirmed.now(self._name))
        if checkpoint - now > SET_BACK:
            raise Refused(
                f"the clock of this machine shows {now.isoformat(timespec='seconds')}, but time up "
                f"to {checkpoint.isoformat(timespec='seconds')} has been read already: fix "
                "the system clock; nothing new is read until then"
            )

    def beyond(self, certain: datetime, checkpoint: datetime) -> Interval | None:
        """
        Return what has settled by the vendor's clock alone, after the *checkpoint*, or None.

        If our clock is behind, events of that time must not come late, but do not count as read:
        the vendor's clock may be the one that is wrong.
        """
        now = self._clock.confirmed.now(self._name)
        if now - certain <= TOLERANCE:
            return None
        end = now - self._settings.settle
        start = max(checkpoint - self._settings.overlap, end - MAX_BEYOND)
        return Interval(start, end) if start < end else None

    def _is_in_doubt(self, checkpoint: datetime | None) -> bool:
        own = self._clock.now()
        if abs(own - self.known_certain) > TOLERANCE:
            return True
        if checkpoint is None or self._clock.confirmed.has_heard(self._name):
            return False
        limits = (self._settings.catch_up_limit, self._settings.reach)
        return checkpoint - own > SET_BACK or any(
            overdue(checkpoint, own, catch_up_limit=limit) for limit in limits
        )

    async def _ask(self) -> None:
        """Read a page at most, for its ``Date``; it proves nothing and is not stored."""
        end = self.known_certain - self._settings.settle
        pages = self._source.walk(Interval(end - ASKED, end))
        async with contextlib.aclosing(pages):
            with contextlib.suppress(WalkBroken):  # it has answered
                await anext(pages, None)
