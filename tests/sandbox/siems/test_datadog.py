"""Datadog's intake: all or nothing, and logs that are accepted but never indexed."""

import gzip
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from auditrelay.sandbox.siems.datadog import Datadog, throttled

LOG = {"message": "x", "evt": {"id": "u1"}, "vendor": {"cekura": {"id": 7}}}


@pytest.fixture
async def intake(clock: Any) -> AsyncIterator[Datadog]:
    async with Datadog(clock=clock.seconds) as intake:
        yield intake


async def post(
    client: httpx.AsyncClient, intake: Datadog, body: Any, **headers: str
) -> httpx.Response:
    named = {"DD-API-KEY": intake.api_key, "Content-Type": "application/json"}
    named.update({name.replace("_", "-"): value for name, value in headers.items()})
    content = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
    return await client.post(f"{intake.url}/api/v2/logs", content=content, headers=named)


@pytest.mark.parametrize("body", [[LOG], LOG, []])
@pytest.mark.parametrize("encoding", ["identity", "gzip", "deflate"])
async def test_logs_are_accepted(
    intake: Datadog, client: httpx.AsyncClient, body: Any, encoding: str
) -> None:
    coded = json.dumps(body).encode()
    if encoding != "identity":
        coded = gzip.compress(coded) if encoding == "gzip" else zlib.compress(coded)
    reply = await post(client, intake, coded, Content_Encoding=encoding)
    assert (reply.status_code, reply.json()) == (202, {})
    assert intake.stored.documents == ([LOG] if body else [])


async def test_a_record_of_any_depth_in_a_text_is_accepted(
    intake: Datadog, client: httpx.AsyncClient
) -> None:
    log = {**LOG, "vendor": {"cekura": "[" * 100_000}}
    assert (await post(client, intake, [log])).status_code == 202
    assert intake.stored.documents == [log]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"[{]", {}, 400),
        (b"[NaN]", {}, 400),
        (b'"text"', {}, 400),
        ([LOG, 5], {}, 400),
        (b"[", {"Content_Encoding": "gzip"}, 400),
        ([LOG], {"Content_Encoding": "zstd"}, 415),
        ([LOG], {"Content_Type": "text/plain"}, 415),
        ([LOG], {"DD_API_KEY": ""}, 401),
        ([LOG], {"DD_API_KEY": "wrong"}, 403),
        ([LOG] * 1001, {}, 413),
        ([{"message": "x" * 999_000}] * 6, {}, 413),
        (gzip.compress(b"[" + b" " * 5_000_000), {"Content_Encoding": "gzip"}, 413),
    ],
)
async def test_a_refused_request_stores_nothing(
    intake: Datadog, client: httpx.AsyncClient, body: Any, headers: dict[str, str], status: int
) -> None:
    reply = await post(client, intake, body, **headers)
    assert reply.status_code == status
    assert reply.json()["errors"][0]["status"] == str(status)
    assert intake.stored.total == intake.not_indexed.total == 0


async def test_a_thousand_logs_are_not_too_many(intake: Datadog, client: httpx.AsyncClient) -> None:
    assert (await post(client, intake, [LOG] * 1000)).status_code == 202
    assert intake.stored.repeated() == {"u1": 1000}
    assert intake.stored.lost(["7", "8"]) == ["8"]


async def test_a_log_that_is_too_long_is_silently_truncated(
    intake: Datadog, client: httpx.AsyncClient
) -> None:
    assert (await post(client, intake, [{**LOG, "x": "y" * 1_000_000}])).status_code == 202
    assert intake.truncated == 1
    assert intake.stored.documents[0]["truncated"] is True
    assert len(intake.stored.documents[0]["message"]) == 1_000_000
    assert intake.stored.by_uid == {"u1": 1}


@pytest.mark.parametrize(
    ("fields", "indexed"),
    [
        ({}, True),
        ({"timestamp": "not a time"}, True),
        ({"timestamp": "2026-11-19T18:00:00Z"}, True),
        ({"timestamp": "2026-11-19T17:59:59Z"}, False),
        ({"timestamp": "2026-11-20T14:00:00.000Z"}, True),
        ({"timestamp": "2026-11-20T14:00:01Z"}, False),
        ({"timestamp": 1763600000000}, False),
        ({"date": "2026-11-01T00:00:00Z"}, False),
        ({"timestamp": "2026-11-20T12:00:00Z", "date": "2026-11-01T00:00:00Z"}, True),
    ],
)
async def test_old_and_future_logs_get_202_and_are_not_indexed(
    intake: Datadog, client: httpx.AsyncClient, fields: dict[str, Any], indexed: bool
) -> None:
    assert (await post(client, intake, [{**LOG, **fields}])).status_code == 202
    assert (intake.stored.total, intake.not_indexed.total) == (int(indexed), int(not indexed))


async def test_the_key_can_be_checked_and_rotated(
    intake: Datadog, client: httpx.AsyncClient
) -> None:
    url, old = f"{intake.url}/api/v1/validate", intake.api_key
    assert (await client.get(url)).status_code == 403
    assert (await client.get(url, headers={"DD-API-KEY": old})).json() == {"valid": True}
    intake.rotate("new")
    assert (await client.get(url, headers={"DD-API-KEY": old})).status_code == 403
    assert (await client.get(url, headers={"DD-API-KEY": "new"})).status_code == 200
    assert (await client.post(url)).status_code == 405
    assert (await client.get(f"{intake.url}/")).status_code == 404


async def test_a_429_has_its_reset_by_script(intake: Datadog, client: httpx.AsyncClient) -> None:
    intake.faults.add(throttled(reset=3))
    intake.faults.add(throttled())
    replies = [await post(client, intake, [LOG]) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [429, 429, 202]
    assert replies[0].headers["x-ratelimit-reset"] == "3"
    assert "x-ratelimit-reset" not in replies[1].headers


async def test_a_lean_intake_counts_the_same(intake: Datadog, client: httpx.AsyncClient) -> None:
    intake.lean = True
    await post(client, intake, [LOG, LOG, {**LOG, "evt": {"category": "iam", "id": "u2"}}])
    assert intake.stored.by_uid == {"u1": 2, "u2": 1}
    assert intake.stored.by_native_id == {"7": 3}
    assert (intake.stored.total, intake.stored.documents) == (3, [])
