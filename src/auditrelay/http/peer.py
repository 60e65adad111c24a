"""
Speak HTTP to one peer, and say of each answer what the caller should do next.

This is the only module that opens a connection, waits between attempts, or decides that a request
is worth repeating. Its rules: redirects are never followed and cookies never kept, TLS is always
verified, the environment's proxies are ignored, every request has one deadline for all of it, and
no reply is read further than *MOST_BYTES*, counted after decompression.
"""

import asyncio
import functools
import json
import math
import os
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec
import orjson
import tenacity
from isal import isal_zlib

from auditrelay import __version__
from auditrelay.errors import (
    ConfigError,
    Refused,
    Rejected,
    RelayError,
    Retryable,
    TooLarge,
    WalkBroken,
)
from auditrelay.settings import PeerSettings, Secret, SourceSettings
from auditrelay.telemetry.logs import Metrics, log, scrub

MOST_BYTES = 32 * 2**20
"""Most of one reply's body that is read, after decompression."""

CLOCK_TOLERANCE = timedelta(minutes=1)
"""How far our clock may be ahead of a vendor's, beside ``settle``: every overlap heals more."""

LONGEST_WAIT = 86400.0
"""Most seconds that a peer can make us wait before the next attempt."""

SOURCE_ATTEMPTS = 5
"""How often a source's request is made before the poll is given up; the next poll goes on."""

SOURCE_PATIENCE = 900.0
"""A source that asks for more seconds than this is left alone until a later poll."""

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)


