"""
A request that can be sent, also where values of it come from the peer: a cursor, a cookie.

This is the only place where such values become part of a request, for every source and sink.
"""

from collections.abc import Mapping
from typing import Any

import httpx

from auditrelay.errors import Retryable

MAX_VALUE_BYTES = 8 * 1024
"""Most bytes of one parameter: many servers accept no longer address."""


def build_request(
    method: str,
    url: str,
    *,
    params: Mapping[str, str] | None,
    headers: Mapping[str, str],
    content: bytes | None,
    extensions: dict[str, Any],
) -> httpx.Request:
    """Return the request. Raises Retryable (``unsendable``) for a value that cannot be sent."""
    for name, value in (params or {}).items():
        # A lone surrogate is not printable either: what passes can be encoded.
        if not value.isprintable():
            problem = "contains a character that no address may have"
            raise _unsendable(f"the parameter {name} of {method} {url} {problem}")
        if (size := len(value.encode())) > MAX_VALUE_BYTES:
            problem = f"has {size:,} bytes, and at most {MAX_VALUE_BYTES:,} are sent"
            raise _unsendable(f"the parameter {name} of {method} {url} {problem}")
    _check_headers(headers, f"{method} {url}")
    try:
        return httpx.Request(
            method, url, params=params, headers=headers, content=content, extensions=extensions
        )
    except httpx.InvalidURL as error:  # the values together are too long
        raise _unsendable(f"the address of {method} {url} cannot be sent: {error}") from error


def add_headers(request: httpx.Request, headers: Mapping[str, str]) -> None:
    """Add *headers* to *request*, in place of its own of these names. Raises as the above does."""
    _check_headers(headers, f"{request.method} {request.url.copy_with(query=None)}")
    for name, value in headers.items():
        request.headers[name.lower()] = value


def _check_headers(headers: Mapping[str, str], where: str) -> None:
    for name, value in headers.items():
        # Above all no line end, which would begin another header (RFC 9110, 5.5).
        if not (value.isascii() and value.isprintable()):
            problem = "contains a character that no header may have"
            raise _unsendable(f"the header {name} of {where} {problem}")


def _unsendable(message: str) -> Retryable:
    return Retryable(message, reason="unsendable")
