"""
The double of any API that a description file describes.

It reads the file by itself, and is the vendor that the file speaks of: it believes the file, so it
cannot show that the file is true, but it shows whether auditrelay keeps its promises for such an
API. It is strict: an unknown parameter, a missing one, a bound in another spelling, a cursor that
it did not give, a page that is too large are refused.
"""

import json
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from math import ceil
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self
from urllib.parse import quote, unquote

from auditrelay.sandbox.described import places, replies, times
from auditrelay.sandbox.described.description import Description, as_text, feeds
from auditrelay.sandbox.described.identity import Identity
from auditrelay.sandbox.described.maker import Maker
from auditrelay.sandbox.described.questions import Question, Refused, asked, one, question
from auditrelay.sandbox.history import Entry, GeneratedRecords, Records, Span, micros
from auditrelay.sandbox.messages import Request, Response
from auditrelay.sandbox.vendors import Vendor

_SHIPPED: Final = Path(__file__).parents[2] / "descriptions"


@dataclass(slots=True)
class Switches:
    """
    What a description leaves open, misbehaviour on command, and adjustable limits.

    *lower_inclusive*, *upper_inclusive*: of the bounds. *next_address*: how the next page's address
    is written. *oversize*: the answer to a page size above the largest. *page_size_cap*: the most
    records of a page, whatever was asked. *turns*: "repeats" gives one cursor for ever, "empties"
    makes every second page empty, "endless" announces one more page for ever. *cursor_life*: how
    long a cursor is accepted, in seconds. *rate*: requests a minute; *throttle*: which of the
    statuses is that of more. *refuse*: a status for every request. *failing*: a failure in a
    success, where the description has a place for it. *list_absent*: an empty page has no list.
    """

    lower_inclusive: bool = True
    upper_inclusive: bool = False
    next_address: Literal["absolute", "path", "other host", "other path"] = "absolute"
    oversize: Literal["refuse", "clamp"] = "refuse"
    page_size_cap: int | None = None
    turns: Literal["right", "repeats", "empties", "endless"] = "right"
    cursor_life: float | None = None
    rate: int | None = None
    throttle: Literal["first", "last"] = "last"
    retry_after: Literal["seconds", "date", "absent", "reset header"] = "seconds"
    refuse: int | None = None
    failing: bool = False
    list_absent: bool = False


@dataclass(slots=True)
class _Place:
    """A page: its question, its *number*, how many rows or which row are before it."""

    question: Question
    number: int
    skip: int = 0
    after: Entry | None = None
    made: float = 0.0


def available() -> list[str]:
    """Return the names of the descriptions that come with auditrelay."""
    return sorted(file.stem for file in (_SHIPPED / "vendors").glob("*.toml"))


def doubles(name: str, *, clock: Callable[[], float] = time.time) -> "list[Described]":
    """Return a double of each feed of the shipped description *name*, with its sample reply."""
    file = _SHIPPED / "vendors" / f"{name}.toml"

    def double(feed: str | None) -> Described:
        page = f"{name}.{feed}.json" if feed else f"{name}.json"
        return Described(file, feed=feed, page=_SHIPPED / "pages" / page, clock=clock)

    return [double(feed) for feed in feeds(file)] or [double(None)]


