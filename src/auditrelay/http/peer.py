"""
Send requests to one HTTP peer, and raise an error that names the caller's next step.

Only this package opens connections to peers, waits between attempts, and decides that a request is
retried. Its rules: redirects are never followed and cookies never kept, TLS is always verified,
proxies from the environment are ignored, each request has one deadline for all its parts, and no
reply is read beyond *MAX_BODY_BYTES*, counted after decompression.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, Self, TypeVar

import httpx

from auditrelay import __version__
from auditrelay.clock import Clock
from auditrelay.confirmed_time import TOLERANCE
from auditrelay.errors import (
    ConfigError,
    Refused,
    Rejected,
    RelayError,
    RequestRefused,
    Retryable,
    WalkBroken,
    code_of,
)
from auditrelay.http.body import read_body
from auditrelay.http.credentials import Credentials, KeyCredentials
from auditrelay.http.failures import forget, no_reply
from auditrelay.http.headers import age, date
from auditrelay.http.quota import Quota
from auditrelay.http.rate import RateLimiter
from auditrelay.http.replies import Reply
from auditrelay.http.requests import Params, add_headers, build_request, json_body
from auditrelay.http.retry import REFUSED_ATTEMPTS, SOURCE_ATTEMPTS, retrying
from auditrelay.http.sent import count_sent
from auditrelay.http.tls import tls_context
from auditrelay.http.transport import Transport, proxied
from auditrelay.settings import PeerSettings, SourceSettings
from auditrelay.settings.secrets import Secret
from auditrelay.telemetry.logs import log
from auditrelay.telemetry.metrics import Metrics

LONG_BODY = 2 << 20
"""Bytes from which on a body is read in a thread: a million tiny records take a second."""

T = TypeVar("T")

Heard = Callable[[httpx.Request, Reply], None]
"""Called with each request and its reply."""


class Peer:
    """
    One HTTP peer: its connections, its deadline, its credentials and its rate.

    *name* is the name in the configuration. Our clock may be ahead of the peer's by *settle*, and a
    little more. *limiter* is the rate that the operator allows, and *quota* what the peer grants
    to the credentials; other peers may share either. A body of more than
    *max_body_bytes* is not read. The replies are evidence of what time it is for *name* if it
    *tells_time*. *heard* is called with each request and its reply, for a recording.
    """

    def __init__(
        self,
        name: str,
        settings: PeerSettings,
        *,
        base_url: str,
        credentials: Credentials,
        metrics: Metrics,
        clock: Clock,
        limiter: RateLimiter | None = None,
        settle: timedelta = timedelta(0),
        quota: Quota | None = None,
        max_body_bytes: int | None = None,
        tells_time: bool = True,
        heard: Heard | None = None,
    ) -> None:
        try:
            httpx.URL(base_url)
        except httpx.InvalidURL as error:
            raise ConfigError(f"{name}: {base_url!r} is not an address") from error
        self.name = name
        self._metrics = metrics
        self._clock = clock
        self._base_url = base_url
        self._credentials = credentials
        self._max_body_bytes = max_body_bytes
        self._tells_time = tells_time
        self._heard = heard
        self._limiter = limiter
        self._quota = quota
        self._timeout = settings.timeout.total_seconds()
        self._clock_differs = False
        self._max_clock_lead = settle + TOLERANCE
        # The deadline is for the whole request. Connecting has a smaller one of its own (half, as
        # TCP and TLS are timed apart), so that it is known whether the request was sent.
        self._extensions = {"timeout": {"connect": self._timeout / 2}}
        tls = tls_context(name, settings, base_url)
        # httpx's client would add cookies, redirects, authentication and a log line with the whole
        # address, which we do not want, and makes a small request take a third longer.
        self._transport: httpx.AsyncBaseTransport = (
            Transport(tls) if settings.proxy is None else proxied(settings.proxy, tls)
        )

    @classmethod
    def of_source(
        cls,
        name: str,
        settings: SourceSettings,
        metrics: Metrics,
        clock: Clock,
        *,
        headers: Callable[[], Mapping[str, str]],
        secret: Secret,
    ) -> Self:
        """Return the peer of the source *name*, with address and rate limit of its *settings*."""
        return cls(
            name,
            settings,
            base_url=settings.base_url,
            credentials=KeyCredentials(headers, [secret]),
            metrics=metrics,
            clock=clock,
            limiter=RateLimiter.of(settings.requests_per_minute, clock),
            settle=settings.settle,
        )

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        base_url: str | None = None,
        background: bool = False,
        status_counts: bool = False,
        has_events: bool = False,
    ) -> Reply:
        """
        Make one request and return the reply, whatever its status.

        After a 401 or 403 it is sent once more if the credentials have changed. *base_url* replaces
        the peer's own for this request. In the *background* it gives way to other requests at the
        rate limit. If its content *has_events*, its size is counted as sent.

        A reply that is not a success counts whether its body can be read or not: it is empty if
        not. Where the *status_counts*, so does a success, see :attr:`Reply.unread`. Raises
        Retryable if there is no reply, with the reason ``connect``, ``tls``, ``handshake``,
        ``timeout``, ``reset``, ``bad_reply`` or ``reply_too_large``; and with ``unsendable`` if a
        value of the request cannot be sent. What the credentials raise is raised as it is.
        """
        url = (self._base_url if base_url is None else base_url) + path
        attempt = partial(
            self._attempt,
            method,
            url,
            params,
            headers,
            content,
            background=background,
            status_counts=status_counts,
            has_events=has_events,
        )
        reply, number = await attempt()
        if reply.status in (401, 403) and await self._credentials.renewed(number, reply.status):
            reply, _ = await attempt()
        return reply

    async def get(
        self,
        path: str,
        params: Params,
        read: Callable[[Reply], T],
        *,
        background: bool = False,
        finely: bool = False,
    ) -> T:
        """Send a GET under the policy of :meth:`ask`, and return the result of *read*."""
        return await self.ask("GET", path, params, None, read, background=background, finely=finely)

    async def ask(
        self,
        method: str,
        path: str,
        params: Params,
        body: Mapping[str, Any] | None,
        read: Callable[[Reply], T],
        *,
        headers: Mapping[str, str] | None = None,
        background: bool = False,
        finely: bool = False,
    ) -> T:
        """
        Ask for something under the retry policy, and return the result of *read* for the reply.

        *method* may be POST, if the request only reads; *body* is sent as JSON. *read* checks and
        decodes the reply, and raises an error of ``errors``. For sources only: a request that the
        vendor will never accept (Rejected) is RequestRefused like a refusal that it may get alone,
        because no window may be skipped silently; a *finely* asked one is sent more than once
        first, as records are passed over that cannot be read. A reply that is too large breaks the
        walk, because a smaller window may have smaller pages, and so does a cursor that cannot be
        sent.
        """
        content = None
        if body is not None:
            content = json_body(body)
            headers = {**(headers or {}), "content-type": "application/json"}
        send = partial(
            self.request,
            method,
            path,
            params=params,
            headers=headers,
            content=content,
            background=background,
        )
        async for attempt in retrying(
            self.name,
            self._metrics,
            sleep=self._clock.sleep,
            attempts=SOURCE_ATTEMPTS,
            refused_attempts=REFUSED_ATTEMPTS if finely else 1,
        ):
            with attempt:
                try:
                    return await self._answer(send, read)
                except RelayError as error:
                    forget(error)
                    raise
        # For the type checker: tenacity's loop returns or raises.
        raise AssertionError("the retry policy ended without a result")  # pragma: no cover

    async def _answer(self, send: Callable[[], Awaitable[Reply]], read: Callable[[Reply], T]) -> T:
        try:
            return await self._read(await send(), read)
        except Retryable as error:
            if error.reason not in ("reply_too_large", "unsendable"):
                raise
            raise WalkBroken(str(error), reason=error.reason) from error

    async def _read(self, reply: Reply, read: Callable[[Reply], T]) -> T:
        self._compare_clocks(reply)
        try:
            if len(reply.body) > LONG_BODY:
                return await asyncio.to_thread(read, reply)
            return read(reply)
        except (Rejected, Refused) as error:
            if isinstance(error, Refused) and not error.of_request:
                raise
            raise RequestRefused(str(error), reason=code_of(error), status=error.status) from error

    def _compare_clocks(self, reply: Reply) -> None:
        """
        Raise Refused if our clock is ahead of the vendor's by more than ``settle`` and a tolerance.

        A window would then end in the vendor's future, and events that occur there later would
        count as read. ``Age`` is how long a cache has kept the reply.
        """
        made = date(reply.headers)
        if made is None:
            return
        lead = self._clock.now() - age(reply.headers) - made
        if lead > self._max_clock_lead:
            seconds = round(lead.total_seconds())
            fix = "fix the system clock"
            if others := self._clock.confirmed.agreeing():
                agree = "1 other agrees" if others == 1 else f"{others} others agree"
                fix = (
                    f"{agree} with it, so that one is wrong, or what a proxy says in its place; "
                    f"have it fixed, or set settle to more than {seconds} s"
                )
            raise Refused(
                f"the clock of this machine is {seconds} s ahead of that of {self._base_url}: "
                f"{fix}; polling is paused until then, or time that is still to come would count "
                "as read"
            )

    def _hear_time(self, headers: httpx.Headers) -> None:
        """Let the clock know what time it is by the *headers* of a reply, whatever its status."""
        if not self._tells_time:
            return
        self._clock.confirmed.hear(self.name, date(headers), age(headers))
        ahead = self._clock.confirmed.ahead_of(self.name)
        if ahead and not self._clock_differs:
            seconds = round(ahead.total_seconds())
            log.warning("clock_differs", peer=self.name, ahead_seconds=seconds)
        self._clock_differs = bool(ahead)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._credentials.aclose()
        await self._transport.aclose()

    async def _attempt(
        self,
        method: str,
        url: str,
        params: Params | None,
        headers: Mapping[str, str] | None,
        content: bytes | None,
        *,
        background: bool,
        status_counts: bool,
        has_events: bool,
    ) -> tuple[Reply, int]:
        """Make one request; return the reply and the number of the credentials it went with."""
        if self._quota is not None:
            await self._quota.wait()
        if self._limiter is not None:
            await self._limiter.acquire(background=background)
        number = await self._credentials.prepare()
        own = {key.lower(): value for key, value in (headers or {}).items()}
        request = build_request(
            method,
            url,
            params=params,
            headers=_DEFAULT_HEADERS | own,
            content=content,
            extensions=self._extensions,
        )
        identity = self._credentials.headers(request)
        add_headers(
            request, {key: value for key, value in identity.items() if key.lower() not in own}
        )
        # Not the clock's: this only measures, for a histogram, what the network really took.
        started = time.perf_counter()
        try:
            reply = await self._exchange(request, f"{method} {url}", status_counts=status_counts)
        except Retryable as failure:
            forget(failure)
            if has_events and content and failure.sent:
                count_sent(self._metrics, self.name, content)
            seconds = self._observe(failure.reason, started)
            self._log_request(request, seconds, reason=failure.reason)
            raise
        if has_events and content:
            count_sent(self._metrics, self.name, content)
        if self._heard is not None:
            self._heard(request, reply)
        seconds = self._observe(str(reply.status), started)
        self._log_request(request, seconds, status=reply.status, bytes=len(reply.body))
        return reply, number

    async def _exchange(self, request: httpx.Request, where: str, *, status_counts: bool) -> Reply:
        response: httpx.Response | None = None
        unread: Retryable | None = None
        try:
            # httpx limits each read, not the whole: a reply that trickles in would never end.
            async with asyncio.timeout(self._timeout):
                response = await self._transport.handle_async_request(request)
                body = await read_body(response, where, self._max_body_bytes)
        except (OSError, httpx.TransportError, Retryable) as error:
            if response is None or response.is_success:
                if isinstance(error, Retryable):
                    unread, cause = error, error.__cause__
                else:
                    answered = response is not None
                    unread = no_reply(error, where, self._timeout, answered=answered)
                    cause = error
                if response is None or not status_counts:
                    raise unread from cause
                forget(unread)
            body = b""  # the status says what to do next
        self._hear_time(response.headers)
        now = self._clock.now()
        return Reply(response.status_code, response.headers, body, where, now, unread)

    def _observe(self, code: str, started: float) -> float:
        seconds = time.perf_counter() - started
        self._metrics.request_duration_seconds.labels(self.name, code).observe(seconds)
        return seconds

    def _log_request(self, request: httpx.Request, seconds: float, **outcome: object) -> None:
        # Only the path of the address: the query, the headers and the body may be confidential.
        log.debug(
            "request",
            peer=self.name,
            method=request.method,
            path=request.url.path,
            seconds=round(seconds, 3),
            **outcome,
        )


_DEFAULT_HEADERS = {
    "user-agent": f"auditrelay/{__version__}",
    "accept": "application/json",
    "accept-encoding": "gzip",
}
