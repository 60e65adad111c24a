"""
Read a reply as a page: its records, and what it says about the next one.

Any other reply is an error that says what to do; on a later page it may only mean that the place is
no more.
"""

import json
from collections.abc import Callable
from typing import Any, Final, TypeVar

from auditrelay.descriptions.model import Feed
from auditrelay.errors import Refused, Rejected, Retryable, WalkBroken
from auditrelay.events.decode import integer
from auditrelay.http.fields import Count, Cursor, Flag, Link, read_cursor, read_field
from auditrelay.http.quota import Quota
from auditrelay.http.replies import Reply, misshapen
from auditrelay.sources.described.addresses import checked
from auditrelay.sources.described.bodies import Bodies, Content
from auditrelay.sources.described.record_times import RecordTimes
from auditrelay.sources.described.refusals import Refusals
from auditrelay.sources.described.turning import PAGE_REFUSED, Answer

T = TypeVar("T")


class PageReader:
    """Reads the replies of one feed; *times* are read if its walks end by them."""

    def __init__(self, feed: Feed, quota: Quota, times: RecordTimes | None) -> None:
        pages = feed.pages
        self._pages = pages
        self._none = feed.errors.none
        self._times = times
        self._bodies = Bodies(feed)
        self._refusals = Refusals(feed.errors, feed.limits, self._bodies, quota)
        self._find = {
            key: self._bodies.spot(spot, f"pages.{key}")
            for key, spot in (
                ("from", pages.from_),
                ("more", pages.more),
                ("count", pages.count),
                ("total", pages.total),
            )
            if spot is not None
        }
        # null for the records of a page that was announced is no empty list.
        self._promises = not pages.until_empty and pages.empty == "broken"
        self._later_refused = "cursor_expired" if pages.kind in ("cursor", "url") else PAGE_REFUSED

    def read_first(self, reply: Reply) -> Answer:
        """Return the page in *reply*. Raises the error for any other reply."""
        if reply.status in self._none:
            return Answer([], ended=True)
        if not 200 <= reply.status < 300:
            self._refusals.check_later(reply)
            self._refusals.check(reply)
        return self._read(reply, promised=False)

    def read_later(self, reply: Reply) -> Answer:
        """Return the page in *reply*, which another page led to. Raises as the above does."""
        if reply.status in self._none:
            return Answer([], ended=True)
        if 200 <= reply.status < 300:
            try:
                return self._read(reply, promised=self._promises)
            except Refused as error:
                raise WalkBroken(str(error), reason=self._later_refused) from error
        self._refusals.check_later(reply)
        gone = self._pages.gone
        if gone is not None and reply.status == 404 and gone.encode() in reply.body:
            return Answer([], gone=True)
        # The first page was not refused, so the reason must be where this one is; if not, the first
        # page of a smaller window will be refused.
        try:
            if reply.status not in self._pages.expired:
                self._refusals.check(reply)
        except Rejected:
            pass
        raise WalkBroken(
            f"{reply.status} from {reply.where} for a later page: {self._refusals.words(reply)}",
            reason=self._later_refused,
            refused=True,
        )

    def _read(self, reply: Reply, *, promised: bool) -> Answer:
        try:
            content = self._bodies.read(reply, promised=promised)
        except Retryable as error:
            if error.reason == "bad_reply":
                self._refusals.check_misshapen(reply)
            raise
        self._refusals.check_inside(content)
        self._refusals.hear(reply)
        records = content.records
        more = self._value(content, "more", _flag)
        return Answer(
            records,
            # Where nothing more is announced, it may be anything: the id of an odd record.
            next=None if more is False else self._value(content, "from", self._next),
            more=more,
            count=self._value(content, "count", _count),
            total=self._value(content, "total", _count),
            times=[] if self._times is None else self._times(records),
        )

    def _next(self, value: Any) -> Cursor | None:
        """Return *value* as what leads to the next page. Raises ValueError."""
        pages = self._pages
        if pages.kind == "url":
            return checked(read_field(Link, value)) or None
        takes_lists = pages.join is not None or (pages.to is not None and pages.to.place == "body")
        if takes_lists and isinstance(value, str) and value.startswith("["):
            value = _list_in(value)
        cursor = read_cursor(value)
        if isinstance(cursor, tuple) and not takes_lists:
            raise ValueError("it is a list, and pages.join does not say what joins it")
        return cursor

    def _value(self, content: Content, key: str, read: Callable[[Any], T]) -> T | None:
        """Return what the page says at the spot *key*, None if nothing. Raises Retryable."""
        find = self._find.get(key)
        value = None if find is None else find(content)
        if value is None:
            return None
        try:
            return read(value)
        except ValueError as error:
            problem = f"{getattr(self._pages, _FIELDS.get(key, key))}: {error}"
        raise misshapen(content.reply, problem)


_FIELDS: Final = {"from": "from_"}


def _list_in(text: str) -> Any:
    """Return the JSON list *text*, as it stands in a header; *text* itself if it is none."""
    try:
        return json.loads(text, parse_int=integer)
    except (ValueError, RecursionError):
        return text


def _flag(value: Any) -> bool:
    return bool(read_field(Flag, value))


def _count(value: Any) -> int:
    return int(read_field(Count, value))
