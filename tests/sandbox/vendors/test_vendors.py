"""Cekura and Bland AI: lists for a span of time, and refusals."""

from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import httpx
import pytest

from auditrelay.sandbox.history import History, Span, micros
from auditrelay.sandbox.vendors import bland, cekura
from auditrelay.sandbox.vendors.bland import Bland
from auditrelay.sandbox.vendors.cekura import Cekura

HOUR = timedelta(hours=1)


@pytest.fixture
async def vendor(clock: Any) -> AsyncIterator[Cekura]:
    async with Cekura(clock=clock.seconds) as vendor:
        yield vendor


@pytest.fixture
async def ai(clock: Any) -> AsyncIterator[Bland]:
    async with Bland(clock=clock.seconds) as ai:
        yield ai


async def ask(
    client: httpx.AsyncClient, vendor: Cekura, path: str = cekura.PATH, **query: Any
) -> httpx.Response:
    query = {"organization_id": "42", **query}
    query = {name: value for name, value in query.items() if value is not None}
    headers = {"X-CEKURA-API-KEY": vendor.api_key}
    return await client.get(f"{vendor.url}{path}", params=query, headers=headers)


async def ask_ai(client: httpx.AsyncClient, ai: Bland, **query: Any) -> httpx.Response:
    headers = {"authorization": ai.api_key}
    return await client.get(f"{ai.url}{bland.PATH}", params=query, headers=headers)


def ids(reply: httpx.Response) -> list[str]:
    assert reply.status_code == 200, reply.text
    body = reply.json()
    return [
        str(row["id"]) for row in (body["results"] if "results" in body else body["data"]["events"])
    ]


def flat(pages: Iterable[list[str]]) -> list[str]:
    return list(chain.from_iterable(pages))


# -- history -----------------------------------------------------------------------------------


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("upper", [True, False])
def test_bounds_are_inclusive_or_not(now: datetime, lower: bool, upper: bool) -> None:
    history = History()
    for number in range(3):
        history.add({}, id=str(number), at=now + number * HOUR)
    span = Span(micros(now), micros(now + 2 * HOUR), lower_inclusive=lower, upper_inclusive=upper)
    found = [entry.id for entry in history.select(span, 0)]
    assert found == ["0"] * lower + ["1"] + ["2"] * upper


@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize("make", [cekura.generated, bland.generated])
def test_generated_records_are_selected_like_added_ones(
    now: datetime, size: int, make: Any
) -> None:
    generated, history = make(size, now, HOUR, 700), History()
    for entry in generated:
        at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=entry.at)
        history.add(entry.record, id=entry.id, at=at)
    assert list(generated.ids()) == list(history.ids())
    for lower in (None, now, now + HOUR / 7, now + HOUR):
        for upper in (None, now, now + HOUR * 3 / 7, now + HOUR):
            for flag in (True, False):
                span = Span(
                    None if lower is None else micros(lower),
                    None if upper is None else micros(upper),
                    lower_inclusive=flag,
                    upper_inclusive=not flag,
                )
                late = (now + 2 * HOUR).timestamp()
                one, other = generated.select(span, late), history.select(span, late)
                assert [entry.id for entry in one] == [entry.id for entry in other], span
                assert one.joined() == b",".join(entry.text for entry in one)


@pytest.mark.parametrize("make", [cekura.generated, bland.generated])
def test_a_generated_record_has_about_the_requested_length(now: datetime, make: Any) -> None:
    assert 600 < len(make(10, now, HOUR, 700)[3].text) < 800


def test_records_cover_every_documented_kind_and_unknown_ones(now: datetime) -> None:
    rows = [cekura.make_record(number, now) for number in range(60)]
    kinds = {row["action_type"] for row in rows}
    assert kinds >= {"object", "run_scenarios", "run_scenarios_text", "generate_scenarios"}
    assert kinds >= {"observability", "quantum_replay", None}
    assert all((row["user_email"] is None) != (row["api_key_name"] is None) for row in rows)
    assert any(row["project"] is None for row in rows)
    types = {bland.make_record(number, now)["event_type"] for number in range(60)}
    assert len(types) == 11
    assert len(str(bland.make_record(1, now, record_bytes=700))) > 650