# --- replies -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reply:
    """
    What a peer answered, whatever its status.

    *body* is decompressed. *where* names the request in messages: method and address, never the
    query, which may hold what nobody should read.
    """

    status: int
    headers: httpx.Headers
    body: bytes
    where: str

    def json(self) -> Any:
        """Return the decoded body, or raise ValueError if it is not JSON."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return _lenient(self.body)


def _lenient(body: bytes) -> Any:
    """Decode JSON as forgivingly as can be: NaN, lone surrogates, control characters, any UTF."""
    try:
        return json.loads(body, strict=False)
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error


@functools.cache
def _decoder(shape: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(shape)


def decode(reply: Reply, shape: type[S]) -> S:
    """
    Return the JSON body of *reply* as *shape*, usually a Struct with records left as Raw.

    Where the fast decoder refuses the text (NaN, a lone surrogate...) the standard one reads it
    and each record is written anew, so that one odd value does not cost a page. Raises Retryable
    if the body is not JSON or not of that shape: most often it is the error page of something in
    between, shown with a status of 200.
    """
    try:
        try:
            decoded: S = _decoder(shape).decode(reply.body)
        except msgspec.ValidationError:
            raise
        except (msgspec.DecodeError, RecursionError):
            value = _as_raw(_lenient(reply.body), msgspec.inspect.type_info(shape))
            decoded = msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise _misshapen(reply, str(error)) from error
    except ValueError as error:
        raise _misshapen(reply, "it is not JSON") from error
    return decoded


def _as_raw(value: Any, shape: msgspec.inspect.Type) -> Any:
    """Write the parts of *value* that *shape* wants as text; leave the checking to msgspec."""
    match shape, value:
        case msgspec.inspect.RawType(), _:
            return msgspec.Raw(json.dumps(value).encode())
        case msgspec.inspect.ListType(item_type=item), list():
            return [_as_raw(part, item) for part in value]
        case msgspec.inspect.StructType(fields=fields), dict():
            types = {field.encode_name: field.type for field in fields}
            return {key: _as_raw(value[key], types[key]) for key in types.keys() & value.keys()}
        case msgspec.inspect.UnionType(types=arms), dict() | list():
            wanted = msgspec.inspect.StructType | msgspec.inspect.ListType
            return next((_as_raw(value, arm) for arm in arms if isinstance(arm, wanted)), value)
    return value


def _misshapen(reply: Reply, what: str) -> Retryable:
    kind = scrub(reply.headers.get("content-type", "").partition(";")[0], 60) or "not given"
    return Retryable(
        f"{reply.status} from {reply.where}, but the body is not what the API answers: {what} "
        f"(content type {kind}, {len(reply.body)} bytes)",
        reason="bad_reply",
        sent=True,
    )


# --- what a status means -----------------------------------------------------

_ADVICE = {
    401: "the credentials are not accepted; check the key, and whether it has expired",
    403: "the credentials are known but may not do this; check the rights of the key",
    404: "there is nothing at this address; check the address and the ids in the configuration",
    405: "this address takes no such request; check the address in the configuration",
}


def check(reply: Reply, *, words: str = "", hint: str = "", wait: float | None = None) -> Reply:
    """
    Return *reply* if it is a success, else raise what the caller should do.

    Raises Retryable (408, 425, 429, 5xx), Refused (401, 403, 404, 405, redirects), TooLarge (413)
    or Rejected (any other 4xx). *words* is the server's own short explanation, where the caller
    found one; *hint* is what the operator should do, where the caller knows more than the status
    tells; *wait* the seconds that the server asks for in its own way, used without ``Retry-After``.
    """
    status = reply.status
    if 200 <= status < 300:
        return reply
    said = f"{status} from {reply.where}"
    if words:
        said = f"{said}: {scrub(words, 200)}"
    if status in (408, 425, 429) or status >= 500:
        asked = retry_after(reply.headers, datetime.now(UTC))
        raise Retryable(
            said,
            reason=f"status_{status}",
            retry_after=wait if asked is None else asked,
            # A gateway's answer tells nothing about what the server behind it has done.
            sent=status in (500, 502, 504),
        )
    if status in _ADVICE:
        raise Refused(f"{said}; {hint or _ADVICE[status]}", status=status)
    if status < 400:
        raise Refused(f"{said}; {_redirection(reply)}", status=status)
    if status == 413:
        raise TooLarge(said, reason="status_413", status=status)
    raise Rejected(said, reason=f"status_{status}", status=status)


def _redirection(reply: Reply) -> str:
    """Say where a redirect points: the host alone, since the rest may hold anything."""
    try:
        host = urlsplit(reply.headers.get("location", "")).hostname
    except ValueError:
        host = None
    target = f"to {scrub(host, 100)}" if host else "elsewhere"
    return (
        f"it redirects {target}, and redirects are never followed, because the credentials would "
        "go along; check the address in the configuration"
    )


def retry_after(headers: httpx.Headers, now: datetime) -> float | None:
    """
    Return how many seconds ``Retry-After`` asks for, or None if it is absent or makes no sense.

    Both forms of https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3 are read. A date counts
    from the reply's own ``Date`` where there is one, because the peer's clock may differ from
    *now*. The result lies between 0 and *LONGEST_WAIT*.
    """
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        until = _http_date(value)
        if until is None:
            return None
        seconds = (until - (_http_date(headers.get("date", "")) or now)).total_seconds()
    return None if math.isnan(seconds) else min(max(seconds, 0.0), LONGEST_WAIT)


def _http_date(text: str) -> datetime | None:
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


# --- the one retry policy ----------------------------------------------------


async def pause(seconds: float) -> None:
    """Wait. Everything here waits by this function, so that tests need not."""
    await asyncio.sleep(seconds)


_backoff = tenacity.wait_random_exponential(multiplier=0.5, max=60)


def _failure(state: tenacity.RetryCallState) -> Retryable:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, Retryable)  # noqa: S101  # nothing else is retried
    return error


def _wait(state: tenacity.RetryCallState) -> float:
    """Back off with full jitter, and never come back sooner than the peer has asked for."""
    return max(_backoff(state), _failure(state).retry_after or 0.0)


def retrying(
    peer: str,
    metrics: Metrics,
    *,
    attempts: int | None = None,
    sleep: Callable[[float], Awaitable[None]] | None = None,
) -> tenacity.AsyncRetrying:
    """
    Return the policy by which a request to *peer* is repeated while it raises Retryable.

    To be used as ``async for attempt in retrying(...): with attempt: ...``. The last failure is
    raised as it is. With *attempts* it gives up after so many, or at once when the peer asks for
    more than *SOURCE_PATIENCE*; without, it never gives up. *sleep* waits in the place of
    :func:`pause`.
    """

    def enough(state: tenacity.RetryCallState) -> bool:
        return attempts is not None and (
            state.attempt_number >= attempts
            or (_failure(state).retry_after or 0.0) > SOURCE_PATIENCE
        )

    def note(state: tenacity.RetryCallState) -> None:
        reason = _failure(state).reason
        metrics.requests_retried.labels(peer, reason).inc()
        log.warning(
            "request_retried",
            peer=peer,
            attempt=state.attempt_number,
            wait=round(state.upcoming_sleep, 3),
            reason=reason,
        )

    return tenacity.AsyncRetrying(
        sleep=sleep or pause,
        stop=enough,
        wait=_wait,
        retry=tenacity.retry_if_exception_type(Retryable),
        before_sleep=note,
        reraise=True,
    )


_background: ContextVar[bool] = ContextVar("background", default=False)


def in_background() -> None:
    """Let the current task and those that it starts give way to others at a source's pace."""
    _background.set(True)