class Described(Vendor):
    """The API of the description *file*, or of one *feed* of it; *page* is a sample reply."""

    switches: Switches
    ID_FIELDS: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        file: Path,
        *,
        feed: str | None = None,
        page: Path | None = None,
        switches: Switches | None = None,
        history: Records | None = None,
        clock: Callable[[], float] = time.time,
        seed: int = 0,
    ) -> None:
        super().__init__(history=history, clock=clock, seed=seed)
        self.switches = switches or Switches()
        self.description = Description(file, feed, page)
        self.REPORTS_TOTAL = "total" in self.description.pages  # type: ignore[misc]  # by the file
        self.api_key = next(iter(self.description.secrets.values()), "")
        self.identity = Identity(self.description, clock)
        self._maker = Maker(self.description)
        self._places: dict[str, _Place] = {}
        self._made = 0
        self._known_ids: list[str] = []

    def settings(self) -> dict[str, Any]:
        """Return the settings of a source that reads this double; it must have been started."""
        known = self.description
        server = self.identity.server
        return {
            "type": known.vendor,
            **({"feed": known.feed} if known.feed else {}),
            "base_url": self.url + known.base_path,
            **({"token_url": server.token_url} if server is not None else {}),
            **known.values,
            **known.secrets,
        }

    async def start(self) -> Self:
        """Listen, and so does its authorisation server if it has one."""
        if self.identity.server is not None:
            await self.identity.server.start()
        return await super().start()

    async def stop(self) -> None:
        """Stop both. Raises the bugs of the double itself."""
        if self.identity.server is not None:
            await self.identity.server.stop()
        await super().stop()

    def rotate(self, key: str) -> None:
        """Accept only *key* in place of the first secret from now on."""
        self.api_key = self.description.secrets[next(iter(self.description.secrets))] = key

    # --- records

    def add(
        self,
        at: datetime,
        *,
        visible_from: datetime | None = None,
        gone_from: datetime | None = None,
        **fields: Any,
    ) -> str:
        """Add one record with the time *at* and given *fields*; return its number as text."""
        self._made += 1
        when = micros(at) - micros(at) % times.granule(self.description.time_format)
        record, known_ids = self._maker.make(self._made, when)
        record.update(fields)
        native_id = str(self._made)
        self._known_ids += known_ids
        self.history.add(
            record,
            id=native_id,
            at=times.moment(when),
            visible_from=visible_from,
            gone_from=gone_from,
        )
        return native_id

    def load(self, count: int, start: datetime, end: datetime, record_bytes: int) -> None:
        """Serve *count* records, those of the sample reply in turn, in the cheapest way."""
        self.records = self._maker.load(count, start, end, record_bytes)

    def sample(self, reply: Any) -> None:
        """Make records like those in *reply* from now on, instead of the description's sample."""
        self.description.sample = reply
        self._maker = Maker(self.description)

    def known_ids(self) -> Iterator[str]:
        """Yield what a SIEM knows each event by that comes of a record that was ever created."""
        if isinstance(self.records, GeneratedRecords):
            return self.records.ids()
        return iter(self._known_ids)

    # --- requests

    def respond(self, request: Request) -> Response:
        """Answer as the vendor would."""
        try:
            return self._answer(request)
        except Refused as refusal:
            return replies.refusal(self.description, refusal.status, refusal.words)

    def _answer(self, request: Request) -> Response:
        known = self.description
        method = known.request.get("method", "GET")
        self._admit(request, method)
        if wait := self._over_rate():
            switches, now = self.switches, self.clock()
            first, reset = switches.throttle == "first", switches.retry_after == "reset header"
            headers = self._retry_after(wait)
            return replies.too_many(known, headers, wait, now, first=first, reset=reset)
        if self.switches.failing and (failure := replies.failure(known)) is not None:
            return failure
        for name, value in known.request.get("headers", {}).items():
            if request.headers.get(name.lower()) != known.filled(value):
                raise Refused(400, f"the header {name} is missing")
        place = self._place(asked(request, method))
        if unquote(request.path) != (known.first_path if place.number == 1 else known.later_path):
            raise Refused(400, "this page has another path")
        callback = self.before_page.pop(place.number, None)
        if callback is not None:
            callback()
        return self._page(place)

    def _admit(self, request: Request, method: str) -> None:
        """Raise Refused unless *request* is for this API, and by a client that may read it."""
        known = self.description
        if unquote(request.path) not in (known.first_path, known.later_path):
            raise Refused(404, "no such path")
        if request.method != method:
            raise Refused(405, "no such method")
        if (problem := self.identity.problem(request)) is not None:
            raise Refused(401, problem)
        if self.switches.refuse is not None:
            raise Refused(self.switches.refuse, "refused on command")

    def _place(self, given: list[tuple[str, Any]]) -> _Place:
        """Return the page that is asked for. Raises Refused for what no client may ask."""
        pages, slot = self.description.pages, self.description.turning_slot
        token = one(given, slot)
        rest = [pair for pair in given if pair[0] != slot]
        if pages["kind"] in ("cursor", "url") and token is not None:
            place = self._places.get(as_text(token))
            life = self.switches.cursor_life
            if place is None or (life is not None and self.clock() > place.made + life):
                raise Refused(pages.get("expired", [400])[0], "the cursor is not accepted")
            if pages.get("alone"):
                if rest:
                    raise Refused(400, "a cursor comes alone")
            elif question(self.description, rest, self.clock()).text != place.question.text:
                raise Refused(400, "a cursor belongs to another question")
            return place
        found = question(self.description, rest, self.clock())
        if pages["kind"] in ("number", "offset"):
            return self._numbered(found, token)
        return _Place(found, 1)

    def _numbered(self, found: Question, token: Any) -> _Place:
        pages, slot = self.description.pages, self.description.turning_slot
        by_page = pages["kind"] == "number"
        first = pages.get("first", 1 if by_page else 0)
        if token is None:
            if not pages.get("skip_first"):
                raise Refused(400, f"{slot} is missing")
            token = first
        if not as_text(token).isdigit() or int(as_text(token)) < first:
            raise Refused(400, f"{slot} is no page")
        passed, size = int(as_text(token)) - first, self._size(found)
        skip = passed * size if by_page else passed
        return _Place(found, skip // size + 1, skip)

    def _size(self, found: Question) -> int:
        """Return how many records are on a page. Raises Refused if too many are asked for."""
        largest = self.description.largest
        size = largest if found.size is None else found.size
        if size > largest:
            if self.switches.oversize == "refuse":
                raise Refused(400, f"a page has at most {largest} records")
            size = largest
        return min(size, self.switches.page_size_cap or size)

    # --- pages

    def _listed(self, found: Question) -> Sequence[Entry]:
        """Return all records that are asked for, in the order of the list."""
        table, switches, now = self.description.time, self.switches, self.clock()
        days = self.description.bound_format == "date"
        span = replace(
            found.span,
            lower_inclusive=days or switches.lower_inclusive,
            upper_inclusive=days or switches.upper_inclusive,
        )
        if table.get("axis") == "recorded":
            everything = self.records.select(Span(), now)
            return sorted((each for each in everything if _is_in(span, each)), key=self._rank)
        rows = self.records.select(span, now)
        order = table.get("order", "none")
        if isinstance(rows, GeneratedRecords) and order != "none":  # a million are not sorted again
            return rows if order == "oldest_first" else rows[::-1]
        return sorted(rows, key=self._rank)

    def _rank(self, entry: Entry) -> tuple[int, int]:
        """Return what the list is sorted by."""
        table = self.description.time
        at, number = (
            _recorded(entry) if table.get("axis") == "recorded" else entry.at,
            int(entry.id.rpartition("-")[2]),  # of a load it may be a mark
        )
        match table.get("order", "none"):
            case "newest_first":
                return -at, -number
            case "oldest_first":
                return at, number
        return number % 7, number  # a fixed order, which is that of no time

    def _page(self, place: _Place) -> Response:
        pages, kind = self.description.pages, self.description.pages["kind"]
        rows, size, turns = (
            self._listed(place.question),
            self._size(place.question),
            self.switches.turns,
        )
        most = pages.get("most")
        if kind == "none":
            return self._reply(rows[:most], {})
        if kind in ("number", "offset"):
            begin = place.skip
            if most is not None and begin + size > most:
                raise Refused(400, f"no more than {most} records are shown")
            if begin and begin >= len(rows) and pages.get("gone"):
                raise Refused(404, pages["gone"])
        else:
            rows = rows[:most]
            begin = 0
            if place.after is not None:  # it may be gone
                begin = bisect_right(rows, self._rank(place.after), key=self._rank)
        empty = turns == "empties" and place.number % 2 == 0
        part = [] if empty else rows[begin : begin + size]
        more = begin + len(part) < len(rows) or turns in ("repeats", "endless")
        signs: dict[str, Any] = {}
        for name, value in (
            ("more", more),
            ("total", len(rows)),
            ("count", ceil(len(rows) / size)),
        ):
            if name in pages:
                signs[pages[name]] = value
        always = pages.get("until_empty") or pages.get("says") or "more" in pages
        if kind in ("cursor", "url") and (more or always):
            token = self._token(place, part[-1] if part else place.after)
            signs[pages["from"]] = self._written(token, more=more)
        return self._reply(part, signs)

    def _reply(self, part: Sequence[Entry], signs: dict[str, Any]) -> Response:
        known = self.description
        absent = self.switches.list_absent and known.records.get("absent") == "none"
        return replies.page(known, self._rows(part), signs, has_list=bool(part) or not absent)

    def _token(self, place: _Place, last: Entry | None) -> str:
        """Return the cursor of the page behind *place*, which ends with the row *last*."""
        following = replace(place, after=last, number=place.number + 1, made=self.clock())
        where, _, path = self.description.pages["from"].partition(":")
        token = f"c{len(self._places):08}"
        if self.switches.turns == "repeats":
            token = "again"  # noqa: S105  # a cursor
        elif where == "last":
            token = "" if last is None else as_text(places.get(last.record, path))
        elif self.description.cursor_type() is int:
            token = str(2**60 + len(self._places))
        self._places[token] = following
        return token

    def _written(self, token: str, *, more: bool) -> Any:
        """Return *token* as a page has it: an address, a number, a list, or itself."""
        pages = self.description.pages
        if pages["kind"] == "url":
            address = self._address(token)
            where, _, rel = pages["from"].partition(":")
            if where != "link":
                return address
            says = pages.get("says", {})
            said = "".join(f'; {key}="{each if more else "false"}"' for key, each in says.items())
            return f'<{self.url}/>; rel="self", <{address}>; rel="{rel}"{said}'
        if self.description.cursor_type() is int:
            return int(token)
        if self.description.cursor_type() is list:
            parts = [token[:2], token[2:]]
            joined = pages["join"].join(parts) if "join" in pages else json.dumps(parts)
            self._places[joined] = self._places[token]
            return parts
        return token

    def _address(self, token: str) -> str:
        asked_before = self._places[token].question.text
        pairs = [
            (slot.removeprefix("query:"), value)
            for slot, value in asked_before
            if slot.startswith("query:")
        ]
        query = "&".join(
            f"{quote(name, safe='')}={quote(value, safe='')}"
            for name, value in (*pairs, ("sandbox_page", token))
        )
        path = f"{quote(self.description.later_path)}?{query}"
        match self.switches.next_address:
            case "other host":
                return f"https://files.example.net{path}"
            case "other path":
                return f"{self.url}/elsewhere?{query}"
            case "path":
                return path
        return f"{self.url}{path}"


def _recorded(entry: Entry) -> int:
    """Return when *entry* was recorded, in microseconds."""
    return max(entry.at, int(max(entry.visible_from, 0) * 1_000_000))


def _is_in(span: Span, entry: Entry) -> bool:
    at = _recorded(entry)
    above = span.lower is None or at > span.lower or (span.lower_inclusive and at == span.lower)
    below = span.upper is None or at < span.upper or (span.upper_inclusive and at == span.upper)
    return above and below
