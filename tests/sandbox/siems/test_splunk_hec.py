"""HEC: which events of a batch are stored, and with which code the rest is refused."""

import base64
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from auditrelay.sandbox.siems.splunk_hec import Splunk

CHANNEL = "0aeeac95-ac74-4aa9-b30d-6c4c0ac581ba"
OK = '{"event":"ok"}'


@pytest.fixture
async def hec(clock: Any) -> AsyncIterator[Splunk]:
    async with Splunk(clock=clock.seconds) as hec:
        yield hec


async def post(
    client: httpx.AsyncClient,
    hec: Splunk,
    body: str | bytes,
    path: str = "/services/collector/event",
    **headers: str,
) -> httpx.Response:
    named = {"Authorization": f"Splunk {hec.token}"}
    named.update({name.replace("_", "-"): value for name, value in headers.items()})
    content = body if isinstance(body, bytes) else body.encode()
    return await client.post(f"{hec.url}{path}", content=content, headers=named)


def verdict(reply: httpx.Response) -> tuple[int, int, int | None]:
    body = reply.json()
    return reply.status_code, body["code"], body.get("invalid-event-number")


@pytest.mark.parametrize(
    ("bad", "code", "number"),
    [
        ('{"event":', 6, 1),
        ("[1]", 6, 1),
        ('"text"', 6, 1),
        ('{"event":NaN}', 6, 1),
        ('{"event":"x","host":5}', 6, 1),
        ('{"time":1}', 12, 1),
        ('{"event":null}', 13, 1),
        ('{"event":" "}', 13, 1),
        ('{"event":{}}', 13, 1),
        ('{"event":[]}', 13, 1),
        ('{"event":"x","fields":{"a":{"b":"c"}}}', 15, 1),
        ('{"event":"x","fields":{"a":1}}', 15, 1),
        ('{"event":"x","fields":{"a":null}}', 15, 1),
        ('{"event":"x","fields":["a"]}', 15, 1),
        ('{"event":"x","time":1.79E9}', 15, 1),
        ('{"event":"x","time":"soon"}', 15, 1),
        ('{"event":"x","time":true}', 15, 1),
        ('{"event":"x","index":"other"}', 7, 2),
    ],
)
async def test_events_before_a_bad_one_are_stored(
    hec: Splunk, client: httpx.AsyncClient, bad: str, code: int, number: int
) -> None:
    hec.configure(indexes=("main",))
    reply = await post(client, hec, OK + bad + "\n" + OK)
    assert verdict(reply) == (400, code, number)
    assert [document["event"] for document in hec.stored.documents] == ["ok"]


async def test_the_number_of_code_7_is_one_too_high_unless_switched_off(
    hec: Splunk, client: httpx.AsyncClient
) -> None:
    hec.configure(indexes=("main",))
    bad = '{"event":"x","index":"other"}'
    assert verdict(await post(client, hec, bad)) == (400, 7, 1)
    hec.switches.index_quirk = False
    assert verdict(await post(client, hec, bad)) == (400, 7, 0)
    hec.configure()
    assert verdict(await post(client, hec, bad)) == (200, 0, None)


@pytest.mark.parametrize(
    "good",
    [
        OK,
        '{"event":0}',
        '{"event":{"a":1},"time":1700000000.123,"fields":{"a":"b","c":["d","e"]}}',
        '{"event":"x","time":"1700000000.123"}',
        '{"event":"x","time":1700000000}',
        '{"fields":{"a":"b"}}',
    ],
)
async def test_good_envelopes_are_stored(hec: Splunk, client: httpx.AsyncClient, good: str) -> None:
    reply = await post(client, hec, good)
    assert reply.json() == {"text": "Success", "code": 0}
    assert hec.stored.total == 1


@pytest.mark.parametrize("separator", ["", "\n", "\r\n  "])
async def test_a_batch_is_objects_one_after_the_other(
    hec: Splunk, client: httpx.AsyncClient, separator: str
) -> None:
    await post(client, hec, separator.join([OK, OK, OK]))
    assert hec.stored.total == 3


async def test_metadata_sticks_to_later_envelopes(
    hec: Splunk, client: httpx.AsyncClient, clock: Any
) -> None:
    await post(client, hec, '{"event":1,"host":"a","time":5}{"event":2}{"event":3,"host":"b"}')
    await post(client, hec, '{"event":4}')
    metadata = [(document.get("host"), document["time"]) for document in hec.stored.documents]
    assert metadata == [("a", 5), ("a", 5), ("b", 5), (None, clock.seconds())]