class Pace:
    """
    At most *per_minute* turns in any minute, evenly spaced after a small burst.

    A turn is booked before it is waited for, so those who wait keep their order. Of those in the
    background (:func:`in_background`) only one at a time has booked: whoever else comes waits for
    no more than that one.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        burst = max(1, per_minute // 10)
        # What the burst takes is missing from the rest of its minute.
        self._spacing = 60 / (per_minute - burst + 1)
        self._slack = (burst - 1) * self._spacing
        self._clock = clock
        self._next = -math.inf
        self._behind = asyncio.Lock()

    async def turn(self) -> None:
        """Wait until the next request may be sent."""
        if not _background.get():
            return await self._book()
        async with self._behind:
            return await self._book()

    async def _book(self) -> None:
        now = self._clock()
        booked = max(self._next, now)
        self._next = booked + self._spacing
        wait = booked - self._slack - now
        if wait > 0.001:  # less is the rounding of sums
            await pause(wait)


# --- peers -------------------------------------------------------------------


@functools.cache
def _public_tls() -> ssl.SSLContext:
    """Return the one context for all who trust the public certificates: it takes 20 ms to make."""
    return httpx.create_ssl_context(trust_env=False)


@functools.cache
def _no_tls() -> ssl.SSLContext:
    """Return a context that trusts nobody, for those who speak plain http."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _tls(name: str, settings: PeerSettings, base_url: str) -> ssl.SSLContext:
    addresses = (base_url, settings.proxy or "", *settings.addresses.values())
    if not any(address.startswith("https:") for address in addresses):
        return _no_tls()
    if settings.ca_file is None and settings.client_cert is None:
        return _public_tls()
    try:
        if settings.ca_file is None:
            context = httpx.create_ssl_context(trust_env=False)
        else:
            context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:
        raise ConfigError(
            f"{name}.ca_file: {settings.ca_file} holds no certificates in PEM form"
        ) from error
    if settings.client_cert is not None and settings.client_key is not None:
        try:
            # Without a password of some kind OpenSSL would ask for one at the terminal.
            context.load_cert_chain(settings.client_cert, settings.client_key, password="")
        except OSError as error:
            raise ConfigError(
                f"{name}.client_cert, client_key: {settings.client_cert} and "
                f"{settings.client_key} must be a certificate and its unencrypted key in PEM form"
            ) from error
    return context


def _proxy(address: str | None, tls: ssl.SSLContext) -> httpx.Proxy | None:
    if address is None:
        return None
    return httpx.Proxy(address, ssl_context=tls if address.startswith("https:") else None)


