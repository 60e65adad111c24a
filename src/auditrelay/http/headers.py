"""Values of a reply's headers: parsed within bounds, never raising."""

import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

MAX_AGE = 2**31
"""Seconds that an ``Age`` counts as if it is more, or no number of them."""

MAX_RETRY_AFTER = 86400.0
"""Most seconds that a peer can make us wait before the next attempt."""


def retry_after(headers: httpx.Headers, now: datetime) -> float | None:
    """
    Return how many seconds ``Retry-After`` asks for, or None if it is absent or makes no sense.

    Both forms of https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3 are read. A date counts
    from the reply's own ``Date`` where there is one, because the peer's clock may differ from
    *now*. The result is between 0 and *MAX_RETRY_AFTER*.
    """
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        until = http_date(value)
        if until is None:
            return None
        seconds = (until - (http_date(headers.get("date", "")) or now)).total_seconds()
    return None if math.isnan(seconds) else min(max(seconds, 0.0), MAX_RETRY_AFTER)


def age(value: str) -> int:
    """
    Return how many seconds a cache has kept a reply, by the ``Age`` *value*; 0 if it is none.

    One that overflows counts as *MAX_AGE*, https://www.rfc-editor.org/rfc/rfc9111#section-1.2.2.
    """
    if re.fullmatch(r"\d+", value, re.ASCII) is None:
        return 0
    return min(int(value), MAX_AGE) if len(value) <= len(str(MAX_AGE)) else MAX_AGE


def http_date(text: str) -> datetime | None:
    """Return the time of the HTTP date *text*, or None if it is not one."""
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