@pytest.mark.parametrize(
    ("headers", "query", "verdicted"),
    [
        ({}, "", (401, 2)),
        ({"Authorization": "Splunk"}, "", (401, 2)),
        ({"Authorization": "Bearer x"}, "", (401, 3)),
        ({"Authorization": "Basic !"}, "", (401, 3)),
        ({"Authorization": "Splunk wrong"}, "", (403, 4)),
        ({}, "?token=x", (400, 16)),
    ],
)
async def test_credentials_are_refused_with_their_code(
    hec: Splunk,
    client: httpx.AsyncClient,
    headers: dict[str, str],
    query: str,
    verdicted: tuple[int, int],
) -> None:
    reply = await client.post(f"{hec.url}/services/collector{query}", content=OK, headers=headers)
    assert verdict(reply) == (*verdicted, None)
    assert hec.stored.total == 0


async def test_a_token_may_be_disabled_rotated_or_come_as_a_password(
    hec: Splunk, client: httpx.AsyncClient
) -> None:
    basic = base64.b64encode(f"x:{hec.token}".encode()).decode()
    assert verdict(await post(client, hec, OK, Authorization=f"Basic {basic}")) == (200, 0, None)
    old = hec.token
    hec.rotate("new")
    assert verdict(await post(client, hec, OK, Authorization=f"Splunk {old}")) == (403, 4, None)
    assert verdict(await post(client, hec, OK)) == (200, 0, None)
    hec.configure(enabled=False)
    assert verdict(await post(client, hec, OK)) == (403, 1, None)
    health = f"{hec.url}/services/collector/health"
    assert (await client.get(health)).json()["code"] == 17
    for token, code in ((hec.token, 22), ("wrong", 21)):
        headers = {"Authorization": f"Splunk {token}"}
        assert verdict(await client.get(health, headers=headers)) == (400, code, None)


async def test_paths_methods_and_encodings(hec: Splunk, client: httpx.AsyncClient) -> None:
    assert (await post(client, hec, OK, "/services/collectors")).status_code == 404
    reply = await client.get(f"{hec.url}/services/collector/event")
    assert (reply.status_code, reply.json()["code"]) == (405, 404)
    assert verdict(await post(client, hec, " \n")) == (400, 5, None)
    zipped = gzip.compress(OK.encode())
    assert verdict(await post(client, hec, zipped, Content_Encoding="gzip")) == (200, 0, None)
    assert verdict(await post(client, hec, zipped[:-4], Content_Encoding="gzip")) == (400, 6, None)
    for other in ("deflate", "zstd"):
        assert (await post(client, hec, OK, Content_Encoding=other)).status_code == 415
    assert hec.stored.total == 1


async def test_sizes_are_limited(hec: Splunk, client: httpx.AsyncClient) -> None:
    hec.switches.max_event_size = 100
    long = json.dumps({"event": "x" * 200})
    assert verdict(await post(client, hec, OK + long + OK)) == (400, 6, 1)
    hec.switches.max_content_length = 100
    reply = await post(client, hec, long)
    assert reply.status_code == 413
    with pytest.raises(json.JSONDecodeError):
        reply.json()
    assert hec.stored.total == 1


@pytest.mark.parametrize(
    ("code", "after", "expected", "stored"),
    [
        (9, 2, (503, 9, 2), 2),
        (9, None, (503, 9, None), 0),
        (8, None, (500, 8, None), 0),
        (23, None, (503, 23, None), 0),
        (24, None, (200, 24, None), 3),
        (25, None, (200, 25, None), 3),
        (26, None, (429, 26, None), 0),
        (26, 1, (429, 26, 1), 1),
        (6, 3, (200, 0, None), 3),  # there is no fourth event
        (27, None, (429, 27, None), 0),
    ],
)
async def test_a_code_comes_by_script_once(
    hec: Splunk,
    client: httpx.AsyncClient,
    code: int,
    after: int | None,
    expected: tuple[int, int, int | None],
    stored: int,
) -> None:
    hec.script(code, after=after)
    assert verdict(await post(client, hec, OK * 3)) == expected
    assert hec.stored.total == stored
    assert verdict(await post(client, hec, OK)) == (200, 0, None)


@pytest.mark.parametrize(("health", "status"), [(17, 200), (18, 503), (20, 503), (23, 503)])
async def test_health(hec: Splunk, client: httpx.AsyncClient, health: int, status: int) -> None:
    hec.switches.health = health
    reply = await client.get(f"{hec.url}/services/collector/health/1.0")
    assert (reply.status_code, reply.json()["code"]) == (status, health)


async def ack(client: httpx.AsyncClient, hec: Splunk, *acks: int, channel: str = CHANNEL) -> Any:
    path = f"/services/collector/ack?channel={channel}"
    return (await post(client, hec, json.dumps({"acks": acks}), path)).json()


async def test_an_ack_is_true_once(hec: Splunk, client: httpx.AsyncClient) -> None:
    hec.configure(use_ack=True)
    hec.switches.ack_after = 1
    for expected in (0, 1):
        reply = await post(client, hec, OK, X_Splunk_Request_Channel=CHANNEL)
        assert reply.json() == {"text": "Success", "code": 0, "ackId": expected}
    assert await ack(client, hec, 0, 9) == {"acks": {"0": False, "9": False}}
    assert await ack(client, hec, 0, 1) == {"acks": {"0": True, "1": False}}
    assert await ack(client, hec, 0, 1) == {"acks": {"0": False, "1": True}}
    other = "1aeeac95-ac74-4aa9-b30d-6c4c0ac581ba"
    assert await ack(client, hec, 0, channel=other) == {"acks": {"0": False}}
    hec.forget_channels()
    assert (await post(client, hec, OK, X_Splunk_Request_Channel=CHANNEL)).json()["ackId"] == 0