class Peer:
    """
    One HTTP peer: its connections, its deadline, its credentials and its rate.

    *name* is the name in the configuration. *headers* is called for each request and returns what
    identifies us to the peer, so that a rotated key is used at once; *secrets* are what it is made
    of, and are read again after a 401 or 403. *clock* counts seconds for the rate.
    """

    def __init__(
        self,
        name: str,
        settings: PeerSettings,
        *,
        base_url: str,
        headers: Callable[[], Mapping[str, str]],
        metrics: Metrics,
        secrets: Sequence[Secret] = (),
        requests_per_minute: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            httpx.URL(base_url)
        except httpx.InvalidURL as error:
            raise ConfigError(f"{name}: {base_url!r} is not an address") from error
        self.name = name
        self._metrics = metrics
        self._base_url = base_url
        self._identity = headers
        self._secrets = secrets
        self._rotations = 0
        self._rotating = asyncio.Lock()
        self._pace = Pace(requests_per_minute, clock) if requests_per_minute else None
        self._timeout = settings.timeout.total_seconds()
        held_back = settings.settle if isinstance(settings, SourceSettings) else timedelta(0)
        self._most_ahead = held_back + CLOCK_TOLERANCE
        # The deadline is for the whole request. Connecting has a smaller one of its own (half, as
        # TCP and TLS are timed apart), so that it is known whether the request was ever sent.
        self._extensions = {"timeout": {"connect": self._timeout / 2}}
        tls = _tls(name, settings, base_url)
        # httpx's client would add cookies, redirects, authentication and a log line with the
        # whole address, none of which is wanted, and a third to the time of a small request.
        self._transport = httpx.AsyncHTTPTransport(
            verify=tls,
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            proxy=_proxy(settings.proxy, tls),
        )

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        base_url: str | None = None,
    ) -> Reply:
        """
        Make one request and return the reply, whatever its status.

        After a 401 or 403 the secrets are read again, and if one has changed the request is made
        once more. *base_url* replaces the peer's own for this request. Raises Retryable if there
        is no reply, with the reason ``connect``, ``tls``, ``timeout``, ``reset``, ``bad_reply`` or
        ``reply_too_large``.
        """
        url = (self._base_url if base_url is None else base_url) + path
        rotations = self._rotations
        reply = await self._attempt(method, url, params, headers, content)
        if reply.status in (401, 403) and await self._rotated_since(rotations):
            reply = await self._attempt(method, url, params, headers, content)
        return reply

    async def get(self, path: str, params: Mapping[str, str], read: Callable[[Reply], T]) -> T:
        """
        Return what *read* makes of the reply to a GET, repeated as the retry policy says.

        *read* checks and decodes, and raises what the caller should do. This is for sources: what
        a vendor will never accept (Rejected) holds the source like a refusal, because no window
        may be skipped in silence; and a reply that is too large breaks the walk, because a
        smaller window may have smaller pages.
        """
        async for attempt in retrying(self.name, self._metrics, attempts=SOURCE_ATTEMPTS):
            with attempt:
                try:
                    reply = await self.request("GET", path, params=params)
                    self._compare_clocks(reply)
                    return read(reply)
                except Rejected as error:
                    raise Refused(str(error), status=error.status) from error
                except Retryable as error:
                    if error.reason != "reply_too_large":
                        raise
                    raise WalkBroken(str(error), reason=error.reason) from error
        # tenacity returns or raises; this tells the type checker so.
        raise AssertionError("the policy ended without a result")  # pragma: no cover

    def _compare_clocks(self, reply: Reply) -> None:
        """
        Raise Refused if our clock runs ahead of the vendor's by more than the windows hold back.

        A window would then end in the vendor's future, and what happens there later would count
        as read. ``Age`` is how long a cache has kept the reply.
        """
        told = _http_date(reply.headers.get("date", ""))
        if told is None:
            return
        age = reply.headers.get("age", "")
        now = datetime.now(UTC) - timedelta(seconds=int(age) if age.isdecimal() else 0)
        if now - told > self._most_ahead:
            ahead = round((now - told).total_seconds())
            raise Refused(
                f"the clock of this machine is {ahead} s ahead of that of {self._base_url}: set "
                "it right; until then nothing is read, or time that has yet to come would count "
                "as read"
            )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.aclose()

    async def _rotated_since(self, rotations: int) -> bool:
        """Read the secrets again; return True if they are others than at that count."""
        # One at a time: who reads after another finds no change, and must see that it was counted.
        async with self._rotating:
            for secret in self._secrets:
                if await asyncio.to_thread(secret.reload):
                    self._rotations += 1
        # Another request may have found the new secret while this one was on its way.
        return self._rotations != rotations

    async def _attempt(
        self,
        method: str,
        url: str,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        content: bytes | None,
    ) -> Reply:
        if self._pace is not None:
            await self._pace.turn()
        merged = _STANDING_HEADERS.copy()
        for group in (self._identity(), headers or {}):
            for key, value in group.items():
                merged[key.lower()] = value
        request = httpx.Request(
            method,
            url,
            params=params,
            headers=merged,
            content=content,
            extensions=self._extensions,
        )
        started = time.perf_counter()
        try:
            reply = await self._exchange(request, f"{method} {url}")
        except Retryable as failure:
            self._observe(failure.reason, started)
            raise
        self._observe(str(reply.status), started)
        return reply

    async def _exchange(self, request: httpx.Request, where: str) -> Reply:
        try:
            # httpx limits each read, not the whole: a peer that trickles would hold us for ever.
            async with asyncio.timeout(self._timeout):
                response = await self._transport.handle_async_request(request)
                stream = response.stream
                assert isinstance(stream, httpx.AsyncByteStream)  # noqa: S101  # it is async
                try:
                    body = await _read(stream, response.headers.get("content-encoding"), where)
                finally:
                    # Closing before the end of the body drops the connection with it.
                    await stream.aclose()
        except (OSError, httpx.TransportError) as error:
            raise _no_reply(error, where, self._timeout) from error
        return Reply(response.status_code, response.headers, body, where)

    def _observe(self, code: str, started: float) -> None:
        seconds = time.perf_counter() - started
        self._metrics.request_duration_seconds.labels(self.name, code).observe(seconds)


