"""A HEC channel: batches that were taken, and their acknowledgement."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self

from auditrelay.errors import Refused, RelayError, Retryable
from auditrelay.http.replies import Reply


class Channel:
    """
    One channel of HEC: its acknowledgements are numbered from nought and live on one node.

    They are kept in the memory of that node, so they are numbered anew when it restarts or cleans
    up; and a load balancer in front of it is held to it by the cookies that it sets. *ask* asks
    Splunk about numbers on a channel.
    """

    def __init__(
        self,
        ask: Callable[["Channel", Sequence[int]], Awaitable[set[int]]],
        patience: timedelta,
    ) -> None:
        self.id = str(uuid.uuid4())
        self.patience = patience
        self.lost = False
        self.retired = False
        self._ask = ask
        self._jar: dict[str, str] = {}
        self._flying: set[_Flight] = set()
        self._next = 0
        self._ahead: set[int] = set()
        self._outstanding: set[int] = set()

    @property
    def cookies(self) -> dict[str, str]:
        """The header that brings a request to the node where the channel lives."""
        pairs = "; ".join(f"{name}={value}" for name, value in self._jar.items())
        return {"Cookie": pairs} if pairs else {}

    def keep_cookies(self, reply: Reply) -> None:
        """Keep the cookies of *reply*, newer ones in the place of older ones."""
        for line in reply.headers.get_list("set-cookie"):
            name, equals, value = line.partition(";")[0].strip().partition("=")
            if equals and name:
                self._jar[name] = value

    def flight(self) -> "_Flight":
        """Return what tells how a batch on the channel fares, for the length of a ``with``."""
        return _Flight(self, self._flying)

    def issued(self, number: int) -> bool:
        """
        Note that *number* was given to a batch; False if it cannot be told from an earlier one.

        A number comes twice when the node counts anew. While others are outstanding nobody knows
        whom an acknowledgement will be for, so the channel is lost.
        """
        if number < self._next or number in self._ahead:
            if self._outstanding:
                self.lost = True
                self.retire()
                return False
            self._next, self._ahead = 0, set()  # an idle channel was cleaned up: all is well
        self._outstanding.add(number)
        self._ahead.add(number)
        while self._next in self._ahead:
            self._ahead.remove(self._next)
            self._next += 1
        return True

    async def acknowledged(self, numbers: Sequence[int]) -> set[int]:
        """See Channel of the contract."""
        told = await self._ask(self, numbers)
        # If the node has just begun to count anew, a low number may be that of a batch whose
        # answer is still on its way here. That answer will tell.
        flying = list(self._flying)
        low = {number for number in told if number < len(flying)}
        if low and not all([await flight.wait() for flight in flying]):
            told -= low
        if self.lost:
            return set()
        self._outstanding -= told
        return told

    def retire(self) -> None:
        """See Channel of the contract."""
        self.retired = True


class _Flight:
    """A batch on the wire, and whether its answer came."""

    def __init__(self, channel: Channel, flying: set["_Flight"]) -> None:
        self._channel = channel
        self._flying = flying
        self._answered = False
        self._over = asyncio.Event()

    async def wait(self) -> bool:
        """Wait for its end; return whether the answer came."""
        await self._over.wait()
        return self._answered

    def __enter__(self) -> Self:
        self._flying.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        unknown = isinstance(error, Retryable | Refused) and error.sent
        self._answered = error is None or (isinstance(error, RelayError) and not unknown)
        if not self._answered:
            self._channel.retire()  # whatever broke may have begun to count anew
        self._flying.discard(self)
        self._over.set()
