"""A request is built from values that a peer chose, or is refused with a sentence."""

import pytest
from tests.support.peers import Connect, Server

from auditrelay.errors import Retryable, WalkBroken
from auditrelay.http.replies import check
from auditrelay.http.requests import MAX_VALUE_BYTES, _address, build_request
from auditrelay.sandbox import faults


@pytest.mark.parametrize(
    ("cursor", "problem"),
    [
        ("x" * 70_000, "has 70,000 bytes, and at most 8,192 are sent"),
        ("x" * (MAX_VALUE_BYTES + 1), "has 8,193 bytes"),
        ("\u00e9" * 5000, "has 10,000 bytes"),
        ("\ud800", "contains a character that no address may have"),
        ("a\r\nb", "contains a character"),
        ("a\0b", "contains a character"),
        ("a\u2028b", "contains a character"),
    ],
)
async def test_a_cursor_that_cannot_be_sent_breaks_the_walk(
    server: Server, connect: Connect, waits: list[float], cursor: str, problem: str
) -> None:
    with pytest.raises(WalkBroken) as caught:
        await connect().get("/logs", {"cursor": cursor}, lambda reply: reply)
    assert caught.value.reason == "unsendable"
    assert str(caught.value).startswith(f"the parameter cursor of GET {server.url}/logs ")
    assert problem in str(caught.value)
    assert not server.seen
    assert waits == []


@pytest.mark.parametrize("cursor", ["", "a b&c=d#e%", "\u00e9\u4e16", "x" * MAX_VALUE_BYTES])
async def test_any_other_cursor_arrives_as_it_was(
    server: Server, connect: Connect, cursor: str
) -> None:
    reply = await connect().request("GET", "/logs", params={"cursor": cursor})
    assert reply.json()["query"] == {"cursor": cursor}


async def test_values_that_are_too_long_together_are_refused_too(
    server: Server, connect: Connect
) -> None:
    params = {f"p{number}": "%" * MAX_VALUE_BYTES for number in range(9)}
    with pytest.raises(Retryable, match=r"the address of GET .* cannot be sent") as caught:
        await connect().request("GET", "/logs", params=params)
    assert (caught.value.reason, caught.value.sent) == ("unsendable", False)
    assert not server.seen


@pytest.mark.parametrize("value", ["a\r\nX-More: 1", "a\0b", "caf\u00e9", "\ud800"])
async def test_a_header_that_cannot_be_sent_is_refused(
    server: Server, connect: Connect, value: str
) -> None:
    peer = connect(identity=lambda: {"cookie": value})
    with pytest.raises(Retryable, match=r"header cookie of GET .* no header may have") as caught:
        await peer.request("GET", "/logs")
    assert (caught.value.reason, caught.value.sent) == ("unsendable", False)
    assert not server.seen


async def test_a_name_may_come_twice_and_keeps_its_brackets(
    server: Server, connect: Connect
) -> None:
    pairs = [("a[b][]", "1"), ("a[b][]", "2 3"), ("\u00e9=&", "+%")]
    targets: list[str] = []
    server.on_request = lambda request: targets.append(request.target)
    await connect().request("GET", "/logs", params=pairs)
    assert targets == ["/logs?a[b][]=1&a[b][]=2%203&%C3%A9%3D%26=%2B%25"]


@pytest.mark.parametrize("query", ["a=1&b=%2C,", "x[y]=1&z", "c=a+b%20c", ""])
async def test_a_query_of_the_peers_own_goes_back_as_it_was(
    server: Server, connect: Connect, query: str
) -> None:
    targets: list[str] = []
    server.on_request = lambda request: targets.append(request.target)
    await connect().get("/logs", query, lambda reply: reply)
    assert targets == [f"/logs?{query}" if query else "/logs"]


@pytest.mark.parametrize("query", ["a=\r\nb", "a=\0", "x" * 9000])
async def test_a_query_that_cannot_be_sent_breaks_the_walk(
    server: Server, connect: Connect, query: str
) -> None:
    with pytest.raises(WalkBroken, match=r"the query of GET .*/logs ") as caught:
        await connect().get("/logs", query, lambda reply: reply)
    assert caught.value.reason == "unsendable"
    assert not server.seen


async def test_a_reading_post_is_repeated_like_a_get(server: Server, connect: Connect) -> None:
    server.faults.add(faults.html(503))
    bodies: list[bytes] = []
    server.on_request = lambda request: bodies.append(request.body)
    body = {"cursor": [2**70, "\ud800"], "n": None}
    await connect().ask("POST", "/logs", [("a", "1")], body, check)
    assert bodies == [b'{"cursor":[1180591620717411303424,"\\ud800"],"n":null}'] * 2
    assert [seen.headers["content-type"] for seen in server.seen] == ["application/json"] * 2


def test_few_addresses_are_kept_since_each_page_of_a_vendor_has_its_own() -> None:
    for cursor in range(100):
        request = build_request(
            "GET",
            "https://acme.example/logs",
            params={"cursor": str(cursor)},
            headers={},
            content=None,
            extensions={},
        )
        assert str(request.url) == f"https://acme.example/logs?cursor={cursor}"
    assert _address.cache_info().currsize <= 16
