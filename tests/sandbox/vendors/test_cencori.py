"""Cencori's double: access, lists, and exported files."""

import csv
import io
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from auditrelay.sandbox.vendors import cencori
from auditrelay.sandbox.vendors.cencori import HEADER, Cencori
from auditrelay.sandbox.vendors.cencori.session import COOKIE

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@pytest.fixture
async def vendor(clock: Any) -> AsyncIterator[Cencori]:
    async with Cencori(clock=clock.seconds) as vendor:
        yield vendor


async def ask(
    client: httpx.AsyncClient, vendor: Cencori, cookie: str | None = None, **query: Any
) -> httpx.Response:
    return await client.get(
        f"{vendor.url}/api/organizations/{vendor.organization_slug}/audit-logs",
        params=query,
        headers={"Cookie": vendor.cookie if cookie is None else cookie},
    )


def ids(reply: httpx.Response) -> list[str]:
    assert reply.status_code == 200, reply.text
    return [row["id"] for row in reply.json()["logs"]]


# -- access


async def test_only_the_cookies_of_a_session_are_accepted(
    vendor: Cencori, client: httpx.AsyncClient
) -> None:
    token = vendor.cookie.partition("=")[2]
    address = f"{vendor.url}/api/organizations/{vendor.organization_slug}/audit-logs"
    bearer = await client.get(address, headers={"Authorization": f"Bearer {token}"})
    assert (bearer.status_code, bearer.json()) == (401, {"error": "Unauthorized"})
    assert (await ask(client, vendor, "sb-other-auth-token=" + token)).status_code == 401
    assert (await ask(client, vendor, f"{COOKIE}=base64-wrong")).status_code == 401
    assert (await ask(client, vendor, f"theme=dark; {vendor.cookie}")).status_code == 200


async def test_a_long_session_is_split_into_cookies(
    vendor: Cencori, client: httpx.AsyncClient
) -> None:
    vendor.switches.chunk = 1000
    pieces = vendor.cookie.split("; ")
    assert [piece.partition("=")[0] for piece in pieces] == [f"{COOKIE}.{n}" for n in range(3)]
    assert (await ask(client, vendor)).status_code == 200
    assert (await ask(client, vendor, "; ".join(pieces[:2]))).status_code == 401


async def test_a_session_is_renewed_and_the_old_one_refused(
    vendor: Cencori, client: httpx.AsyncClient, clock: Any
) -> None:
    vendor.switches.session_life = 3600
    first = vendor.cookie
    assert "set-cookie" not in (await ask(client, vendor)).headers
    clock.advance(3600)
    vendor.switches.chunk = 1000
    renewed = await ask(client, vendor)
    lines = renewed.headers.get_list("set-cookie")
    assert len(lines) == 3
    assert all("Domain=.cencori.com" in line for line in lines)
    assert (await ask(client, vendor, first)).status_code == 401
    again = "; ".join(line.partition(";")[0] for line in lines)
    assert again == vendor.cookie
    assert (await ask(client, vendor, again)).status_code == 200
    vendor.switches.chunk = 3180
    vendor.renew_session()
    lines = (await ask(client, vendor, again)).headers.get_list("set-cookie")
    assert lines[0].startswith(f"{COOKIE}=base64-")
    assert {line.partition("=")[0] for line in lines if "Max-Age=0" in line} == {
        f"{COOKIE}.{n}" for n in range(3)
    }


@pytest.mark.parametrize(
    ("role", "plan", "body"),
    [
        (None, "team", {"error": "Forbidden"}),
        ("member", "team", {"error": "Insufficient permissions"}),
        ("owner", "free", {"code": "FEATURE_NOT_INCLUDED", "required_tier": "pro"}),
    ],
)
async def test_there_are_three_kinds_of_403(
    *, vendor: Cencori, client: httpx.AsyncClient, role: Any, plan: Any, body: dict[str, str]
) -> None:
    vendor.switches.role, vendor.switches.plan = role, plan
    reply = await ask(client, vendor)
    assert reply.status_code == 403
    assert body.items() <= reply.json().items()
    assert ("upgrade_url" in reply.json()) == (plan == "free")


async def test_other_refusals(vendor: Cencori, client: httpx.AsyncClient) -> None:
    vendor.organization_slug = "other"
    reply = await client.get(
        f"{vendor.url}/api/organizations/acme-labs/audit-logs", headers={"Cookie": vendor.cookie}
    )
    assert (reply.status_code, reply.json()) == (404, {"error": "Organization not found"})
    assert (await client.get(f"{vendor.url}/api/x")).status_code == 404
    assert (
        await client.post(f"{vendor.url}/api/organizations/other/audit-logs")
    ).status_code == 405
    vendor.switches.misconfigured = True
    reply = await ask(client, vendor)
    assert (reply.status_code, reply.json()) == (503, {"error": "Server misconfiguration"})


