"""Values of a reply's headers: parsed within bounds, never raising."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Literal
from urllib.parse import urlsplit

import httpx

from auditrelay.events.patterns import lazily

MAX_RETRY_AFTER = 86400.0
"""Most seconds that a peer can make us wait before the next attempt."""

MAX_AGE = 2**31
"""Seconds that an ``Age`` counts as which is larger, or does not fit into a number."""

_MAX_DATE = 64
"""Characters of a date; the longest form of an HTTP date has 33."""

MAX_VALUE = 16 * 1024
"""Characters of a header in which something is looked for."""

_EARLY_YEAR = lazily(r"(?<![+\-\d])00\d\d(?!\d)", re.ASCII)
"""A year before 100, which the library takes for one of two digits: 0026 for 2026."""

_NUMBER = lazily(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_FIRST_NUMBER = lazily(r"[^\d.,;=-]*+(\d{1,20}(?:\.\d{1,9})?)", re.ASCII)

_QUOTED = r'"(?:[^"\\]|\\.)*+"'
_PARAMETER = rf"\s*+;\s*+[^\s;,=\"]++\s*+(?:=\s*+(?:{_QUOTED}|[^\s;,\"]*+))?"
_LINK = lazily(rf"<([^<>]*+)>((?:{_PARAMETER})*+)", re.DOTALL)
_ATTRIBUTE = lazily(rf"([^\s;,=\"]++)\s*+=\s*+({_QUOTED}|[^\s;,\"]++)", re.DOTALL)


def seconds(headers: httpx.Headers, name: str) -> float | None:
    """
    Return the seconds that the header *name* gives, or None if it is absent or not a number.

    The result is between 0 and *MAX_RETRY_AFTER*. Of several values the largest counts.
    """
    values = (_number(value) for value in headers.get_list(name, split_commas=True))
    return max((value for value in values if value is not None), default=None)


def retry_after(headers: httpx.Headers, now: datetime) -> float | None:
    """
    Return how many seconds ``Retry-After`` asks for, or None if it is absent or makes no sense.

    Both forms of https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3 are read. A date counts
    from the reply's own ``Date`` where there is one, because the peer's clock may differ from
    *now*. The result is between 0 and *MAX_RETRY_AFTER*. Of several values the largest counts.
    """
    waits = [seconds(headers, "retry-after")]
    for value in headers.get_list("retry-after"):
        until = http_date(value)
        if until is not None:
            waits.append(bounded((until - (date(headers) or now)).total_seconds()))
    return max((wait for wait in waits if wait is not None), default=None)


def first_number(headers: httpx.Headers, name: str | None) -> float | None:
    """
    Return the first number in the header *name*, or None if there is none.

    Some are structured fields (https://www.rfc-editor.org/rfc/rfc9651): ``160, 160;w=1``.
    """
    found = _FIRST_NUMBER.match(headers.get(name, "")[:_MAX_DATE]) if name is not None else None
    return float(found[1]) if found else None


def reset_after(
    headers: httpx.Headers,
    name: str | None,
    unit: Literal["epoch_s", "epoch_ms", "seconds", "iso"],
    now: datetime,
) -> float | None:
    """
    Return in how many seconds a quota is reset, as the header *name* says in this *unit*.

    A time counts from the reply's own ``Date`` where there is one, because the peer's clock may
    differ from *now*. None if the header is absent, says nothing in that unit, or means a time that
    has passed or is more than *MAX_RETRY_AFTER* seconds away: then its unit is most likely another.
    """
    text = headers.get(name, "") if name is not None else ""
    made = date(headers) or now
    if unit == "iso":
        at = _iso(text)
        wait = None if at is None else (at - made).total_seconds()
    else:
        wait = first_number(headers, name)
        if wait is not None and unit != "seconds":
            wait = wait / (1000 if unit == "epoch_ms" else 1) - made.timestamp()
    return wait if wait is not None and 0 < wait <= MAX_RETRY_AFTER else None


def link(headers: httpx.Headers, relation: str, says: Mapping[str, str]) -> str | None:
    """
    Return the address of the first ``Link`` with this *relation* that *says* all of that, or None.

    https://www.rfc-editor.org/rfc/rfc8288#section-3; *says* has attributes and their values.
    """
    for value in headers.get_list("link"):
        for found in _LINK.finditer(value[:MAX_VALUE]):
            attributes = {
                name.lower(): _unquoted(text) for name, text in _ATTRIBUTE.findall(found[2])[::-1]
            }
            relations = attributes.get("rel", "").lower().split()
            if relation.lower() in relations and all(
                attributes.get(name.lower()) == text for name, text in says.items()
            ):
                return found[1].strip()
    return None


def date(headers: httpx.Headers) -> datetime | None:
    """Return when a reply was made by the clock of its peer, or None if it does not say so."""
    return http_date(next(iter(headers.get_list("date")), ""))


def age(headers: httpx.Headers) -> timedelta:
    """
    Return how long caches have kept a reply, 0 if it does not say so or not in a number.

    The first of several values counts, and one that is too large is *MAX_AGE*
    (https://www.rfc-editor.org/rfc/rfc9111#section-5.1 and section 1.2.2).
    """
    if "age" not in headers:  # as in nearly all
        return timedelta(0)
    value = next(iter(headers.get_list("age", split_commas=True)), "").strip()
    if not re.fullmatch(r"\d+", value, re.ASCII):
        return timedelta(0)
    digits = value.lstrip("0")
    return timedelta(seconds=min(int(digits or 0), MAX_AGE) if len(digits) <= 10 else MAX_AGE)


def location_host(headers: httpx.Headers) -> str | None:
    """Return the host that a redirect leads to; None if that is not another one, or unreadable."""
    try:
        host: str | None = urlsplit(headers.get("location", "")).hostname
    except ValueError:
        return None
    return host


def location_path(headers: httpx.Headers) -> str:
    """Return the path that ``Location`` names, empty if it names none."""
    try:
        path: str = urlsplit(headers.get("location", "")).path
    except ValueError:
        return ""
    return path


def http_date(text: str) -> datetime | None:
    """Return the time of the HTTP date *text* in UTC, or None if it is not one."""
    return _parsed_date(text) if len(text) <= _MAX_DATE else None


@lru_cache(maxsize=64)  # every reply has one, and those of the same second have the same
def _parsed_date(text: str) -> datetime | None:
    if _EARLY_YEAR.search(text):
        return None
    try:
        at = parsedate_to_datetime(text)
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _iso(text: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(text.strip()) if len(text) <= _MAX_DATE else None
    except ValueError:
        return None
    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text


def _number(text: str) -> float | None:
    text = text.strip()
    return bounded(float(text)) if _NUMBER.fullmatch(text) else None


def bounded(wait: float) -> float:
    """Return a *wait* that a peer asks for, in seconds: not below 0, not above the most."""
    return min(max(wait, 0.0), MAX_RETRY_AFTER)
