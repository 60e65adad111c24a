"""S-Launch's double: lists, cursors, and refusals."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

import httpx
import pytest

from auditrelay.sandbox.vendors import slaunch
from auditrelay.sandbox.vendors.slaunch import LOGIN, PASSWORD, PATH, USERNAME, SLaunch

HOUR = timedelta(hours=1)


@pytest.fixture
async def vendor(clock: Any) -> AsyncIterator[SLaunch]:
    async with SLaunch(clock=clock.seconds) as vendor:
        yield vendor


async def ask(
    client: httpx.AsyncClient, vendor: SLaunch, path: str = PATH, **query: Any
) -> httpx.Response:
    headers = {"X-API-Key": vendor.api_key}
    return await client.get(f"{vendor.url}{path}", params=query, headers=headers)


def ids(reply: httpx.Response) -> list[str]:
    assert reply.status_code == 200, reply.text
    return [row["id"] for row in reply.json()["items"]]


async def walk(client: httpx.AsyncClient, vendor: SLaunch, **query: Any) -> list[list[str]]:
    """Walk as in the vendor's documentation."""
    pages: list[list[str]] = []
    cursor: str | None = None
    while True:
        more = {"cursor": cursor} if cursor else {}
        reply = await ask(client, vendor, **query, **more)
        pages.append(ids(reply))
        page = reply.json()
        cursor = page["next_cursor"] if page["next_page"] else None
        if cursor is None:
            return pages


# -- pages


@pytest.mark.parametrize("cursors", ["place", "count"])
@pytest.mark.parametrize("order", ["desc", "asc"])
async def test_a_walk_shows_every_row_once_in_order(
    vendor: SLaunch, client: httpx.AsyncClient, now: datetime, cursors: Any, order: str
) -> None:
    vendor.switches.cursors = cursors
    made = vendor.fill(3, now - HOUR, now) + [vendor.add(now) for _ in range(4)]
    pages = await walk(client, vendor, limit=2, sort_order=order)
    assert [len(page) for page in pages] == [2, 2, 2, 1]
    assert list(chain.from_iterable(pages)) == (made if order == "asc" else made[::-1])


async def test_the_last_page_says_so_and_the_total_can_be_left_out(
    vendor: SLaunch, client: httpx.AsyncClient, now: datetime
) -> None:
    vendor.fill(60, now - HOUR, now)
    page = (await ask(client, vendor)).json()
    assert (len(page["items"]), page["limit"], page["next_page"]) == (50, 50, True)
    assert page["collection_total"] == 60
    vendor.history.remove(page["items"][0]["id"])
    last = (await ask(client, vendor, cursor=page["next_cursor"])).json()
    assert (last["next_page"], last["next_cursor"], last["collection_total"]) == (False, None, 59)
    without = (await ask(client, vendor, include_total="false")).json()
    assert without["collection_total"] == 0


async def test_rows_at_the_head_shift_later_pages_only_if_cursors_are_counts(
    vendor: SLaunch, client: httpx.AsyncClient, now: datetime
) -> None:
    made = vendor.fill(4, now - HOUR, now)
    vendor.before_page[2] = lambda: vendor.add(now)
    assert (await walk(client, vendor, limit=2))[1] == made[1::-1]
    vendor.switches.cursors = "count"
    vendor.before_page[2] = lambda: vendor.add(now)
    pages = await walk(client, vendor, limit=2)
    assert pages[0][1] == pages[1][0]


async def test_a_large_page_is_silently_reduced(
    vendor: SLaunch, client: httpx.AsyncClient, now: datetime
) -> None:
    vendor.fill(5, now - HOUR, now)
    vendor.switches.page_size_cap = 3
    reply = await ask(client, vendor, limit=250)
    assert (len(ids(reply)), reply.json()["next_page"]) == (3, True)


async def test_a_list_as_stored_is_not_in_order_of_time(
    vendor: SLaunch, client: httpx.AsyncClient, now: datetime
) -> None:
    made = [vendor.add(now - at * HOUR) for at in (2, 3, 1)]
    assert (await walk(client, vendor))[0] == [made[2], made[0], made[1]]
    vendor.switches.order = "as stored"
    assert (await walk(client, vendor))[0] == made[::-1]


async def test_rows_appear_late_and_are_deleted(
    vendor: SLaunch, client: httpx.AsyncClient, clock: Any, now: datetime
) -> None:
    late = vendor.add(now - HOUR, visible_from=now + HOUR)
    gone = vendor.add(now - 2 * HOUR, gone_from=now + HOUR)
    assert ids(await ask(client, vendor)) == [gone]
    clock.advance(3600)
    assert ids(await ask(client, vendor)) == [late]


# -- cursors