@pytest.mark.parametrize(
    ("retry_after", "header"),
    [("seconds", "60"), ("date", "Fri, 20 Nov 2026 12:01:00 GMT"), ("absent", None)],
)
async def test_it_throttles_by_switch(
    vendor: Cencori, client: httpx.AsyncClient, retry_after: Any, header: str | None
) -> None:
    vendor.switches.rate, vendor.switches.retry_after = 1, retry_after
    assert (await ask(client, vendor)).status_code == 200
    reply = await ask(client, vendor)
    assert (reply.status_code, reply.headers.get("retry-after")) == (429, header)


# -- plans


@pytest.mark.parametrize(
    ("plan", "shown"),
    [
        ("free", []),
        ("pro", ["1h", "24h", "7d"]),
        ("team", ["1h", "24h", "7d", "30d", "90d"]),
        ("enterprise", ["1h", "24h", "7d", "30d", "90d", "all"]),
    ],
)
async def test_a_plan_shows_its_ranges(
    *, vendor: Cencori, client: httpx.AsyncClient, plan: Any, shown: list[str]
) -> None:
    vendor.switches.plan = plan
    for range_ in ("1h", "24h", "7d", "30d", "90d", "all"):
        reply = await ask(client, vendor, time_range=range_)
        assert reply.status_code == (200 if range_ in shown else 403), range_


@pytest.mark.parametrize("plan", ["pro", "team"])
async def test_a_lower_plan_silently_leaves_identities_out(
    vendor: Cencori, client: httpx.AsyncClient, now: datetime, plan: Any
) -> None:
    vendor.switches.plan = plan
    hidden = [vendor.add(now - HOUR / 2, category=name) for name in ("member", "api_key", "sso")]
    seen = vendor.add(now - HOUR / 2, category="project")
    reply = await ask(client, vendor)
    assert set(ids(reply)) == ({seen} if plan == "pro" else {seen, *hidden})
    assert reply.json()["pagination"]["total"] == len(ids(reply))
    for name in ("member", "api_key", "sso", "project"):
        reply = await ask(client, vendor, category=name)
        refused = plan == "pro" and name != "project"
        assert reply.status_code == (403 if refused else 200)
        assert reply.json().get("required_tier") == ("team" if refused else None)
    for kind in ("csv", "json"):
        reply = await ask(client, vendor, format=kind)
        assert reply.status_code == (403 if plan == "pro" else 200)


# -- pages


async def test_pages_are_newest_first_and_their_size_is_limited(
    vendor: Cencori, client: httpx.AsyncClient, now: datetime
) -> None:
    made = vendor.fill(250, now - HOUR, now)
    pages = [await ask(client, vendor, page=n, per_page=500) for n in (1, 2, 3)]
    assert [len(ids(page)) for page in pages] == [100, 100, 50]
    assert [one for page in pages for one in ids(page)] == made[::-1]
    assert pages[1].json()["pagination"] == {
        "page": 2, "per_page": 100, "total": 250, "total_pages": 3
    }  # fmt: skip
    assert len(ids(await ask(client, vendor))) == 50
    assert vendor.failures == []


async def test_a_page_beyond_the_last_is_a_500_and_a_failure_of_the_client(
    vendor: Cencori, client: httpx.AsyncClient, now: datetime
) -> None:
    made = vendor.fill(4, now - HOUR, now)
    await ask(client, vendor, per_page=2)
    for one in made[:2]:
        vendor.history.remove(one)
    reply = await ask(client, vendor, page=2, per_page=2)
    assert (reply.status_code, reply.json()) == (500, {"error": "Failed to fetch audit logs"})
    assert vendor.failures == []  # two pages were reported
    await ask(client, vendor, per_page=2)
    await ask(client, vendor, page=2, per_page=2)
    assert vendor.failures == ["page 2 of 2 was requested, after 2 rows were reported"]


async def test_the_lower_bound_is_included_and_moves_and_there_is_no_upper_one(
    vendor: Cencori, client: httpx.AsyncClient, now: datetime, clock: Any
) -> None:
    at_bound, ahead = vendor.add(now - HOUR), vendor.add(now + HOUR)
    assert ids(await ask(client, vendor, time_range="1h")) == [ahead, at_bound]
    clock.advance(1)
    assert ids(await ask(client, vendor, time_range="1h")) == [ahead]
    assert ids(await ask(client, vendor, time_range="nonsense")) == [ahead, at_bound]
    old = vendor.add(now - 8 * DAY)
    assert old not in ids(await ask(client, vendor, time_range="nonsense"))
    assert old in ids(await ask(client, vendor, time_range="all"))


async def test_rows_of_one_time_swap_places(
    vendor: Cencori, client: httpx.AsyncClient, now: datetime
) -> None:
    made = {vendor.add(now - HOUR / 2) for _ in range(8)}
    vendor.switches.ties = "swapping"
    orders = [ids(await ask(client, vendor)) for _ in range(5)]
    assert all(set(order) == made for order in orders)
    assert len({tuple(order) for order in orders}) > 1


