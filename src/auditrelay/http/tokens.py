"""
The token of a client: kept in memory only, taken again before it ends or when it was refused.

Some vendors end a client's former token with each new one, and some count tokens. So sources and
sinks that are the same client share one: see :func:`shared`.
"""

import asyncio
import math
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import httpx

from auditrelay.clock import Clock
from auditrelay.errors import Refused, Retryable
from auditrelay.http.credentials import Rotation
from auditrelay.http.failures import forget
from auditrelay.http.grants import Granted
from auditrelay.http.peer import Peer
from auditrelay.http.replies import Reply
from auditrelay.settings.secrets import Secret
from auditrelay.telemetry.logs import log
from auditrelay.telemetry.scrubber import scrubber

EARLY: Final = 60.0
"""Seconds before its end in which a token is taken again; a tenth of its life if that is less."""


class TokenRequest(Protocol):
    """What a client sends to its token endpoint, and what it reads in the answer."""

    @property
    def secrets(self) -> Sequence[Secret]:
        """The operator's secrets in it."""

    async def send(self, endpoint: Peer) -> Reply:
        """
        Ask *endpoint* for a token; return its answer, whatever it is.

        Raises Retryable or Refused if there is none.
        """

    def read(self, reply: Reply) -> Granted:
        """
        Return the token in *reply*.

        Raises Refused if an operator must act, and Retryable for anything else.
        """


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why *asker* got no token; until *until* (monotonic) the server wants no other request."""

    error: Retryable | Refused
    asker: object
    until: float

    def again(self, now: float) -> Retryable | Refused:
        """Return an equal error, to be raised again."""
        return _equal(self.error, max(self.until - now, 0.0) or None)


def _equal(error: Retryable | Refused, wait: float | None) -> Retryable | Refused:
    """Return an error like *error*, without its traceback."""
    if isinstance(error, Refused):
        return Refused(str(error), status=error.status)
    return Retryable(str(error), reason=error.reason, retry_after=wait, sent=True)


class SharedToken:
    """
    The current token of one client, and its number; the first has 1.

    There is one renewal at a time: who comes meanwhile waits for it, and shares its failure. Its
    end is reckoned by the monotonic clock, which no step of the time of day moves.
    """

    def __init__(self, clock: Clock) -> None:
        self.number = 0
        self.rotates = False
        """Whether the server has sent another refresh token."""
        self._clock = clock
        self._token = Secret("")
        self._renew_at = self._ends_at = -math.inf
        self._renewing = asyncio.Lock()
        self._failures = 0
        self._failure: _Failure | None = None

    def reveal(self) -> str:
        """Return the token; ``fresh`` was awaited before."""
        token = self._token.reveal()
        # Once more: the scrubber forgets the oldest of many.
        scrubber.learn_renewed(token, whole=True)
        return token

    async def fresh(self, asker: object, take: Callable[[], Awaitable[Granted]]) -> int:
        """
        Return the number of a token that is not about to end; *take* is called for a new one.

        Raises what *take* raises, Retryable or Refused. What another *asker* is refused is its own
        affair: its secret may be an old one. A token that holds is used while no other can be had.
        """
        if self._clock.monotonic() < self._renew_at:
            return self.number
        failures = self._failures
        async with self._renewing:
            now = self._clock.monotonic()
            if now < self._renew_at:
                return self.number
            failure = self._failure
            if failure is not None and (
                now < failure.until
                or (
                    self._failures != failures
                    and (failure.asker is asker or isinstance(failure.error, Retryable))
                )
            ):
                raise failure.again(now)
            try:
                granted = await take()
            except (Retryable, Refused) as error:
                self._failed(error, asker)
                if isinstance(error, Retryable) and self._clock.monotonic() < self._ends_at:
                    return self.number
                raise
            # Its life began before the answer came: at the latest when it was asked for.
            self._use(granted, now)
        return self.number

    def drop(self, number: int) -> None:
        """Do not use the token *number* any more, if it is still the current one."""
        if number == self.number:
            self._renew_at = self._ends_at = -math.inf

    def _use(self, granted: Granted, since: float) -> None:
        life = math.inf if granted.life is None else granted.life
        self._token = granted.token
        self._ends_at = since + life
        self._renew_at = self._ends_at - (min(EARLY, life / 10) if life < math.inf else 0)
        self._failure = None
        self.number += 1

    def _failed(self, error: Retryable | Refused, asker: object) -> None:
        now = self._clock.monotonic()
        wait = (error.retry_after or 0.0) if isinstance(error, Retryable) else 0.0
        self._failures += 1
        self._failure = _Failure(_equal(error, None), asker, now + wait)
        if now < self._ends_at:
            # The old one holds for a while: the next attempt is halfway to its end, or later.
            self._renew_at = max(now + (self._ends_at - now) / 2, min(now + wait, self._ends_at))


_existing: weakref.WeakValueDictionary[tuple[Clock, str], SharedToken] = (
    weakref.WeakValueDictionary()
)


def shared(clock: Clock, client: str) -> SharedToken:
    """
    Return the token of *client*, by a digest of all that it asks for and by; not of its secret.

    A process has one clock.
    """
    token = _existing.get((clock, client))
    if token is None:
        token = _existing[clock, client] = SharedToken(clock)
    return token


class TokenCredentials:
    """
    A token in the header ``Authorization``, behind *prefix*.

    *request* is sent to *endpoint* for a new one, which is then in *token*, for others too.
    """

    def __init__(
        self, name: str, request: TokenRequest, endpoint: Peer, token: SharedToken, prefix: str
    ) -> None:
        self._name = name
        self._request = request
        self._endpoint = endpoint
        self._token = token
        self._prefix = prefix
        self._rotation = Rotation(request.secrets)

    async def prepare(self) -> int:
        """See :class:`Credentials`. What the token is for was not sent, whatever was for it."""
        try:
            return await self._token.fresh(self, self._take)
        except (Retryable, Refused) as error:
            error.sent = False
            raise

    def headers(self, _request: httpx.Request) -> Mapping[str, str]:
        """See :class:`Credentials`."""
        return {"authorization": f"{self._prefix}{self._token.reveal()}"}

    async def renewed(self, number: int, status: int) -> bool:
        """
        See :class:`Credentials`.

        After a 401 there is another token. A 403 is about rights, and often about the rate: then
        there is one only if the operator has changed a secret.
        """
        if status != 401 and not await self._rotation.changed_since(self._rotation.count):
            return number != self._token.number
        self._token.drop(number)
        return True

    async def aclose(self) -> None:
        """See :class:`Credentials`."""
        await self._endpoint.aclose()

    async def _take(self) -> Granted:
        count = self._rotation.count
        try:
            granted = self._request.read(await self._ask())
        except Refused:
            if not await self._rotation.changed_since(count):
                raise
            granted = self._request.read(await self._ask())
        if granted.rotates and not self._token.rotates:
            log.warning("refresh_token_rotates", peer=self._name)
            self._token.rotates = True
        return granted

    async def _ask(self) -> Reply:
        try:
            return await self._request.send(self._endpoint)
        except Retryable as error:
            if error.reason != "reply_too_large":
                raise
            # For a source that means a smaller window, which would not help.
            forget(error)
            raise Retryable(str(error), reason="bad_reply", sent=True) from error
