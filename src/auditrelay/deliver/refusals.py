"""
What a sink refuses: everything, or single events.

Most sinks that refuse refuse everything: a key has expired. But something in between, such as a
firewall, may read the events and dislike a word in one. Then the sink's check succeeds.
"""

import math
from collections.abc import Sequence
from typing import Final

from auditrelay.clock import Clock
from auditrelay.deliver.postponed import Postponed
from auditrelay.deliver.probe import PROBE_MAX
from auditrelay.errors import Refused, RelayError
from auditrelay.sinks import Item, Sink

SAME_FAILURES: Final = 3
"""Failures in a row for one reason until a batch is made smaller, or an event set aside."""

REFUSES_SOME: Final = 3600.0
"""Seconds for which a sink that has refused some events, and not all, is taken to do so again."""

REFUSED_ALONE: Final = 20
"""Events in a row that are set aside as refused; more, and it may be everything that is."""


class RefusedAlone(Exception):
    """The *refusal* of a request is of its *items*, and not of whatever is sent."""

    def __init__(self, refusal: Refused, items: Sequence[Item]) -> None:
        super().__init__()
        self.refusal = refusal
        self.items = items


class Refusals:
    """Judges what *sink* refuses, by its check; what is refused alone is *postponed*."""

    def __init__(self, sink: Sink, postponed: Postponed, clock: Clock) -> None:
        self._sink = sink
        self._postponed = postponed
        self._clock = clock
        self._some_until = -math.inf

    async def judge(self, items: Sequence[Item], error: Refused, number: int) -> None:
        """
        Raise RefusedAlone if *items* were refused with *error* for what they are.

        At first that is not asked, but from the third of *number* refusals on, or if it was so
        before; then it costs no hold. What the sink itself refuses is never of an event alone.
        """
        if not error.of_request:
            return
        known = self._clock.monotonic() < self._some_until
        if known or number >= SAME_FAILURES or self._postponed.was_set_aside(items[0]):
            await self._judge(items, error, in_a_row=REFUSED_ALONE)

    async def judge_first(self, item: Item, error: Refused) -> None:
        """Raise RefusedAlone if *item*, sent alone after a check, was refused for what it is."""
        # After what may be a success the sink gets one event ever less often.
        in_a_row = math.inf if error.is_success else REFUSED_ALONE
        if error.is_success or error.of_request:
            await self._judge([item], error, in_a_row=in_a_row)

    def passed_alone(self) -> None:
        """Record that the sink has taken one event, sent alone: it does not refuse everything."""
        self._some_until = max(self._some_until, self._clock.monotonic() + PROBE_MAX)

    async def is_alone(self, item: Item, *, in_a_row: float) -> bool:
        """
        Return whether it is *item* that fails, and not its sink: that one's check succeeds.

        Of a sink that takes none meanwhile, that is said of so many *in a row*.
        """
        if not self._postponed.has_room(item, in_a_row=in_a_row):
            return False
        try:
            await self._sink.check()
        except RelayError:
            return False
        return True

    async def _judge(self, items: Sequence[Item], error: Refused, *, in_a_row: float) -> None:
        if await self.is_alone(items[0], in_a_row=in_a_row):
            self._some_until = self._clock.monotonic() + REFUSES_SOME
            raise RefusedAlone(error, items)