@pytest.mark.parametrize("status", [400, 422])
async def test_a_cursor_that_is_damaged_foreign_or_old_is_refused(
    vendor: SLaunch, client: httpx.AsyncClient, clock: Any, now: datetime, status: Any
) -> None:
    vendor.switches.bad_cursor = status
    vendor.fill(4, now - HOUR, now)

    async def given() -> str:
        return str((await ask(client, vendor, limit=2)).json()["next_cursor"])

    cursor = await given()
    assert (await ask(client, vendor, limit=1, cursor=cursor)).status_code == 200
    vendor.switches.cursor_life = 60
    bad = [
        {"cursor": cursor[:-4]},
        {"cursor": "?"},
        {"cursor": ""},
        {"cursor": cursor, "sort_order": "asc"},
        {"cursor": cursor, "actor": "someone"},
    ]
    for query in bad:
        reply = await ask(client, vendor, **query)
        assert reply.status_code == status, query
        detail = reply.json()["detail"]
        assert (detail[0]["loc"] == ["query", "cursor"]) if status == 422 else "cursor" in detail
    clock.advance(61)
    assert (await ask(client, vendor, cursor=cursor)).status_code == status
    cursor = await given()
    vendor.expire_cursors()
    assert (await ask(client, vendor, cursor=cursor)).status_code == status
    assert (await ask(client, vendor, cursor=await given())).status_code == 200


@pytest.mark.parametrize(
    ("switch", "seen"), [("null", None), ("empty", ""), ("absent", "nothing there")]
)
async def test_a_next_page_may_come_without_its_cursor(
    vendor: SLaunch, client: httpx.AsyncClient, now: datetime, switch: Any, seen: str | None
) -> None:
    vendor.fill(3, now - HOUR, now)
    vendor.switches.next_cursor = switch
    page = (await ask(client, vendor, limit=2)).json()
    assert page["next_page"]
    assert page.get("next_cursor", "nothing there") == seen


async def test_a_cursor_may_repeat(
    vendor: SLaunch, client: httpx.AsyncClient, now: datetime
) -> None:
    vendor.fill(5, now - HOUR, now)
    vendor.switches.next_cursor = "repeating"
    cursor = (await ask(client, vendor, limit=2)).json()["next_cursor"]
    page = (await ask(client, vendor, limit=2, cursor=cursor)).json()
    assert page["next_cursor"] == cursor


# -- refusals


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 251}, "limit"),
        ({"limit": "-1"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"limit": ""}, "limit"),
        ({"sort_by": "colour"}, "sort_by"),
        ({"sort_order": "up"}, "sort_order"),
        ({"include_total": "maybe"}, "include_total"),
        ({"start": "2026"}, "start"),
    ],
)
async def test_an_invalid_parameter_is_named(
    vendor: SLaunch, client: httpx.AsyncClient, query: dict[str, Any], name: str
) -> None:
    vendor.switches.unknown = "refuse"
    reply = await ask(client, vendor, **query)
    assert reply.status_code == 422
    [problem] = reply.json()["detail"]
    assert problem["loc"] == ["query", name]
    assert problem["msg"]
    assert problem["type"]


async def test_an_unknown_parameter_is_ignored_by_default(
    vendor: SLaunch, client: httpx.AsyncClient, now: datetime
) -> None:
    made = vendor.add(now - HOUR)
    assert ids(await ask(client, vendor, start=now.isoformat(), limit=250)) == [made]


async def test_the_key_is_raw_may_expire_and_needs_its_scope(
    vendor: SLaunch, client: httpx.AsyncClient, clock: Any
) -> None:
    url = f"{vendor.url}{PATH}"
    assert (await client.get(url)).status_code == 401
    bearer = {"Authorization": f"Bearer {vendor.api_key}"}
    assert (await client.get(url, headers=bearer)).status_code == 401
    assert (await ask(client, vendor)).status_code == 200
    vendor.scopes = {"audit:write"}
    refused = await ask(client, vendor)
    assert refused.status_code == 403
    assert "audit:read" in refused.json()["detail"]
    vendor.scopes = {"admin"}
    assert (await ask(client, vendor)).status_code == 200
    vendor.key_expires = clock.seconds() + 1
    assert (await ask(client, vendor)).status_code == 200
    clock.advance(1)
    expired = await ask(client, vendor)
    assert (expired.status_code, expired.json()) == (401, {"detail": "API key has expired"})
    vendor.key_expires = None
    vendor.rotate("new")
    assert (await client.get(url, headers={"X-API-Key": slaunch.API_KEY})).status_code == 401
    assert (await ask(client, vendor)).status_code == 200