def test_cekura_formats_times_of_varying_width(now: datetime) -> None:
    assert cekura.stamp(now) == "2026-11-20T12:00:00Z"
    assert cekura.stamp(now + timedelta(microseconds=990052)) == "2026-11-20T12:00:00.990052Z"
    assert bland.stamp(now) == "2026-11-20T12:00:00.000Z"


# -- Cekura ------------------------------------------------------------------------------------


async def test_cekura_walks_newest_first_by_default(
    vendor: Cekura, client: httpx.AsyncClient, now: datetime
) -> None:
    made = vendor.fill(5, now - HOUR, now)
    pages = [await ask(client, vendor, page=page, page_size=2) for page in (1, 2, 3)]
    assert flat(ids(page) for page in pages) == made[::-1]
    assert [page.json()["count"] for page in pages] == [5, 5, 5]
    assert pages[0].json()["previous"] is None
    assert pages[2].json()["next"] is None
    following = await client.get(
        pages[0].json()["next"], headers={"X-CEKURA-API-KEY": vendor.api_key}
    )
    assert ids(following) == ids(pages[1])


@pytest.mark.parametrize("order", ["oldest", "shuffled"])
async def test_cekura_shows_the_same_rows_in_any_order(
    vendor: Cekura, client: httpx.AsyncClient, now: datetime, order: Any
) -> None:
    made = vendor.fill(30, now - HOUR, now)
    vendor.switches.order = order
    walk = [ids(await ask(client, vendor, page=page, page_size=10)) for page in (1, 2, 3)]
    assert sorted(flat(walk)) == made
    assert (flat(walk) == made) is (order == "oldest")


@pytest.mark.parametrize(
    ("query", "switches", "status", "field"),
    [
        ({"organization_id": None}, {}, 400, "organization_id"),
        ({"organization_id": "acme"}, {}, 400, "organization_id"),
        ({"organization_id": "43"}, {}, 403, "detail"),
        ({"object_id": "5"}, {}, 400, "object_id"),
        ({"action_type": "dance"}, {}, 400, "action_type"),
        ({"operation_type": "dance"}, {}, 400, "operation_type"),
        ({"project_id": "x"}, {}, 400, "project_id"),
        ({"start_time": "yesterday"}, {}, 400, "start_time"),
        ({"start_time": "2026-11-20T00:00:00 00:00"}, {}, 400, "start_time"),
        ({"end_time": "2026-13-01"}, {}, 400, "end_time"),
        ({"start_time": "2026-10-01T00:00:00Z"}, {}, 400, "start_time"),
        (
            {"start_time": "2026-09-01T00:00:00Z", "end_time": "2026-10-02T00:00:00Z"},
            {},
            400,
            "start_time",
        ),
        ({"page": "0"}, {}, 404, "detail"),
        ({"page": "2"}, {}, 404, "detail"),
        ({"page": "x"}, {}, 404, "detail"),
        ({"page_size": "201"}, {"oversize": "refuse"}, 400, "page_size"),
        ({"ordering": "id"}, {"unknown": "refuse"}, 400, "ordering"),
        ({}, {"key_scope": "project"}, 403, "detail"),
    ],
)
async def test_cekura_refuses(
    vendor: Cekura,
    client: httpx.AsyncClient,
    query: dict[str, str],
    switches: dict[str, Any],
    status: int,
    field: str,
) -> None:
    for name, value in switches.items():
        setattr(vendor.switches, name, value)
    reply = await ask(client, vendor, **query)
    assert reply.status_code == status
    assert field in reply.json()


async def test_cekura_accepts_exactly_thirty_days(
    vendor: Cekura, client: httpx.AsyncClient, now: datetime
) -> None:
    start = now - timedelta(days=30)
    good = await ask(client, vendor, start_time=start.isoformat(), end_time=now.isoformat())
    assert good.status_code == 200
    longer = (start - timedelta(seconds=1)).isoformat()
    assert (await ask(client, vendor, start_time=longer)).status_code == 400


async def test_cekura_accepts_its_key_and_no_bearer(
    vendor: Cekura, client: httpx.AsyncClient
) -> None:
    url = f"{vendor.url}{cekura.PATH}?organization_id=42"
    assert (await client.get(url)).status_code == 401
    bearer = {"Authorization": f"Bearer {vendor.api_key}"}
    assert (await client.get(url, headers=bearer)).status_code == 401
    vendor.rotate("new")
    assert (await client.get(url, headers={"X-CEKURA-API-KEY": cekura.API_KEY})).status_code == 401
    assert (await client.get(url, headers={"X-CEKURA-API-KEY": "new"})).status_code == 200


