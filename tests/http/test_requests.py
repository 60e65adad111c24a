"""A request is built from values that a peer chose, or is refused with a sentence."""

import pytest
from tests.support.peers import Connect, Server

from auditrelay.errors import Retryable, WalkBroken
from auditrelay.http.requests import MAX_VALUE_BYTES


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
