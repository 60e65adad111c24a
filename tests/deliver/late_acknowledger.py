"""A sink that accepts at once and acknowledges later, by a script."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from tests.support.delivering import Intake

from auditrelay.deliver.deliverer import Deliverer
from auditrelay.errors import RelayError
from auditrelay.sinks import AckId, Item, Limits, Verdict

ACK_TIMEOUT = timedelta(minutes=5)
"""For a channel that shall time out. Others have a day: time passes fast in these tests."""


TEN = Limits(10, 10**9)


@dataclass(eq=False)
class ScriptedChannel:
    """A channel: which numbers were *polled*, and which of them it acknowledges."""

    acknowledges: Callable[[Sequence[int]], set[int]] = set
    ack_timeout: timedelta = timedelta(days=1)
    lost: bool = False
    retired: bool = False
    polled: list[list[int]] = field(default_factory=list)
    script: list[RelayError] = field(default_factory=list)

    async def acknowledged(self, numbers: Sequence[int]) -> set[int]:
        assert numbers
        self.polled.append(list(numbers))
        await asyncio.sleep(0)
        if self.script:
            raise self.script.pop(0)
        return self.acknowledges(numbers)

    def retire(self) -> None:
        self.retired = True


@dataclass
class LateAcknowledger(Intake):
    """A sink that accepts everything and acknowledges on the last of its *channels*."""

    channels: list[ScriptedChannel] = field(default_factory=lambda: [ScriptedChannel()])
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def send(self, batch: Sequence[Item]) -> Verdict:
        verdict = await super().send(batch)
        if self.channels[-1].retired:
            self.channels.append(replace(self.channels[-1], retired=False, polled=[], script=[]))
        if verdict != Verdict():
            return verdict
        return Verdict(ack_id=AckId(self.channels[-1], next(self.numbers)))

    @property
    def polls(self) -> list[list[int]]:
        return [numbers for channel in self.channels for numbers in channel.polled]


def is_up(deliverer: Deliverer) -> bool:
    return deliverer.condition.up


def nothing(_: Sequence[int]) -> set[int]:
    return set()