async def test_cekura_shows_seven_days_by_default_and_never_more_than_a_year(
    vendor: Cekura, client: httpx.AsyncClient, now: datetime
) -> None:
    young = vendor.add(now - timedelta(days=6))
    vendor.add(now - timedelta(days=8))
    ancient = now - timedelta(days=366)
    vendor.add(ancient)
    assert ids(await ask(client, vendor)) == [young]
    span = {
        "start_time": (ancient - HOUR).isoformat(),
        "end_time": (ancient + HOUR).isoformat(),
    }
    assert ids(await ask(client, vendor, **span)) == []


async def test_cekura_redirects_without_the_slash(
    vendor: Cekura, client: httpx.AsyncClient
) -> None:
    reply = await ask(client, vendor, cekura.PATH.rstrip("/"))
    assert reply.status_code == 301
    assert reply.headers["location"] == f"{cekura.PATH}?organization_id=42"


async def test_cekura_lists_organizations_and_single_records(
    vendor: Cekura, client: httpx.AsyncClient, now: datetime
) -> None:
    made = vendor.add(now, action_type="object")
    assert (await ask(client, vendor, "/user/organizations/")).json()[0]["id"] == 42
    assert (await ask(client, vendor, f"{cekura.PATH}{made}/")).json()["id"] == int(made)
    assert (await ask(client, vendor, f"{cekura.PATH}1/")).status_code == 404
    assert (await ask(client, vendor, "/elsewhere/")).status_code == 404
    headers = {"X-CEKURA-API-KEY": vendor.api_key}
    assert (await client.post(f"{vendor.url}{cekura.PATH}", headers=headers)).status_code == 405


async def test_cekura_silently_clamps_a_large_page(
    vendor: Cekura, client: httpx.AsyncClient, now: datetime
) -> None:
    vendor.fill(60, now - HOUR, now)
    assert len(ids(await ask(client, vendor))) == 50
    vendor.switches.page_size_cap = 20
    assert len(ids(await ask(client, vendor, page_size=100))) == 20
    assert len(ids(await ask(client, vendor, page_size="x"))) == 50


async def test_cekura_filters(vendor: Cekura, client: httpx.AsyncClient, now: datetime) -> None:
    vendor.fill(60, now - HOUR, now)
    rows = (await ask(client, vendor, object_type="aiagent", action_type="object")).json()
    assert rows["results"]
    assert {row["object_type"] for row in rows["results"]} == {"aiagent"}


@pytest.mark.parametrize(
    ("at_end", "first", "last"),
    [("null", True, True), ("absent", True, False), ("never", False, False)],
)
async def test_cekura_next_link_may_be_missing(
    vendor: Cekura,
    client: httpx.AsyncClient,
    now: datetime,
    at_end: Any,
    first: bool,
    last: bool,
) -> None:
    vendor.fill(4, now - HOUR, now)
    vendor.switches.next_at_end = at_end
    vendor.switches.next_base = "https://evil.example"
    pages = [(await ask(client, vendor, page=page, page_size=2)).json() for page in (1, 2)]
    assert [("next" in page) for page in pages] == [first, last]
    if first:
        assert pages[0]["next"].startswith("https://evil.example/user/v1/audit-logs/?")


async def test_a_row_may_appear_late_and_another_may_be_deleted(
    vendor: Cekura, client: httpx.AsyncClient, clock: Any, now: datetime
) -> None:
    late = vendor.add(now - HOUR, visible_from=now + HOUR)
    gone = vendor.add(now - 2 * HOUR, gone_from=now + HOUR)
    window = {"start_time": (now - 3 * HOUR).isoformat(), "end_time": now.isoformat()}
    assert ids(await ask(client, vendor, **window)) == [gone]
    clock.advance(3600)
    assert ids(await ask(client, vendor, **window)) == [late]
    assert set(vendor.history.ids()) == {late, gone}