async def test_a_crash_loses_only_unacknowledged_events(
    hec: Splunk, client: httpx.AsyncClient
) -> None:
    hec.configure(use_ack=True)
    for name in ("a", "b"):
        event = json.dumps({"event": {"native_event_id": name}, "fields": {"event_id": name}})
        await post(client, hec, event, X_Splunk_Request_Channel=CHANNEL)
    await post(client, hec, OK + '{"event":""}', X_Splunk_Request_Channel=CHANNEL)
    assert hec.stored.total == 3
    assert await ack(client, hec, 0) == {"acks": {"0": True}}
    hec.crash()
    assert (hec.stored.total, hec.stored.uids) == (1, ["a"])
    assert (dict(hec.stored.by_uid), hec.stored.lost(["a", "b"])) == ({"a": 1}, ["b"])
    assert await ack(client, hec, 1) == {"acks": {"1": False}}
    assert (await post(client, hec, OK, X_Splunk_Request_Channel=CHANNEL)).json()["ackId"] == 0


@pytest.mark.parametrize(("acks", "stored"), [("never", 1), ("lost", 0)])
async def test_an_ack_may_never_come(
    hec: Splunk, client: httpx.AsyncClient, acks: Any, stored: int
) -> None:
    hec.configure(use_ack=True)
    hec.switches.acks = acks
    await post(client, hec, OK, X_Splunk_Request_Channel=CHANNEL)
    for _ in range(5):
        assert await ack(client, hec, 0) == {"acks": {"0": False}}
    assert hec.stored.total == stored


async def test_channels_are_required_and_acks_refused(
    hec: Splunk, client: httpx.AsyncClient
) -> None:
    assert (await ack(client, hec, 0, channel=""))["code"] == 14  # before the channel is checked
    hec.configure(use_ack=True)
    assert verdict(await post(client, hec, OK)) == (400, 10, None)
    bad = await post(client, hec, OK, X_Splunk_Request_Channel="x")
    assert verdict(bad) == (400, 11, None)
    assert (await ack(client, hec, 0, channel=""))["code"] == 10
    path = f"/services/collector/ack?channel={CHANNEL}"
    for body in ("", "[]", '{"acks":"0"}', '{"acks":["0"]}'):
        assert verdict(await post(client, hec, body, path)) == (400, 6, None)
    assert verdict(await post(client, hec, OK, Authorization="Splunk wrong")) == (403, 4, None)


async def test_acks_are_on_the_node_in_the_cookie(hec: Splunk, client: httpx.AsyncClient) -> None:
    hec.configure(use_ack=True)
    hec.switches.nodes = 2
    reply = await post(client, hec, OK, X_Splunk_Request_Channel=CHANNEL)
    cookie = reply.headers["set-cookie"].partition(";")[0]
    client.cookies.clear()
    other = "splunkd_node=0" if cookie.endswith("1") else "splunkd_node=1"
    path, body = f"/services/collector/ack?channel={CHANNEL}", '{"acks":[0]}'
    there = await post(client, hec, body, path, Cookie=other)
    assert there.json() == {"acks": {"0": False}}
    here = await post(client, hec, body, path, Cookie=cookie)
    assert here.json() == {"acks": {"0": True}}
    assert "set-cookie" not in here.headers


async def test_raw_lines_need_a_channel(hec: Splunk, client: httpx.AsyncClient) -> None:
    path = "/services/collector/raw"
    assert verdict(await post(client, hec, "a\nb", path)) == (400, 10, None)
    await post(client, hec, "a\n\nb", f"{path}?channel={CHANNEL}&host=h")
    assert [(doc["event"], doc["host"]) for doc in hec.stored.documents] == [("a", "h"), ("b", "h")]


@pytest.mark.parametrize("lean", [True, False])
async def test_stored_ids_show_lost_and_repeated_events(
    hec: Splunk, client: httpx.AsyncClient, lean: bool
) -> None:
    hec.lean = lean

    def event(number: int) -> str:
        event = {"event_id": f"u{number}", "native_event_id": f"n{number}", "raw": '{"event_id":1}'}
        fields = {"event_id": f"u{number}"}
        return json.dumps({"event": event, "fields": fields}, separators=(",", ":"))

    await post(client, hec, event(1) + event(2) + event(2))
    assert hec.stored.total == 3
    assert hec.stored.repeated() == {"u2": 2}
    assert hec.stored.lost(["n1", "n2", "n3"]) == ["n3"]
    assert hec.stored.uids == ([] if lean else ["u1", "u2", "u2"])
