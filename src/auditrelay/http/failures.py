"""A request without a usable reply: why, and whether the peer may have it; no memory of it left."""

import os
import re
import socket
import ssl
from collections.abc import Iterator

import httpx

from auditrelay.errors import RelayError, Retryable
from auditrelay.http.transport import HandshakeError
from auditrelay.telemetry.scrubber import scrub

_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)

_NOT_TLS = (
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "UNKNOWN_PROTOCOL",
    "UNEXPECTED_MESSAGE",
    "RECORD_LAYER_FAILURE",
    "PACKET_LENGTH_TOO_LONG",
    "RECORD_TOO_SMALL",
)
"""OpenSSL's names for a first answer that is not TLS."""


def no_reply(error: Exception, where: str, timeout: float, *, answered: bool) -> Retryable:
    """
    Return the error for a missing reply to the request *where*, which had *timeout* seconds.

    *answered* is whether at least the head of a reply came.
    """
    causes = list(_causes(error))
    sent = not isinstance(error, (*_UNSENT, httpx.WriteError))
    tls = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
    while_sending = False
    if isinstance(tls, ssl.SSLCertVerificationError):
        reason, message = "tls", f"no TLS connection for {where}: {tls.verify_message}"
    elif tls is not None or isinstance(error, HandshakeError):
        reason = "handshake"
        message = f"no TLS connection for {where}: {_why_no_handshake(error, tls, timeout)}"
    elif isinstance(error, httpx.ConnectTimeout):
        reason, message = "connect", f"no connection for {where} within {timeout / 2:g} s"
    elif isinstance(error, _UNSENT):
        reason = "connect"
        why = next(filter(None, map(_os_message, reversed(causes))), scrub(str(error), 200))
        message = f"no connection for {where}: {why}"
    elif isinstance(error, TimeoutError):
        reason, message = "timeout", f"no complete reply to {where} within {timeout:g} s"
    elif isinstance(error, httpx.ProtocolError) and not _disconnected(error):
        reason = "bad_reply"
        message = f"the reply to {where} is not HTTP: {scrub(str(error), 200)}"
    else:
        reason, while_sending = "reset", not answered
        message = f"the connection broke before the reply to {where} was complete"
    return Retryable(message, reason=reason, sent=sent, while_sending=while_sending)


def forget(error: RelayError) -> None:
    """
    Take from *error* and its causes their tracebacks, of which the frames keep what was read.

    An error is kept for as long as its request is retried, and longer where it is part of a cycle.
    """
    each: BaseException | None = error
    while each is not None:
        each.__traceback__ = None
        each = each.__cause__


def _why_no_handshake(error: Exception, tls: ssl.SSLError | None, timeout: float) -> str:
    reason = "" if tls is None else tls.reason or ""
    if reason in _NOT_TLS:
        return (
            "the peer does not speak TLS at this port; check the port, or write http:// if it is "
            "meant to be without TLS"
        )
    if any(isinstance(cause, TimeoutError | httpx.ConnectTimeout) for cause in _causes(error)):
        return (
            f"the peer did not complete the handshake within {timeout / 2:g} s; does it speak TLS "
            "at this port?"
        )
    if tls is None or isinstance(tls, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "the peer broke off the handshake; does it speak TLS at this port?"
    return reason.lower().replace("_", " ") or "the handshake failed"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield *error* and its causes, down to the operating system's, which httpx does not show."""
    while error is not None and not isinstance(error, RelayError):
        yield error
        error = error.__cause__ or error.__context__


def _disconnected(error: httpx.ProtocolError) -> bool:
    """Return whether the peer closed the connection: httpx has one class for that and bad HTTP."""
    return re.search("disconnected|closed", str(error)) is not None


def _os_message(error: BaseException) -> str | None:
    """Return the operating system's message for *error*, if it is the system's."""
    if isinstance(error, socket.gaierror):
        return error.strerror
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return None