_STANDING_HEADERS = {
    "user-agent": f"auditrelay/{__version__}",
    "accept": "application/json",
    "accept-encoding": "gzip",
}


async def _read(stream: httpx.AsyncByteStream, encoding: str | None, where: str) -> bytes:
    """Return the whole body, decompressed as it comes, so that a bomb is never unfolded."""
    unzip: _Unzip | None = None
    if encoding is not None and encoding.lower() != "identity":
        if encoding.lower() not in ("gzip", "x-gzip"):
            raise _unusable(where, f"has the content encoding {scrub(encoding, 40)}")
        unzip = _Unzip()
    parts: list[bytes] = []
    room = MOST_BYTES
    async for chunk in stream:
        try:
            part = chunk if unzip is None else unzip.feed(chunk, room + 1)
        except _DAMAGED as error:
            raise _unusable(where, "is damaged gzip") from error
        room -= len(part)
        if room < 0:
            raise _unusable(where, f"is larger than {MOST_BYTES:,} bytes", "reply_too_large")
        parts.append(part)
    if unzip is not None and not unzip.complete:
        raise _unusable(where, "is gzip that breaks off")
    return b"".join(parts)


_DAMAGED: type[Exception] = isal_zlib.IsalError  # type: ignore[assignment]  # the stub is wrong


class _Unzip:
    """Decompress gzip piece by piece, also several members in a row."""

    def __init__(self) -> None:
        self._member: Any = None

    @property
    def complete(self) -> bool:
        """Whether the last member has come to its end."""
        return self._member is None

    def feed(self, data: bytes, most: int) -> bytes:
        """Return what *data* holds, but stop at *most* bytes. Raises _DAMAGED."""
        parts: list[bytes] = []
        while data and most > 0:
            if self._member is None:
                self._member = isal_zlib.decompressobj(wbits=31)
            part = self._member.decompress(data, most)
            most -= len(part)
            parts.append(part)
            if self._member.eof:
                data, self._member = self._member.unused_data, None
            else:
                data = self._member.unconsumed_tail
        return b"".join(parts)


def _unusable(where: str, what: str, reason: str = "bad_reply") -> Retryable:
    return Retryable(f"the reply to {where} {what}", reason=reason, sent=True)


def _no_reply(error: Exception, where: str, timeout: float) -> Retryable:
    """Say why there is no reply, and whether the peer may have had the request."""
    causes = list(_causes(error))
    sent = not isinstance(
        error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.ProxyError
    )
    tls = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
    if tls is not None:
        reason = "tls"
        why = getattr(tls, "verify_message", "") or tls.reason or "the handshake failed"
        said = f"no TLS connection for {where}: {why}"
    elif isinstance(error, httpx.ConnectTimeout):
        reason, said = "connect", f"no connection for {where} within {timeout / 2:g} s"
    elif not sent:
        reason = "connect"
        why = next(filter(None, map(_system_words, reversed(causes))), scrub(str(error), 200))
        said = f"no connection for {where}: {why}"
    elif isinstance(error, TimeoutError):
        reason, said = "timeout", f"no complete reply to {where} within {timeout:g} s"
    elif isinstance(error, httpx.ProtocolError) and not _hung_up(error):
        reason, said = "bad_reply", f"the reply to {where} is not HTTP"
    else:
        reason = "reset"
        said = f"the connection broke before the reply to {where} was complete"
    return Retryable(said, reason=reason, sent=sent)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield *error* and what it came from, down to the system's own, which httpx does not tell."""
    while error is not None and not isinstance(error, RelayError):
        yield error
        error = error.__cause__ or error.__context__


def _hung_up(error: httpx.ProtocolError) -> bool:
    """Tell a peer that hangs up from one that does not speak HTTP: httpx has one class for both."""
    return re.search("disconnected|closed", str(error)) is not None


def _system_words(error: BaseException) -> str | None:
    """Return the operating system's words for *error*, if it is the system's."""
    if isinstance(error, socket.gaierror):
        return error.strerror
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return None
