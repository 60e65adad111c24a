"""A description that is wrong is found out by the probes of ``check``, and the key is named."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

import pytest
from tests.descriptions.acme import write
from tests.support.clock import FakeClock

from auditrelay.cli.check import Row, check_all
from auditrelay.config import load
from auditrelay.sandbox.messages import Request, Response, json_response
from auditrelay.sandbox.server import Double

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

DESCRIPTION = """
vendor = "acme"
product = "Acme"
docs = ["https://docs.acme.example/audit"]
checked = 2026-03-01
evidence = "documentation"
needs = ["The role auditor."]

[settings.account]
about = "The account."
example = "a1"
scope = true

[secrets.token]
about = "The token."

[auth]
kind = "header"
prefix = "Bearer "
secret = "token"

[request]
base_url = "https://api.acme.example"
path = "/v1/events"
params = { account = "{account}" }

[time]
start = "query:since"
end = "query:until"
order = "oldest_first"

[pages]
kind = "cursor"
from = "body:next"
to = "query:cursor"
size = "query:limit"
largest = 100

[records]
at = "items"
id = "id"
time = "at"

[errors]
words = ["message"]

[errors.hints]
404 = "the account does not exist, or the token may not see it"

[event]
action = "type"
actor_ip = "ip"

[[event.actor]]
kind = "user"
id = "who"