async def test_rows_are_deleted_between_two_pages_of_a_walk(
    vendor: Cekura, client: httpx.AsyncClient, now: datetime
) -> None:
    made = vendor.fill(4, now - HOUR, now)

    def delete() -> None:
        for one in made[2:]:
            vendor.history.remove(one)

    vendor.before_page[2] = delete
    first = await ask(client, vendor, page=1, page_size=2)
    assert first.json()["next"]
    second = await ask(client, vendor, page=2, page_size=2)
    assert (second.status_code, second.json()) == (404, {"detail": "Invalid page."})
    vendor.switches.past_end = "empty"
    assert ids(await ask(client, vendor, page=2, page_size=2)) == []


async def test_cekura_throttles_by_the_minute(
    vendor: Cekura, client: httpx.AsyncClient, clock: Any
) -> None:
    vendor.switches.rate = 2
    assert [(await ask(client, vendor)).status_code for _ in range(3)] == [200, 200, 429]
    clock.advance(45)
    reply = await ask(client, vendor)
    assert reply.headers["retry-after"] == "15"
    text = "Request was throttled. Expected available in 15 seconds."
    assert reply.json() == {"detail": text}
    vendor.switches.retry_after = "date"
    assert (await ask(client, vendor)).headers["retry-after"] == "Fri, 20 Nov 2026 12:01:00 GMT"
    vendor.switches.retry_after = "absent"
    assert "retry-after" not in (await ask(client, vendor)).headers
    clock.advance(15)
    assert (await ask(client, vendor)).status_code == 200


# -- Bland AI ----------------------------------------------------------------------------------


async def test_bland_walks_newest_first(
    ai: Bland, client: httpx.AsyncClient, now: datetime
) -> None:
    made = ai.fill(5, now - HOUR, now)
    pages = [await ask_ai(client, ai, page=page, page_size=2) for page in (1, 2, 3, 4)]
    assert flat(ids(page) for page in pages) == made[::-1]
    data = pages[0].json()["data"]
    del data["events"]
    assert data == {"total": 5, "total_pages": 3, "current_page": 1, "page_size": 2}
    assert ids(pages[3]) == []
    ai.switches.past_end = "404"
    assert (await ask_ai(client, ai, page=4, page_size=2)).status_code == 404


@pytest.mark.parametrize(
    ("query", "switches", "status", "code"),
    [
        ({"created_after": "soon"}, {}, 400, "BAD_REQUEST"),
        ({"created_before": "2026-11-20T00:00:00 00:00"}, {}, 400, "BAD_REQUEST"),
        ({"page_size": "101"}, {"oversize": "refuse"}, 400, "BAD_REQUEST"),
        ({"page_size": "0"}, {"oversize": "refuse"}, 400, "BAD_REQUEST"),
        ({"page": "0"}, {"oversize": "refuse"}, 400, "BAD_REQUEST"),
        ({"pageSize": "5"}, {"unknown": "refuse"}, 400, "BAD_REQUEST"),
        ({}, {"feature": "403"}, 403, "FEATURE_NOT_ENABLED"),
        ({}, {"feature": "404"}, 404, "NOT_FOUND"),
    ],
)
async def test_bland_refuses(
    ai: Bland,
    client: httpx.AsyncClient,
    query: dict[str, str],
    switches: dict[str, Any],
    status: int,
    code: str,
) -> None:
    for name, value in switches.items():
        setattr(ai.switches, name, value)
    reply = await ask_ai(client, ai, **query)
    assert reply.status_code == status
    assert reply.json()["data"] is None
    assert reply.json()["errors"][0]["error"] == code
    ai.switches.envelope = "older"
    assert (await ask_ai(client, ai, **query)).json()["status"] == "error"


async def test_bland_accepts_the_raw_key_and_a_bearer_by_switch(
    ai: Bland, client: httpx.AsyncClient
) -> None:
    url = f"{ai.url}{bland.PATH}"
    assert (await client.get(url)).json()["errors"][0]["error"] == "AUTH_FAILURE"
    bearer = {"authorization": f"Bearer {ai.api_key}"}
    assert (await client.get(url, headers=bearer)).status_code == 401
    ai.switches.unauthorized = "UNAUTHORIZED"
    assert (await client.get(url, headers=bearer)).json()["status"] == "error"
    ai.switches.bearer = "accept"
    assert (await client.get(url, headers=bearer)).status_code == 200
    ai.rotate("new")
    assert (await client.get(url, headers=bearer)).status_code == 401
    assert (await client.get(url, headers={"authorization": "new"})).status_code == 200


