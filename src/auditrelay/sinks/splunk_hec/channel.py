"""A HEC channel: the batches that were accepted on it, and their acknowledgements."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self

from auditrelay.errors import Refused, RelayError, Retryable
from auditrelay.http.cookies import header_of, updated
from auditrelay.http.replies import Reply


class Channel:
    """
    One channel of HEC: its acknowledgements are numbered from 0 and live on one node.

    They are in the memory of that node, so the numbers start again from 0 when it restarts or
    cleans up; and a load balancer keeps to that node by the cookies that it sets. *poll* asks
    Splunk which numbers of a channel are acknowledged.
    """

    def __init__(
        self,
        poll: Callable[["Channel", Sequence[int]], Awaitable[set[int]]],
        ack_timeout: timedelta,
    ) -> None:
        self.id = str(uuid.uuid4())
        self.ack_timeout = ack_timeout
        self.lost = False
        self.retired = False
        self._poll = poll
        # A jar of httpx would belong to the client, but each channel needs its own node.
        self._cookies: dict[str, str] = {}
        self._in_flight: set[_Request] = set()
        self._next = 0
        self._ahead: set[int] = set()
        self._outstanding: set[int] = set()

    @property
    def cookie_header(self) -> dict[str, str]:
        """The header that brings a request to the node where the channel lives."""
        return {"Cookie": header_of(self._cookies)} if self._cookies else {}

    def keep_cookies(self, reply: Reply) -> None:
        """Keep the cookies of *reply*; newer ones replace older ones."""
        self._cookies = updated(self._cookies, reply.headers, reply.at)

    def request(self) -> "_Request":
        """Return a context manager for one request that sends a batch on the channel."""
        return _Request(self, self._in_flight)

    def register(self, number: int) -> bool:
        """
        Record that *number* was given to a batch; return False if that makes it ambiguous.

        A number comes twice when the node has started again from 0. While others are outstanding,
        an acknowledgement could then be for either batch, so the channel is lost.
        """
        if number < self._next or number in self._ahead:
            if self._outstanding:
                self.lost = True
                self.retire()
                return False
            self._next, self._ahead = 0, set()  # an idle channel was cleaned up: nothing is lost
        self._outstanding.add(number)
        self._ahead.add(number)
        while self._next in self._ahead:
            self._ahead.remove(self._next)
            self._next += 1
        return True

    async def acknowledged(self, numbers: Sequence[int]) -> set[int]:
        """Return which of *numbers* Splunk has indexed; none of them once the channel is lost."""
        acknowledged = await self._poll(self, numbers)
        # If the node has just started again from 0, a low number may be that of a batch whose
        # response is still on its way. Wait for that response.
        in_flight = list(self._in_flight)
        low = {number for number in acknowledged if number < len(in_flight)}
        if low and not all([await request.answered() for request in in_flight]):
            acknowledged -= low
        if self.lost:
            return set()
        self._outstanding -= acknowledged
        return acknowledged

    def retire(self) -> None:
        """Use the channel for no further batch; what is in flight can still be acknowledged."""
        self.retired = True


class _Request:
    """A batch in flight, and whether its response arrived."""

    def __init__(self, channel: Channel, in_flight: set["_Request"]) -> None:
        self._channel = channel
        self._in_flight = in_flight
        self._answered = False
        self._finished = asyncio.Event()

    async def answered(self) -> bool:
        """Wait until the request is finished; return whether its response arrived."""
        await self._finished.wait()
        return self._answered

    def __enter__(self) -> Self:
        self._in_flight.add(self)
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
            self._channel.retire()  # the node may have restarted, and count from 0 again
        self._in_flight.discard(self)
        self._finished.set()
