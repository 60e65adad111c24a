"""
What a vendor grants to one account: what is left of it, and until when it is used up.

The headers of a reply say so, each vendor's in its own. They are believed within bounds: a value
in another unit than the one that was declared causes no wait of years.
"""

from dataclasses import dataclass
from typing import Final, Literal
from weakref import WeakKeyDictionary, WeakValueDictionary

from auditrelay.clock import Clock
from auditrelay.errors import Retryable
from auditrelay.http.headers import first_number, reset_after, retry_after
from auditrelay.http.replies import Reply
from auditrelay.http.retry import MAX_SOURCE_WAIT

MAX_PAUSE: Final = 3600.0
"""
Seconds after which a vendor is asked again, whatever it has said.

One wrong header must not stop its sources for a day, and a right one is only said again.
"""

ResetIs = Literal["epoch_s", "epoch_ms", "seconds", "iso"]


@dataclass(frozen=True, slots=True)
class QuotaHeaders:
    """
    The headers in which a vendor tells the quota; None where it has none for that.

    *reset* says when the quota is full again, in the unit *reset_is*; *remaining* is how many
    requests are left of the *limit*. *keep* is the share of it that is left to others.
    """

    reset: str | None = None
    reset_is: ResetIs = "epoch_s"
    remaining: str | None = None
    limit: str | None = None
    keep: float | None = None


class Quota:
    """
    The quota of one account, which all sources with its credentials share.

    Their requests wait while it is used up, in one source's reply as in another's.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until = 0.0
        """On the monotonic clock."""
        self._largest = 0.0
        """The most that was left: the limit, where no header gives it."""

    async def wait(self) -> None:
        """
        Wait until something is left.

        Raises Retryable at once if that takes longer than a source waits for (MAX_SOURCE_WAIT).
        """
        while (left := self._until - self._clock.monotonic()) > 0.001:  # less is rounding
            if left > MAX_SOURCE_WAIT:
                raise Retryable(
                    f"the vendor's quota is used up for another {left:.0f} s",
                    reason="rate_limited",
                    retry_after=left,
                )
            await self._clock.sleep(left)

    def pause(self, seconds: float) -> None:
        """Let no request begin for so many *seconds*, at most MAX_PAUSE."""
        self._until = max(self._until, self._clock.monotonic() + min(seconds, MAX_PAUSE))

    def hear(self, reply: Reply, headers: QuotaHeaders) -> None:
        """Wait for the reset, if by *reply* no more is left than *headers* keep for others."""
        left = first_number(reply.headers, headers.remaining)
        if left is None or headers.keep is None:
            return
        self._largest = max(self._largest, left)
        limit = first_number(reply.headers, headers.limit) or self._largest
        reset = reset_after(reply.headers, headers.reset, headers.reset_is, reply.at)
        if reset is not None and left < headers.keep * limit:
            self.pause(reset)


def is_used_up(reply: Reply, headers: QuotaHeaders) -> bool:
    """Return whether *reply* says that no request is left."""
    return first_number(reply.headers, headers.remaining) == 0


def asked_wait(reply: Reply, headers: QuotaHeaders) -> float | None:
    """
    Return how many seconds a refusal asks for: the later of ``Retry-After`` and the reset.

    The reset does not count where something is left: then another limit was met. None if it gives
    neither, or a wait of nothing: "at once" is what has just been refused.
    """
    waits = [retry_after(reply.headers, reply.at)]
    if not first_number(reply.headers, headers.remaining):
        waits.append(reset_after(reply.headers, headers.reset, headers.reset_is, reply.at))
    return max((wait for wait in waits if wait), default=None)


_shared: WeakKeyDictionary[Clock, WeakValueDictionary[tuple[str, ...], Quota]]
_shared = WeakKeyDictionary()


def shared_quota(clock: Clock, key: tuple[str, ...]) -> Quota:
    """Return the one quota of the account that *key* names, for as long as some source has it."""
    by_key = _shared.setdefault(clock, WeakValueDictionary())
    quota = by_key.get(key)
    if quota is None:
        quota = by_key[key] = Quota(clock)
    return quota