async def test_rows_are_found_by_category_project_and_words(
    vendor: Cencori, client: httpx.AsyncClient, now: datetime
) -> None:
    one = vendor.add(now, category="webhook", project_id="p1", description="Created HOOK")
    vendor.add(now, category="project", project_id="p2", description="Created project")
    for query in ({"category": "webhook"}, {"project_id": "p1"}, {"search": "hook"}):
        assert ids(await ask(client, vendor, **query)) == [one]
    assert ids(await ask(client, vendor, category="Webhook")) == []
    assert vendor.delete_project("p1") == 1
    [row] = (await ask(client, vendor, category="webhook")).json()["logs"]
    assert row["project_id"] is None
    backfilled = vendor.backfill(now - DAY)
    assert vendor.history.find(backfilled, now.timestamp()) is not None


async def test_a_callback_can_run_before_a_page(
    vendor: Cencori, client: httpx.AsyncClient, now: datetime
) -> None:
    vendor.before_page = {2: lambda: vendor.add(now)}
    assert len(ids(await ask(client, vendor))) == 0
    assert len(ids(await ask(client, vendor))) == 1


# -- rows and files


@pytest.mark.parametrize(
    ("microseconds", "written", "in_csv"),
    [
        (0, "2026-11-20T12:00:00+00:00", "2026-11-20T12:00:00.000Z"),
        (120_000, "2026-11-20T12:00:00.12+00:00", "2026-11-20T12:00:00.120Z"),
        (123_456, "2026-11-20T12:00:00.123456+00:00", "2026-11-20T12:00:00.123Z"),
        (999_999, "2026-11-20T12:00:00.999999+00:00", "2026-11-20T12:00:00.999Z"),
    ],
)
def test_times_are_formatted_as_in_each_form(
    now: datetime, microseconds: int, written: str, in_csv: str
) -> None:
    row = cencori.make_record(1, now + timedelta(microseconds=microseconds))
    assert row["created_at"] == written
    assert cencori.to_csv([row]).splitlines()[1].startswith(in_csv + ",")


def test_csv_is_exact(now: datetime) -> None:
    row = cencori.make_record(4, now) | {
        "resource_id": None, "project_id": None, "actor_email": None, "actor_type": None,
        "actor_ip": None, "description": "a\rb", "metadata": None,
    }  # fmt: skip
    quoted = row | {"description": 'say "x", or\ny', "metadata": {"a": 1, "b": "ü"}}
    text = cencori.to_csv([row, quoted, row])
    head, *rest = text.split("\n")
    assert head == HEADER
    bare = "2026-11-20T12:00:00.000Z,sso,enforced,sso,-,-,System,-,a\rb,-"
    assert rest[0] == rest[-1] == bare
    assert "\n".join(rest[1:-1]) == (
        '2026-11-20T12:00:00.000Z,sso,enforced,sso,-,-,System,-,"say ""x"", or\ny",'
        '"{""a"":1,""b"":""ü""}"'
    )
    assert not text.endswith("\n")
    # A standard CSV parser reads it, except for the carriage return.
    read = list(csv.reader(io.StringIO(cencori.to_csv([quoted]), newline="")))
    assert read[1][8:] == ['say "x", or\ny', '{"a":1,"b":"ü"}']


async def test_an_export_is_an_attachment_with_its_documented_name(
    vendor: Cencori, client: httpx.AsyncClient, now: datetime
) -> None:
    made = vendor.fill(3, now - HOUR, now)
    reply = await ask(client, vendor, format="json", time_range="30d")
    name = 'attachment; filename="audit-log-acme-labs-30d-2026-11-20.json"'
    assert reply.headers["content-disposition"] == name
    whole = reply.json()
    assert (whole["organization"], whole["exported_at"]) == (
        "Acme Labs",
        "2026-11-20T12:00:00.000Z",
    )
    assert [row["id"] for row in whole["logs"]] == made[::-1]
    assert b'\n  "logs": [\n    {\n' in reply.content
    reply = await ask(client, vendor, format="csv")
    assert reply.headers["content-disposition"].endswith('-7d-2026-11-20.csv"')
    assert reply.text.count("Z,") == 3


def test_an_export_is_silently_truncated(now: datetime, clock: Any, tmp_path: Path) -> None:
    vendor = Cencori(clock=clock.seconds)
    made = vendor.fill(1_005, now - HOUR, now)
    vendor.switches.max_rows = 1_000
    path = vendor.drop(tmp_path, "json")
    rows = json.loads(path.read_bytes())["logs"]
    assert [row["id"] for row in rows] == made[:4:-1]
    assert path.stat().st_mtime == clock.seconds() - 60
    vendor.switches.max_rows = None
    assert len(json.loads(vendor.export("json")[1])["logs"]) == 1_005
    assert cencori.MOST_EXPORTED == 50_000


async def test_a_misspelt_switch_is_an_error(vendor: Cencori) -> None:
    with pytest.raises(AttributeError):
        setattr(vendor.switches, "tier", "pro")  # noqa: B010  # the name must be unknown to mypy