async def test_a_user_gets_a_bearer_token_and_with_it_the_filters(
    vendor: SLaunch, client: httpx.AsyncClient
) -> None:
    form = {"username": USERNAME, "password": PASSWORD}
    wrong = await client.post(f"{vendor.url}{LOGIN}", data={**form, "password": "x"})
    assert wrong.status_code == 400
    assert (await client.get(f"{vendor.url}{LOGIN}")).status_code == 405
    token = await client.post(f"{vendor.url}{LOGIN}", data=form)
    assert "slaunch_refresh_cookie" in token.headers["set-cookie"]
    headers = {"Authorization": f"Bearer {token.json()['access_token']}"}
    assert (await client.get(f"{vendor.url}{PATH}", headers=headers)).status_code == 200
    filters = await client.get(f"{vendor.url}{PATH}filters", headers=headers)
    assert "timestamp" in filters.json()["sort"]["fields"]
    assert (await ask(client, vendor, f"{PATH}filters")).status_code == 401
    vendor.switches.filters_by_key = "accept"
    assert (await ask(client, vendor, f"{PATH}filters")).status_code == 200


async def test_without_the_slash_it_redirects(vendor: SLaunch, client: httpx.AsyncClient) -> None:
    reply = await ask(client, vendor, PATH.rstrip("/"), limit=3)
    assert reply.status_code == 307
    assert reply.headers["location"] == f"{vendor.url}{PATH}?limit=3"


async def test_other_paths_and_methods(
    vendor: SLaunch, client: httpx.AsyncClient, now: datetime
) -> None:
    made = vendor.add(now)
    headers = {"X-API-Key": vendor.api_key}
    assert (await ask(client, vendor, f"{PATH}{made}")).json()["id"] == made
    assert (await ask(client, vendor, f"{PATH}0")).status_code == 404
    assert (await ask(client, vendor, "/api/")).status_code == 404
    assert (await client.post(f"{vendor.url}{PATH}", headers=headers)).status_code == 405
    assert (await client.put(f"{vendor.url}{PATH}{made}", headers=headers)).status_code == 405
    assert vendor.failures == []


async def test_every_delete_is_a_failure_of_the_client(
    vendor: SLaunch, client: httpx.AsyncClient, now: datetime
) -> None:
    made = vendor.add(now)
    headers = {"X-API-Key": vendor.api_key}
    url = f"{vendor.url}{PATH}{made}"
    assert (await client.delete(url, headers=headers)).status_code == 403
    vendor.scopes.add("audit:write")
    assert (await client.delete(url, headers=headers)).status_code == 204
    assert (await client.delete(url)).status_code == 401
    assert (await client.delete(f"{vendor.url}{PATH}", headers=headers)).status_code == 405
    assert len(vendor.failures) == 4
    assert vendor.failures[0].startswith(f"DELETE {PATH}{made}: ")
    assert ids(await ask(client, vendor)) == []


@pytest.mark.parametrize(
    ("retry_after", "header"),
    [("seconds", "60"), ("date", "Fri, 20 Nov 2026 12:01:00 GMT"), ("absent", None)],
)
async def test_it_throttles(
    vendor: SLaunch, client: httpx.AsyncClient, clock: Any, retry_after: Any, header: str | None
) -> None:
    vendor.switches.rate, vendor.switches.retry_after = 1, retry_after
    assert (await ask(client, vendor)).status_code == 200
    reply = await ask(client, vendor)
    assert (reply.status_code, reply.headers.get("retry-after")) == (429, header)
    clock.advance(60)
    assert (await ask(client, vendor)).status_code == 200


# -- records


@pytest.mark.parametrize("id_field", ["id", "_id", "none"])
@pytest.mark.parametrize("time_field", ["timestamp", "created"])
@pytest.mark.parametrize(
    ("zone", "written"),
    [
        ("Z", "2026-11-20T12:00:00.000000Z"),
        ("+00:00", "2026-11-20T12:00:00.000000+00:00"),
        ("none", "2026-11-20T12:00:00.000000"),
    ],
)
async def test_records_have_the_requested_shape(
    *,
    vendor: SLaunch,
    client: httpx.AsyncClient,
    now: datetime,
    id_field: Any,
    time_field: Any,
    zone: Any,
    written: str,
) -> None:
    switches = vendor.switches
    switches.id_field, switches.time_field, switches.zone = id_field, time_field, zone
    vendor.add(now, extra=1)
    [row] = (await ask(client, vendor, sort_by=time_field)).json()["items"]
    assert {"id", "_id"} & set(row) == {id_field} - {"none"}
    assert {"timestamp", "created"} & set(row) == {time_field}
    assert (row[time_field], row["extra"]) == (written, 1)


def test_records_differ_in_actions_and_fields(now: datetime) -> None:
    rows = [slaunch.make_record(number, now) for number in range(30)]
    assert {"sign-in", "auth.login"} <= {row["event"] for row in rows}
    assert {"hologram" in row for row in rows} == {True, False}
    assert {row["detail"] is None for row in rows} == {True, False}


async def test_a_misspelt_switch_is_an_error(vendor: SLaunch) -> None:
    with pytest.raises(AttributeError):
        setattr(vendor.switches, "cursor", "place")  # noqa: B010  # the name must be unknown to mypy
