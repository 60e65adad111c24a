"""JITSudo: lists for a span of time, cursors, and refusals."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from auditrelay.sandbox.history import History, Span, joined, micros
from auditrelay.sandbox.vendors import jitsudo
from auditrelay.sandbox.vendors.jitsudo import PATH, TENANT, Jitsudo

HOUR = timedelta(hours=1)
OTHER = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
async def vendor(clock: Any) -> AsyncIterator[Jitsudo]:
    async with Jitsudo(clock=clock.seconds) as vendor:
        yield vendor


async def ask(
    client: httpx.AsyncClient,
    vendor: Jitsudo,
    path: str = PATH,
    headers: dict[str, str] | None = None,
    **query: Any,
) -> httpx.Response:
    if headers is None:
        headers = {"X-Tenant-ID": TENANT, "X-API-Key": vendor.api_key}
    query = {name.rstrip("_"): value for name, value in query.items()}
    return await client.get(f"{vendor.url}{path}", params=query, headers=headers)


def ids(reply: httpx.Response) -> list[str]:
    assert reply.status_code == 200, reply.text
    return [row["id"] for row in reply.json()["data"]]


async def walk(client: httpx.AsyncClient, vendor: Jitsudo, **query: Any) -> list[list[str]]:
    """Follow the cursors to the end; return the ids of each page."""
    pages = []
    while True:
        reply = await ask(client, vendor, **query)
        pages.append(ids(reply))
        if not reply.json()["has_more"]:
            return pages
        query["cursor"] = reply.json()["next_cursor"]


# -- records


def test_a_time_has_as_many_digits_as_it_needs(now: datetime) -> None:
    assert jitsudo.stamp(now) == "2026-11-20T12:00:00Z"
    assert jitsudo.stamp(now.astimezone()) == "2026-11-20T12:00:00Z"
    assert jitsudo.stamp(now + timedelta(microseconds=120394)) == "2026-11-20T12:00:00.120394Z"
    widths = set()
    for digits in range(10):
        part = 10 ** (9 - digits) % 10**9
        text = jitsudo.stamp(now + timedelta(microseconds=part // 1000), part % 1000)
        widths.add(len(text.partition(".")[2].rstrip("Z")))
    assert widths == set(range(10))


def test_records_are_of_every_shape_that_is_documented_and_some_that_are_not(now: datetime) -> None:
    rows = [jitsudo.make_record(number, now) for number in range(140)]
    assert {row["actor_type"] for row in rows} == {"oidc", "api_key", "system", "workload"}
    assert {"request.pending", "grant.active"} < {row["action"] for row in rows}
    assert {type(row.get("reasoning", 0)) for row in rows} == {str, int, type(None)}
    assert {} in [row["metadata"] for row in rows]
    assert max(str(row["metadata"]).count("{") for row in rows) == 41
    assert any("region" in row for row in rows)
    assert 650 < len(str(jitsudo.make_record(1, now, record_bytes=700))) < 720


@pytest.mark.parametrize("size", [1, 7, 100])
def test_generated_records_are_selected_like_added_ones(now: datetime, size: int) -> None:
    generated, history = jitsudo.generated(size, now, HOUR, 700), History()
    for entry in generated:
        at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=entry.at)
        assert entry.record["created_at"].startswith(at.isoformat()[:19])
        assert 600 < len(entry.text) < 800
        history.add(entry.record, id=entry.id, at=at)
    span = Span(micros(now + HOUR / 7), micros(now + HOUR * 3 / 7))
    late = (now + 2 * HOUR).timestamp()
    assert joined(generated.select(span, late)) == b",".join(
        entry.text for entry in history.select(span, late)
    )


# -- walks


@pytest.mark.parametrize("order", ["newest", "oldest", "shuffled"])
@pytest.mark.parametrize("count", [0, 1, 2, 5])
async def test_cursors_lead_through_the_whole_list(
    vendor: Jitsudo, client: httpx.AsyncClient, now: datetime, order: Any, count: int
) -> None:
    vendor.switches.order = order
    made = vendor.fill(count, now - HOUR, now)
    pages = await walk(client, vendor, limit=2)
    assert [len(page) for page in pages] == ([2] * (count // 2) + [1] * (count % 2) or [0])
    shown = [one for page in pages for one in page]
    assert sorted(shown) == made
    if order != "shuffled":
        assert shown == (made if order == "oldest" else made[::-1])


async def test_a_shuffled_list_is_in_no_order(
    vendor: Jitsudo, client: httpx.AsyncClient, now: datetime
) -> None:
    made = vendor.fill(30, now - HOUR, now)
    vendor.switches.order = "shuffled"
    shown = [one for page in await walk(client, vendor, limit=7) for one in page]
    assert shown not in (made, made[::-1])
    assert sorted(shown) == made


@pytest.mark.parametrize("order", ["newest", "oldest"])
async def test_a_million_records_are_paged_without_being_generated(
    client: httpx.AsyncClient, clock: Any, now: datetime, order: Any
) -> None:
    records = jitsudo.generated(1_000_000, now - 30 * HOUR, 30 * HOUR, 500)
    async with Jitsudo(clock=clock.seconds, history=records) as vendor:
        vendor.switches.order = order
        first = await ask(client, vendor, limit=250)
        second = await ask(client, vendor, limit=250, cursor=first.json()["next_cursor"])
        numbers = [int(one[-12:], 16) for one in ids(first) + ids(second)]
        wanted = list(range(500))
        assert numbers == (wanted if order == "oldest" else [999_999 - n for n in wanted])


async def test_added_and_deleted_rows_do_not_shift_the_others(
    vendor: Jitsudo, client: httpx.AsyncClient, now: datetime
) -> None:
    made = vendor.fill(6, now - HOUR, now)

    def change() -> None:
        vendor.add(now)
        vendor.history.remove(made[-2])  # the one that the cursor refers to
        vendor.history.remove(made[0])

    vendor.before_page[2] = change
    pages = await walk(client, vendor, limit=2)
    assert pages == [[made[5], made[4]], [made[3], made[2]], [made[1]]]


async def test_a_row_may_appear_late_and_another_may_be_deleted(
    vendor: Jitsudo, client: httpx.AsyncClient, clock: Any, now: datetime
) -> None:
    late = vendor.add(now - HOUR, visible_from=now + HOUR)
    gone = vendor.add(now - 2 * HOUR, gone_from=now + HOUR)
    assert ids(await ask(client, vendor)) == [gone]
    clock.advance(3600)
    assert ids(await ask(client, vendor)) == [late]
    assert (await ask(client, vendor, f"{PATH}/{late}")).json()["id"] == late
    assert (await ask(client, vendor, f"{PATH}/{gone}")).status_code == 404


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("upper", [True, False])
async def test_bounds_are_inclusive_or_not(
    vendor: Jitsudo, client: httpx.AsyncClient, now: datetime, lower: bool, upper: bool
) -> None:
    vendor.switches.lower_inclusive, vendor.switches.upper_inclusive = lower, upper
    made = [vendor.add(now - number * HOUR) for number in range(3)]
    reply = await ask(
        client, vendor, from_="2026-11-20T10:00:00Z", to="2026-11-20T13:00:00.000000000+01:00"
    )
    assert ids(reply) == [made[0]] * upper + [made[1]] + [made[2]] * lower


async def test_filters_are_exact(vendor: Jitsudo, client: httpx.AsyncClient, now: datetime) -> None:
    vendor.fill(40, now - HOUR, now)
    rows = await ask(client, vendor, action="grant.active", actor_id="spiffe://acme.example/4")
    assert {row["action"] for row in rows.json()["data"]} == {"grant.active"}
    assert {row["actor_id"] for row in rows.json()["data"]} == {"spiffe://acme.example/4"}
    assert ids(await ask(client, vendor, action="grant.")) == []
    assert len(ids(await ask(client, vendor, resource_type="grant"))) == 12


@pytest.mark.parametrize(
    ("limit", "switches", "count"),
    [
        (None, {}, 50),
        ("250", {}, 250),
        ("251", {}, 250),
        ("9" * 30, {}, 250),
        ("0", {}, 50),
        ("x", {}, 50),
        ("250", {"page_size_cap": 30}, 30),
        (None, {"limit": 7}, 7),
    ],
)
async def test_a_limit_is_clamped(
    vendor: Jitsudo,
    client: httpx.AsyncClient,
    now: datetime,
    limit: str | None,
    switches: dict[str, int],
    count: int,
) -> None:
    for name, value in switches.items():
        setattr(vendor.switches, name, value)
    vendor.fill(260, now - HOUR, now)
    query: dict[str, Any] = {} if limit is None else {"limit": limit}
    reply = await ask(client, vendor, **query)
    assert len(ids(reply)) == count
    assert reply.json()["has_more"] is True
    assert reply.json().keys() == {"data", "next_cursor", "has_more"}


# -- cursors


@pytest.mark.parametrize("status", [400, 404, 410, 422])
async def test_a_cursor_expires(
    vendor: Jitsudo, client: httpx.AsyncClient, clock: Any, now: datetime, status: Any
) -> None:
    vendor.fill(5, now - HOUR, now)
    vendor.switches.cursor_life, vendor.switches.cursor_status = 60, status
    cursor = (await ask(client, vendor, limit=2)).json()["next_cursor"]
    clock.advance(59)
    assert len(ids(await ask(client, vendor, limit=2, cursor=cursor))) == 2
    clock.advance(1)
    reply = await ask(client, vendor, limit=2, cursor=cursor)
    assert (reply.status_code, reply.json()["code"]) == (status, "invalid_cursor")


async def test_a_cursor_is_valid_for_its_own_filters_only(
    vendor: Jitsudo, client: httpx.AsyncClient, now: datetime
) -> None:
    vendor.fill(9, now - HOUR, now)
    bounds: dict[str, Any] = {"from_": "2026-11-20T11:00:00Z", "to": "2026-11-20T12:00:00Z"}
    cursor = (await ask(client, vendor, limit=2, **bounds)).json()["next_cursor"]
    good = await ask(client, vendor, limit=3, cursor=cursor, **bounds)
    assert len(ids(good)) == 3
    wrongs: tuple[dict[str, Any], ...] = (
        {},
        {**bounds, "to": "2026-11-20T12:00:00.001Z"},
        {"to": bounds["to"]},
        {**bounds, "action": "grant.active"},
    )
    for wrong in wrongs:
        assert (await ask(client, vendor, cursor=cursor, **wrong)).status_code == 400


@pytest.mark.parametrize("damage", [lambda _: "", lambda c: c[:-3], lambda c: "A" + c, str.lower])
async def test_a_damaged_cursor_is_refused(
    vendor: Jitsudo, client: httpx.AsyncClient, now: datetime, damage: Any
) -> None:
    vendor.fill(9, now - HOUR, now)
    cursor = (await ask(client, vendor, limit=2)).json()["next_cursor"]
    assert (await ask(client, vendor, cursor=damage(cursor))).status_code == 400
    assert (await ask(client, vendor, cursor="\u00fc")).status_code == 400


@pytest.mark.parametrize(
    ("more", "given"),
    [("absent", {}), ("null", {"next_cursor": None}), ("empty", {"next_cursor": ""})],
)
async def test_a_page_may_have_no_cursor_although_there_is_more(
    vendor: Jitsudo, client: httpx.AsyncClient, now: datetime, more: Any, given: dict[str, Any]
) -> None:
    vendor.fill(3, now - HOUR, now)
    vendor.switches.more = more
    reply = (await ask(client, vendor, limit=2)).json()
    del reply["data"]
    assert reply == {"has_more": True, **given}


async def test_a_page_may_return_its_own_cursor(
    vendor: Jitsudo, client: httpx.AsyncClient, now: datetime
) -> None:
    vendor.fill(9, now - HOUR, now)
    vendor.switches.more = "repeating"
    cursor = (await ask(client, vendor, limit=2)).json()["next_cursor"]
    second = await ask(client, vendor, limit=2, cursor=cursor)
    assert second.json()["next_cursor"] == cursor
    assert ids(await ask(client, vendor, limit=2, cursor=cursor)) == ids(second)


@pytest.mark.parametrize(
    ("at_end", "given"),
    [("absent", {}), ("null", {"next_cursor": None}), ("empty", {"next_cursor": ""})],
)
async def test_the_last_page_says_so(
    vendor: Jitsudo, client: httpx.AsyncClient, at_end: Any, given: dict[str, Any]
) -> None:
    vendor.switches.at_end = at_end
    assert (await ask(client, vendor)).json() == {"data": [], "has_more": False, **given}


# -- refusals


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "unauthorized"),
        ({"X-Tenant-ID": TENANT}, 401, "unauthorized"),
        ({"X-Tenant-ID": TENANT, "X-API-Key": "wrong"}, 401, "unauthorized"),
        ({"X-Tenant-ID": TENANT, "Authorization": jitsudo.API_KEY}, 401, "unauthorized"),
        ({"X-Tenant-ID": TENANT, "Authorization": "Bearer wrong"}, 401, "unauthorized"),
        ({"X-API-Key": jitsudo.API_KEY}, 400, "invalid_request"),
        ({"X-API-Key": jitsudo.API_KEY, "X-Tenant-ID": "acme"}, 400, "invalid_request"),
        ({"X-API-Key": jitsudo.API_KEY, "X-Tenant-ID": OTHER}, 403, "tenant_mismatch"),
    ],
)
async def test_the_credential_must_be_valid(
    vendor: Jitsudo,
    client: httpx.AsyncClient,
    headers: dict[str, str],
    status: int,
    code: str,
) -> None:
    for path in (PATH, f"{PATH}/x", "/elsewhere"):
        reply = await ask(client, vendor, path, headers)
        assert (reply.status_code, reply.json()["code"]) == (status, code)
    assert (await ask(client, vendor, "/healthz", headers)).status_code == 200


async def test_a_bearer_token_lives_for_an_hour(
    vendor: Jitsudo, client: httpx.AsyncClient, clock: Any
) -> None:
    headers = {"X-Tenant-ID": TENANT.upper(), "Authorization": f"Bearer {vendor.issue()}"}
    clock.advance(3599)
    assert (await ask(client, vendor, PATH, headers)).status_code == 200
    clock.advance(1)
    reply = await ask(client, vendor, PATH, headers)
    assert (reply.status_code, "expired" in reply.json()["message"]) == (401, True)


async def test_a_key_can_be_rotated(vendor: Jitsudo, client: httpx.AsyncClient) -> None:
    vendor.rotate("new")
    headers = {"X-Tenant-ID": TENANT, "X-API-Key": jitsudo.API_KEY}
    assert (await ask(client, vendor, PATH, headers)).status_code == 401
    assert (await ask(client, vendor, PATH, {**headers, "X-API-Key": "new"})).status_code == 200


async def test_a_refusal_has_details_and_notices_by_switch(
    vendor: Jitsudo, client: httpx.AsyncClient
) -> None:
    vendor.tenant = OTHER
    plain = (await ask(client, vendor)).json()
    assert plain.keys() == {"code", "message"}
    vendor.switches.details, vendor.switches.notices = True, ("forbid: tenants",)
    assert (await ask(client, vendor)).json() == {
        **plain,
        "details": {"credential_tenant": OTHER, "requested_tenant": TENANT},
        "notices": ["forbid: tenants"],
    }


@pytest.mark.parametrize(
    ("query", "switches", "word"),
    [
        ({"from_": "yesterday"}, {}, "from"),
        ({"from_": "2026-11-20"}, {}, "from"),
        ({"from_": "2026-11-20T00:00:00"}, {}, "from"),
        ({"to": "2026-11-20T00:00:00 00:00"}, {}, "to"),
        ({"to": "2026-13-20T00:00:00Z"}, {}, "to"),
        ({"to": "1795176000"}, {}, "to"),
        ({"limit": "251"}, {"oversize": "refuse"}, "limit"),
        ({"limit": "0"}, {"oversize": "refuse"}, "limit"),
        ({"limit": "x"}, {"oversize": "refuse"}, "limit"),
        ({"page": "2"}, {"unknown": "refuse"}, "parameter"),
    ],
)
async def test_an_invalid_request_is_refused(
    vendor: Jitsudo,
    client: httpx.AsyncClient,
    query: dict[str, Any],
    switches: dict[str, Any],
    word: str,
) -> None:
    for name, value in switches.items():
        setattr(vendor.switches, name, value)
    reply = await ask(client, vendor, **query)
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_request")
    assert word in reply.json()["message"]


@pytest.mark.parametrize("path", [f"{PATH}/", f"{PATH}/unknown", "/v1/audit-logs", "/"])
async def test_a_missing_entry_is_not_found(
    vendor: Jitsudo, client: httpx.AsyncClient, path: str
) -> None:
    reply = await ask(client, vendor, path)
    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")


async def test_a_single_entry_can_be_read_and_nothing_written(
    vendor: Jitsudo, client: httpx.AsyncClient, now: datetime
) -> None:
    made = vendor.add(now, reasoning="because")
    assert (await ask(client, vendor, f"{PATH}/{made}")).json()["reasoning"] == "because"
    headers = {"X-Tenant-ID": TENANT, "X-API-Key": vendor.api_key}
    reply = await client.delete(f"{vendor.url}{PATH}/{made}", headers=headers)
    assert reply.status_code == 405


@pytest.mark.parametrize("status", [400, 422, 429, 500, 503])
async def test_every_failure_has_every_envelope(
    vendor: Jitsudo, client: httpx.AsyncClient, status: int
) -> None:
    vendor.switches.failing = status
    own = await ask(client, vendor)
    assert (own.status_code, own.json()["code"]) == (status, "failed")
    vendor.switches.envelope = "foreign"
    foreign = await ask(client, vendor)
    assert (foreign.status_code, foreign.json().keys()) == (status, {"error"})
    vendor.switches.envelope = "html"
    page = await ask(client, vendor)
    assert (page.status_code, page.text[:6]) == (status, "<html>")


@pytest.mark.parametrize(
    ("retry_after", "header"),
    [("seconds", "15"), ("date", "Fri, 20 Nov 2026 12:01:00 GMT"), ("absent", None)],
)
async def test_it_throttles_by_the_minute(
    vendor: Jitsudo, client: httpx.AsyncClient, clock: Any, retry_after: Any, header: str | None
) -> None:
    vendor.switches.rate, vendor.switches.retry_after = 2, retry_after
    assert [(await ask(client, vendor)).status_code for _ in range(3)] == [200, 200, 429]
    clock.advance(45)
    reply = await ask(client, vendor)
    assert (reply.json()["code"], reply.headers.get("retry-after")) == ("rate_limited", header)
    clock.advance(15)
    assert (await ask(client, vendor)).status_code == 200


async def test_a_misspelt_switch_is_an_error(vendor: Jitsudo) -> None:
    with pytest.raises(AttributeError):
        setattr(vendor.switches, "sort", "oldest")  # noqa: B010  # the name must be unknown to mypy