async def test_bland_without_the_feature_may_be_an_empty_list(
    ai: Bland, client: httpx.AsyncClient, now: datetime
) -> None:
    ai.fill(3, now - HOUR, now)
    ai.switches.feature = "empty"
    assert ids(await ask_ai(client, ai)) == []


async def test_bland_clamps_and_bounds(ai: Bland, client: httpx.AsyncClient, now: datetime) -> None:
    made = ai.fill(130, now - HOUR, now)
    assert len(ids(await ask_ai(client, ai))) == 50
    assert len(ids(await ask_ai(client, ai, page_size=1000))) == 100
    at = (await ask_ai(client, ai, page_size=100, page=2)).json()["data"]["events"][-1][
        "created_at"
    ]
    assert made[0] not in ids(await ask_ai(client, ai, page=2, page_size=100, created_after=at))
    ai.switches.lower_inclusive = True
    assert made[0] in ids(await ask_ai(client, ai, page=2, page_size=100, created_after=at))
    assert ids(await ask_ai(client, ai, created_before=at)) == []
    ai.switches.upper_inclusive = True
    assert ids(await ask_ai(client, ai, created_before=at)) == [made[0]]


async def test_a_new_row_shifts_later_pages_unless_the_walk_is_bounded(
    ai: Bland, client: httpx.AsyncClient, now: datetime
) -> None:
    made = ai.fill(4, now - HOUR, now)
    ai.before_page[2] = lambda: ai.add(now + HOUR)
    first = ids(await ask_ai(client, ai, page=1, page_size=2))
    second = ids(await ask_ai(client, ai, page=2, page_size=2))
    assert first[1] == second[0] == made[2]
    bound = now.isoformat()
    ai.before_page[2] = lambda: ai.add(now + 2 * HOUR)
    walk = [
        ids(await ask_ai(client, ai, page=p, page_size=2, created_before=bound)) for p in (1, 2)
    ]
    assert flat(walk) == made[::-1]


async def test_equal_times_swap_between_requests_by_switch(
    ai: Bland, client: httpx.AsyncClient, now: datetime
) -> None:
    for _ in range(6):
        ai.add(now - HOUR)
    before = ai.add(now - 2 * HOUR)
    still = {tuple(ids(await ask_ai(client, ai))) for _ in range(8)}
    ai.switches.ties = "swapping"
    moving = {tuple(ids(await ask_ai(client, ai))) for _ in range(8)}
    assert len(still) == 1
    assert len(moving) > 1
    assert {frozenset(rows) for rows in moving} == {frozenset(next(iter(still)))}
    assert {rows[-1] for rows in moving} == {before}


async def test_bland_puts_errors_into_a_200(
    ai: Bland, client: httpx.AsyncClient, now: datetime
) -> None:
    ai.fill(3, now - HOUR, now)
    ai.switches.errors = "without data"
    reply = await ask_ai(client, ai)
    assert (reply.status_code, reply.json()["data"]) == (200, None)
    assert reply.json()["errors"]
    ai.switches.errors = "with data"
    reply = await ask_ai(client, ai)
    assert reply.json()["errors"]
    assert len(ids(reply)) == 3


async def test_bland_filters_exactly(ai: Bland, client: httpx.AsyncClient, now: datetime) -> None:
    ai.fill(30, now - HOUR, now)
    rows = (await ask_ai(client, ai, event_type="auth.logout")).json()["data"]["events"]
    assert rows
    assert {row["event_type"] for row in rows} == {"auth.logout"}
    assert ids(await ask_ai(client, ai, event_type="auth.")) == []


async def test_bland_throttles_in_its_older_envelope(ai: Bland, client: httpx.AsyncClient) -> None:
    ai.switches.rate = 1
    await ask_ai(client, ai)
    reply = await ask_ai(client, ai)
    assert reply.status_code == 429
    assert reply.json() == {"status": "error", "message": "Rate limit exceeded"}
    assert "retry-after" not in reply.headers
    ai.switches.retry_after = "seconds"
    assert (await ask_ai(client, ai)).headers["retry-after"] == "60"


async def test_a_misspelt_switch_is_an_error(ai: Bland, vendor: Cekura) -> None:
    with pytest.raises(AttributeError):
        setattr(ai.switches, "tie", "swapping")  # noqa: B010  # the name must be unknown to mypy
    with pytest.raises(AttributeError):
        setattr(vendor.switches, "sort", "oldest")  # noqa: B010  # as above
