"""
What a reply that is no page means: later, never, or not with these credentials.

The description says where a vendor puts its words, and which of them mean "later"; some say so with
a status that usually means something else, and some with 200.
"""

import re
from collections.abc import Callable
from typing import Any, Final

from auditrelay.descriptions.model import Errors, Limits
from auditrelay.descriptions.places import Spot, find, parse_spot
from auditrelay.errors import Refused, Retryable
from auditrelay.http.fields import Flag, read_field
from auditrelay.http.quota import Quota, QuotaHeaders, asked_wait, is_used_up
from auditrelay.http.replies import Reply, check
from auditrelay.sources.described.bodies import Bodies, Content
from auditrelay.telemetry.scrubber import scrub

MAX_WORDS: Final = 2000
"""Characters of each of a vendor's words that are looked at."""


def quota_headers(limits: Limits) -> QuotaHeaders:
    """Return the headers in which the vendor tells the quota."""
    return QuotaHeaders(limits.reset, limits.reset_is, limits.remaining, limits.limit, limits.keep)


def is_throttled(reply: Reply, limits: Limits) -> bool:
    """Return whether *reply* says by status and headers that we are too fast."""
    status = reply.status
    return status == 429 or (status in limits.statuses and is_used_up(reply, quota_headers(limits)))


class Refusals:
    """Judges the replies of one feed."""

    def __init__(self, errors: Errors, limits: Limits, bodies: Bodies, quota: Quota) -> None:
        self._words = [find(path) for path in errors.words]
        self._later = [_glob(glob) for glob in errors.retry]
        later = [(parse_spot(spot), frozenset(values)) for spot, values in errors.retry_at.items()]
        self._later_at = [(_of_value(spot), values) for spot, values in later]
        self._found = None if errors.found is None else find(errors.found)
        self._ok = None if errors.ok is None else find(errors.ok)
        # The same in the decoded body of a page.
        paths = bodies.has_keys
        self._page_later_at = [
            (bodies.spot(spot, "errors.retry_at"), values)
            for spot, values in later
            if spot.path is None or paths
        ]
        self._page_found = self._page_ok = None
        if errors.found is not None and paths:
            self._page_found = bodies.path(errors.found, "errors.found")
        if errors.ok is not None and paths:
            self._page_ok = bodies.path(errors.ok, "errors.ok")
        self._hints = errors.hints
        self._limits = limits
        self._quota = quota
        self._headers = quota_headers(limits)

    def check_later(self, reply: Reply) -> None:
        """Raise Retryable if *reply*, which is no success, says "later" in any way."""
        status = reply.status
        throttled = is_throttled(reply, self._limits)
        if throttled or status in (408, 425) or status >= 500:
            raise self._retryable(reply, _json(reply), throttled=throttled)
        value = _json(reply)
        if self._says_later(reply, value):
            raise self._retryable(reply, value, throttled=True)

    def check(self, reply: Reply) -> None:
        """Raise the error for the status of *reply*, unless it is a success."""
        if not 200 <= reply.status < 300:
            check(reply, message=self._text(_json(reply)), hint=self._hint(reply))

    def words(self, reply: Reply) -> str:
        """Return the vendor's words in *reply*, ready to be shown."""
        return self._text(_json(reply)) or "no reason given"

    def check_inside(self, content: Content) -> None:
        """Raise the error that a page says inside that it is, with its status of 200."""
        body, reply = content.body, content.reply
        failed = self._page_found is not None and bool(self._page_found(body))
        failed |= self._page_ok is not None and not _is_true(self._page_ok(body))
        if failed:
            raise self._inner(reply, _json(reply))
        for found, values in self._page_later_at:
            if _as_text(found(content)) in values:
                raise self._retryable(reply, _json(reply), throttled=True)

    def check_misshapen(self, reply: Reply) -> None:
        """Raise the error that *reply*, a success, says inside that it is, instead of a page."""
        value = _json(reply)
        if value is None:
            return
        failed = self._found is not None and bool(self._found(value))
        failed |= self._ok is not None and _is_false(self._ok(value))
        if failed:
            raise self._inner(reply, value)
        if self._says_later(reply, value):
            raise self._retryable(reply, value, throttled=True)

    def hear(self, reply: Reply) -> None:
        """Learn from *reply* what is left of the quota."""
        if self._headers.keep is not None:
            self._quota.hear(reply, self._headers)

    def _says_later(self, reply: Reply, value: Any) -> bool:
        texts = self._texts(value)
        return any(
            glob.fullmatch(text) for glob in self._later for text in (*texts, "; ".join(texts))
        ) or any(_as_text(found(reply, value)) in values for found, values in self._later_at)

    def _retryable(self, reply: Reply, value: Any, *, throttled: bool) -> Retryable:
        # Every reply may have the headers of the quota; only for a throttled one they say why.
        wait = asked_wait(reply, self._headers if throttled else QuotaHeaders())
        if throttled and wait is not None:
            self._quota.pause(wait)
        words, hint = self._text(value), self._hint(reply)
        text = f"{reply.status} from {reply.where}{f': {words}' if words else ''}"
        status = reply.status
        return Retryable(
            f"{text}; {hint}" if hint else text,
            reason="rate_limited" if throttled and status != 429 else f"status_{status}",
            retry_after=wait,
            sent=True,
        )

    def _inner(self, reply: Reply, value: Any) -> Refused | Retryable:
        """Return the error for a *reply* of 200 that is none by what stands in it."""
        if self._says_later(reply, value):
            return self._retryable(reply, value, throttled=True)
        words = self._text(value)
        found = None if self._found is None else self._found(value)
        if not words and isinstance(found, str):
            words = scrub(found, 200)
        text = f"{reply.status} from {reply.where} with an error inside"
        if not words:
            return Retryable(f"{text} that is not explained", reason="bad_reply", sent=True)
        hint = self._hint(reply)
        return Refused(f"{text}: {words}{f'; {hint}' if hint else ''}", of_request=True)

    def _hint(self, reply: Reply) -> str:
        return self._hints.get(str(reply.status), "")

    def _text(self, value: Any) -> str:
        return scrub("; ".join(self._texts(value)), 200)

    def _texts(self, value: Any) -> list[str]:
        found = (words(value) for words in self._words)
        return [text[:MAX_WORDS] for each in found if (text := _as_text(each))]


def _json(reply: Reply) -> Any:
    """Return the body of *reply*, None if it is not JSON."""
    try:
        return reply.json()
    except ValueError:
        return None


def _of_value(spot: Spot) -> Callable[[Reply, Any], Any]:
    """Return what finds *spot* in a reply and its value."""
    if spot.place == "body" and spot.path is not None:
        found = find(spot.path)
        return lambda _, value: found(value)
    return lambda reply, _: reply.headers.get(spot.name)


def _as_text(value: Any) -> str:
    """Return a text, a number or a flag as a text, anything else as an empty one."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else ""


def _is_true(value: Any) -> bool:
    try:
        return bool(read_field(Flag, value))
    except ValueError:
        return False


def _is_false(value: Any) -> bool:
    try:
        return not read_field(Flag, value)
    except ValueError:
        return False


def _glob(glob: str) -> re.Pattern[str]:
    """Return the pattern for *glob*, in which only ``*`` has a meaning."""
    return re.compile(".*".join(map(re.escape, glob.split("*"))), re.DOTALL)
