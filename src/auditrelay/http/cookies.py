"""
The cookies that a peer sets: only those that a header can carry, and not more than one header can.

By hand: the parsers of the standard library lose cookies. ``SimpleCookie`` drops the whole line for
an attribute that it does not know (``Partitioned``), ``CookieJar`` for a ``Max-Age`` that is not a
number or a ``Domain`` other than that of the request.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime

import httpx

from auditrelay.http.headers import http_date

MAX_COOKIE_BYTES = 4096
"""Most bytes of one cookie: browsers keep no longer ones (RFC 6265, 6.1)."""

MAX_HEADER_BYTES = 16 * 1024
"""Most bytes of all of them together: servers refuse more."""

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_VALUE = re.compile(r"[ -:<-~]+", re.ASCII)


def is_cookie(name: str, value: str) -> bool:
    """Return whether the header ``Cookie`` can carry a cookie of this *name* and *value*."""
    return (
        len(name) + len(value) <= MAX_COOKIE_BYTES
        and _NAME.fullmatch(name) is not None
        and _VALUE.fullmatch(value) is not None
    )


def header_of(cookies: Mapping[str, str]) -> str:
    """Return the value of the header ``Cookie``."""
    return "; ".join(f"{name}={value}" for name, value in cookies.items())


def updated(
    cookies: Mapping[str, str],
    headers: httpx.Headers,
    now: datetime,
    *,
    names: re.Pattern[str] = _NAME,
) -> dict[str, str]:
    """
    Return *cookies* as the ``Set-Cookie`` headers of a reply, received *now*, change them.

    Only those with one of these *names* are set or deleted. One that could not be sent is ignored.
    """
    kept = dict(cookies)
    for name, value, alive in _set_cookies(headers, now):
        if names.fullmatch(name) is None:
            continue
        if not alive:
            kept.pop(name, None)
        elif is_cookie(name, value):
            more = {**kept, name: value}
            kept = more if len(header_of(more)) <= MAX_HEADER_BYTES else kept
    return kept


def _set_cookies(headers: httpx.Headers, now: datetime) -> Iterator[tuple[str, str, bool]]:
    """Yield name and value of each cookie, and whether it is to be kept (RFC 6265, 5.2)."""
    for line in headers.get_list("set-cookie"):
        (name, value), *attributes = (
            (key.strip(), word.strip())
            for key, _, word in (part.partition("=") for part in line.split(";"))
        )
        values = {key.lower(): word for key, word in attributes}
        if re.fullmatch(r"-?\d+", values.get("max-age", ""), re.ASCII):
            ends = re.match("-|0+$", values["max-age"]) is not None
        else:
            until = http_date(values.get("expires", ""))
            ends = until is not None and until <= now
        yield name, value, bool(value) and not ends