[actions]
"user.create" = "user/create"
"""


@dataclass
class Truth:
    """How the API really is: it ignores what it does not know, as most do."""

    method: Literal["GET", "POST"] = "GET"
    unit: Literal["iso", "epoch_s", "epoch_ms"] = "iso"
    order: Literal["oldest_first", "newest_first"] = "oldest_first"
    by: str = "at"
    """The time that the filter speaks of."""
    most: int = 100
    """Records of a page; more are cut off in silence."""
    next_key: str = "next"
    always_next: bool = False
    counted_from: int | None = None
    """The number of the first page, if pages are numbers."""
    views: bool = False
    """Whether each record tells how often it was read."""
    redirects: bool = False
    refuses: int | None = None
    refuses_future: bool = False
    records: list[dict[str, Any]] = field(default_factory=list)


class Acme(Double):
    """The API of *truth*."""

    def __init__(self, truth: Truth, clock: FakeClock) -> None:
        super().__init__(clock=clock.seconds)
        self.truth = truth
        self.views = self.cursors = 0

    def respond(self, request: Request) -> Response:
        truth = self.truth
        if truth.redirects:
            return Response(301, headers={"Location": request.path + "/"})
        if truth.refuses is not None:
            return json_response(truth.refuses, {"message": "nothing here"})
        if request.headers.get("authorization") != "Bearer t0ken":
            return json_response(401, {"message": "who are you?"})
        given = dict(parse_qsl(urlsplit(request.target).query))
        if truth.method == "POST":
            given = {name: str(value) for name, value in json.loads(request.body).items()}
        start, end = self._bound(given.get("since")), self._bound(given.get("until"))
        if truth.refuses_future and end is not None and end > self.clock():
            return json_response(400, {"message": "the end must lie before now"})
        rows = [row for row in truth.records if _is_in(row[truth.by], start, end)]
        rows.sort(key=lambda row: str(row["at"]), reverse=truth.order == "newest_first")
        size = min(int(given.get("limit", truth.most)), truth.most)
        skip = int(given.get("cursor", "0").partition(".")[0])
        if truth.counted_from is not None:
            skip = (int(given.get("page", truth.counted_from)) - truth.counted_from) * size
        part = rows[skip : skip + size]
        body: dict[str, Any] = {"items": [self._viewed(row) for row in part], "total": len(rows)}
        if skip + size < len(rows) or truth.always_next:
            self.cursors += 1
            body[truth.next_key] = f"{skip + len(part)}.{self.cursors}"
        return json_response(200, body)

    def _bound(self, text: str | None) -> float | None:
        if text is None:
            return None
        if self.truth.unit == "iso":
            return datetime.fromisoformat(text).timestamp()
        return int(text) / (1000 if self.truth.unit == "epoch_ms" else 1)

    def _viewed(self, row: dict[str, Any]) -> dict[str, Any]:
        self.views += 1
        return {**row, "views": self.views} if self.truth.views else row


def _is_in(at: str, start: float | None, end: float | None) -> bool:
    seconds = datetime.fromisoformat(at).timestamp()
    return (start is None or seconds >= start) and (end is None or seconds < end)


def records(count: int = 17) -> list[dict[str, Any]]:
    """Return records of the last hours, twenty minutes from each other."""
    found = []
    for number in range(count):
        at = NOW - timedelta(hours=1.25, minutes=20) - timedelta(minutes=20) * number
        found.append(
            {
                "id": f"e{number}",
                "group": f"g{number // 4}",
                "at": at.isoformat(),
                "recorded": at.isoformat(),
                "type": "user.create",
                "who": "ann",
                "ip": "192.0.2.1",
                "city": "Graz",
            }
        )
    return found


def moved(by: timedelta) -> list[dict[str, Any]]:
    """Return records that happened so long before they were recorded."""
    found = records()
    for row in found:
        row["at"] = (datetime.fromisoformat(row["at"]) - by).isoformat()
    return found


async def checked(
    folder: Path,
    truth: Truth,
    replaced: Sequence[tuple[str, str]] = (),
    *,
    thorough: bool = True,
    **keys: Any,
) -> Row:
    """Return what check says of a source of *truth* with a description of which is *replaced*."""
    text = DESCRIPTION
    for old, new in replaced:
        assert old in text, old
        text = text.replace(old, new)
    write(folder, text)
    clock = FakeClock(NOW)
    if not truth.records:
        truth.records = records()
    async with Acme(truth, clock) as double:
        table = {
            "type": "rest",
            "description": "acme.toml",
            "base_url": double.url,
            "account": "a1",
            "token": "t0ken",
            "timeout": "5s",
            **keys,
        }
        config = folder / "auditrelay.toml"
        lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
        top = f"state_dir = {json.dumps(str(folder / 'state'))}"
        config.write_text("\n".join([top, "[sources.acme]", *lines, "[sinks.out]", *_SINK]))
        rows = await check_all(load(config, {}), clock, thorough=thorough)
    return rows[0]


_SINK = ('type = "file"', 'path = "-"')


async def test_a_description_that_is_right_is_proved(tmp_path: Path) -> None:
    row = await checked(tmp_path, Truth())
    assert row.result == "ok", row.message
    assert row.message.startswith("answers; 17 events in a window of 1d; proved: ")
    for proved in ("an empty window is empty", "page 2 is another page", "both bounds", "ids"):
        assert proved in row.message
    assert list(row.notes) == ["the lower bound is included, the upper one is not"]


POST = (
    ('path = "/v1/events"', 'path = "/v1/events"\nmethod = "POST"'),
    ('params = { account = "{account}" }', 'body = { account = "{account}" }'),
    ("query:since", "body:since"),
    ("query:until", "body:until"),
    ("query:limit", "body:limit"),
)
NO_ID = (('id = "id"', "no_id = true"),)
COUNTED = (
    ('kind = "cursor"', 'kind = "number"\nfirst = 1\ntotal = "body:total"'),
    ('from = "body:next"\n', ""),
    ("query:cursor", "query:page"),
)


@pytest.mark.parametrize(
    ("truth", "replaced", "words"),
    [
        pytest.param(
            Truth(),
            [("query:since", "query:sincee"), ("query:until", "query:untill")],
            "query:sincee is ignored. Is the parameter spelt right",
            id="a parameter that does not exist",
        ),
        pytest.param(
            Truth(),
            [("query:until", "query:untill")],
            "query:untill is ignored",
            id="one bound only, and the vendor's default for the other",
        ),
        pytest.param(
            Truth(always_next=True),
            [("query:until", "query:untill"), ("largest = 100", "until_empty = true")],
            "time.end is ignored (query:untill): the first half holds events of the second",
            id="the same where a page does not say that it is the last",
        ),
        pytest.param(
            Truth(),
            [('id = "id"', 'id = "group"')],
            'records.id = "group": 4 ids of 5 stand twice with different content',
            id="an id that is a group's",
        ),
        pytest.param(
            Truth(),
            [('id = "id"', 'id = "uuid"')],
            'records.id = "uuid": 21 of 21 records have nothing there',
            id="an id that is not there",
        ),
        pytest.param(
            Truth(counted_from=0),
            COUNTED,
            "query:page = 1 is not the first page",
            id="the first page has another number",
        ),
        pytest.param(
            Truth(always_next=True),
            [],
            "after the last event it still announces a page: set pages.until_empty = true",
            id="an end sign that never comes",
        ),
        pytest.param(
            Truth(),
            [("body:next", "body:nxt")],
            "a page of 2 records is said to be the last one, and there are 17: is there another "
            "page at body:nxt?",
            id="an end sign that comes too soon",
        ),
        pytest.param(
            Truth(next_key="@odata.next"),
            [("body:next", "body:@odata.next")],
            "is there another page at body:@odata.next?",
            id="a dot in a key",
        ),
        pytest.param(
            Truth(),
            [("query:cursor", "query:page_token")],
            "page 2 is page 1: query:page_token is ignored",
            id="a cursor that is ignored",
        ),
        pytest.param(
            Truth(method="POST"),
            POST,
            "page 2 is page 1: query:cursor is ignored",
            id="a cursor in the wrong place on POST",
        ),
        pytest.param(
            Truth(),
            [('"Bearer "', '"Bearer"')],
            "401 from GET",
            id="no space behind Bearer",
        ),
        pytest.param(
            Truth(redirects=True),
            [],
            "it redirects to the same path with a slash at its end",
            id="no slash at the end of a path",
        ),
        pytest.param(
            Truth(refuses=404),
            [],
            "the account does not exist, or the token may not see it. Needed: The role auditor.",
            id="404 that means that there is no right",
        ),
        pytest.param(
            Truth(),
            [('at = "items"', 'at = "data"')],
            'records.at = "data" is not in the reply; its keys are items, total',
            id="records elsewhere",
        ),
        pytest.param(
            Truth(),
            [('time = "at"', 'time = "at"\ntime_format = "epoch_s"')],
            "17 of 17 cannot be read",
            id="times of another format",
        ),
        pytest.param(
            Truth(
                records=[{**row, "at": "1971-03-01T00:00:00Z"} for row in records()], by="recorded"
            ),
            [],
            "17 of 17 are 55 years off",
            id="times of another age",
        ),
        pytest.param(
            Truth(
                by="recorded",
                records=[
                    {
                        **row,
                        "at": (datetime.fromisoformat(row["at"]) - timedelta(days=3)).isoformat(),
                    }
                    for row in records()
                ],
            ),
            [],
            'is time.axis "recorded"?',
            id="the time of recording taken for the event's",
        ),
        pytest.param(
            Truth(views=True),
            NO_ID,
            'records without an id differ between two readings in "views": name it in '
            "records.without",
            id="content that changes without an id",
        ),
        pytest.param(
            Truth(views=True),
            [],
            'a record differs between two readings in "views"',
            id="content that changes under an id",
        ),
    ],
)
async def test_a_mistake_is_a_failure_that_names_the_key(
    tmp_path: Path, truth: Truth, replaced: Sequence[tuple[str, str]], words: str
) -> None:
    row = await checked(tmp_path, truth, replaced)
    assert row.result == "failed", row
    assert words in row.message


@pytest.mark.parametrize(
    ("truth", "replaced", "words"),
    [
        pytest.param(
            Truth(unit="epoch_ms"),
            [("[time]", '[time]\nformat = "epoch_s"')],
            "could not be proved: no event in 30 days. If there are some, a bound may have to be "
            'written otherwise than as "epoch_s" (time.format)',
            id="seconds for milliseconds",
        ),
        pytest.param(
            Truth(unit="epoch_s"),
            [("[time]", '[time]\nformat = "epoch_ms"')],
            'otherwise than as "epoch_ms" (time.format), or records.at is another list',
            id="milliseconds for seconds",
        ),
        pytest.param(
            Truth(order="newest_first"),
            [],
            "time.order is oldest_first, but record 2 is older than record 1",
            id="a newest-first list taken for oldest-first",
        ),
        pytest.param(
            Truth(most=5),
            [],
            "asked for pages of 100, got 5",
            id="a page size above the maximum, cut down in silence",
        ),
        pytest.param(
            Truth(records=[{**row, "type": "user.delete"} for row in records()]),
            [],
            '    "user.delete" = "kind/verb"',
            id="an action that no table knows",
        ),
        pytest.param(
            Truth(),
            [('actor_ip = "ip"', 'actor_ip = "address"')],
            "no event has event.actor_ip",
            id="a path that finds nothing",
        ),
        pytest.param(
            Truth(counted_from=1),
            [*COUNTED, ("body:total", "body:count")],
            "an empty page was the end, and not pages.total = body:count: is that in the replies?",
            id="a total that is not there",
        ),
        pytest.param(
            Truth(records=records(1)),
            [],
            "could not be proved: fewer than 2 events in 30 days",
            id="a quiet account",
        ),
    ],
)
async def test_what_may_be_right_is_a_note(
    tmp_path: Path, truth: Truth, replaced: Sequence[tuple[str, str]], words: str
) -> None:
    row = await checked(tmp_path, truth, replaced)
    assert row.result == "ok", row.message
    assert any(words in note for note in row.notes), row.notes


async def test_a_total_that_is_there_is_the_end(tmp_path: Path) -> None:
    row = await checked(tmp_path, Truth(counted_from=1), COUNTED)
    assert row.result == "ok", row.message
    assert not any("empty page" in note for note in row.notes)


async def test_an_end_that_must_lie_before_now_is_asked_for_elsewhere(tmp_path: Path) -> None:
    truth = Truth(refuses_future=True, records=records(1))
    row = await checked(tmp_path, truth)
    assert row.result == "ok", row.message
    assert "an empty window is empty" in row.message


async def test_without_thorough_what_takes_few_requests_is_proved(tmp_path: Path) -> None:
    row = await checked(tmp_path, Truth(), thorough=False)
    assert row.message == (
        "answers; 17 events in a window of 1d; proved: an empty window is empty, page 2 is another "
        "page, ids, times"
    )
    assert not row.notes
    # A mistake that only the rest of the probes finds.
    row = await checked(tmp_path, Truth(always_next=True), thorough=False)
    assert row.result == "ok"


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        ('time = "at"', 'time = "at"\ntime_format = "epoch_s"', "17 of 17 cannot be read"),
        ('time = "at"', 'time = "made"', '"made": 17 of 17 records have nothing there'),
        ('id = "id"', 'id = "uuid"', '"uuid": 21 of 21 records have nothing there'),
        ('id = "id"', 'id = "group"', "stand twice with different content"),
    ],
)
async def test_what_the_same_replies_show_is_a_failure_without_thorough_too(
    tmp_path: Path, right: str, wrong: str, words: str
) -> None:
    row = await checked(tmp_path, Truth(), [(right, wrong)], thorough=False)
    assert row.result == "failed", row
    assert words in row.message


@pytest.mark.parametrize("thorough", [True, False])
async def test_old_events_behind_a_bound_that_is_ignored_are_no_other_axis(
    tmp_path: Path, *, thorough: bool
) -> None:
    replaced = [("query:since", "query:sincee")]
    truth = Truth(records=[*moved(timedelta(days=5)), *records(2)])
    row = await checked(tmp_path, truth, replaced, thorough=thorough)
    assert row.result == "failed", row
    assert "query:sincee is ignored" in row.message


async def test_feeds_that_no_source_reads_are_named(tmp_path: Path) -> None:
    feeds = '[feeds.users]\nabout = "Users."\n\n[feeds.tenant]\nabout = "The tenant."\n'
    row = await checked(tmp_path, Truth(), [("[actions]", f"{feeds}\n[actions]")], feed="users")
    assert row.result == "ok", row.message
    assert "the feed tenant is not read" in row.notes
