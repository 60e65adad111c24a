"""
A request that can be sent, also where values of it come from the peer: a cursor, a cookie.

This is the only place where such values become part of a request, for every source and sink.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import httpx
import orjson

from auditrelay.errors import Retryable

MAX_VALUE_BYTES = 8 * 1024
"""Most bytes of one parameter: many servers accept no longer address."""


Params = Mapping[str, str] | Sequence[tuple[str, str]] | str
"""The parameters of an address: by name; as pairs, of which a name may have several; or the whole
query, as the peer itself has written it."""


def build_request(
    method: str,
    url: str,
    *,
    params: Params | None,
    headers: Mapping[str, str],
    content: bytes | None,
    extensions: dict[str, Any],
) -> httpx.Request:
    """Return the request. Raises Retryable (``unsendable``) for a value that cannot be sent."""
    if not isinstance(params, str):
        params = tuple(params.items() if isinstance(params, Mapping) else params or ())
    address = _address(method, url, params)
    if (name := _unsendable_header(headers)) is not None:
        raise _bad_header(name, f"{method} {url}")
    return httpx.Request(method, address, headers=headers, content=content, extensions=extensions)


def add_headers(request: httpx.Request, headers: Mapping[str, str]) -> None:
    """Add *headers* to *request*, in place of its own of these names. Raises as the above does."""
    if (name := _unsendable_header(headers)) is not None:
        raise _bad_header(name, f"{request.method} {request.url.copy_with(query=None)}")
    for name, value in headers.items():
        request.headers[name.lower()] = value


def _unsendable_header(headers: Mapping[str, str]) -> str | None:
    for name, value in headers.items():
        # Above all no line end, which would begin another header (RFC 9110, 5.5).
        if not (value.isascii() and value.isprintable()):
            return name
    return None


def _bad_header(name: str, where: str) -> Retryable:
    return _unsendable(f"the header {name} of {where} contains a character that no header may have")


# To parse an address takes longer than the rest of a request, and a sink has only a few.
@lru_cache(maxsize=16)
def _address(method: str, url: str, params: tuple[tuple[str, str], ...] | str) -> httpx.URL:
    query = _query(params, f"{method} {url}")
    try:
        return httpx.URL(f"{url}?{query}" if query else url)
    except httpx.InvalidURL as error:  # the values together are too long
        raise _unsendable(f"the address of {method} {url} cannot be sent: {error}") from error


def _query(params: tuple[tuple[str, str], ...] | str, where: str) -> str:
    if isinstance(params, str):
        _check(params, f"the query of {where}")
        return params
    parts = []
    for name, value in params:
        _check(value, f"the parameter {name} of {where}")
        # Brackets in a name stay as they are: not every server decodes a name before it looks.
        parts.append(f"{quote(name, safe='[]')}={quote(value, safe='')}")
    return "&".join(parts)


def _check(value: str, what: str) -> None:
    # A lone surrogate is not printable either: what passes can be encoded.
    if not value.isprintable():
        raise _unsendable(f"{what} contains a character that no address may have")
    if (size := len(value.encode())) > MAX_VALUE_BYTES:
        raise _unsendable(f"{what} has {size:,} bytes, and at most {MAX_VALUE_BYTES:,} are sent")


def _unsendable(message: str) -> Retryable:
    return Retryable(message, reason="unsendable")


def json_body(value: Any) -> bytes:
    """Return *value* as JSON: every digit of its numbers, and any text that JSON can have."""
    try:
        return orjson.dumps(value)
    except TypeError:  # an integer beyond 64 bits, or half a character, which is escaped
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
