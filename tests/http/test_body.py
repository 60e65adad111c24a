"""The body of a reply: decompressed piece by piece, and bounded in size."""

import asyncio
import gzip
from pathlib import Path

import pytest
from tests.support.peers import SHORT_TIMEOUT, Connect, Server, failure, scripted

from auditrelay.http import body
from auditrelay.sandbox import faults
from auditrelay.sandbox.messages import Request, Response
from auditrelay.settings.secrets import Resolved, Secret


async def test_a_gzipped_reply_is_decompressed(server: Server, connect: Connect) -> None:
    server.faults.add(faults.gzipped())
    assert (await connect().request("GET", "/")).json()["path"] == "/"


async def test_a_gzipped_reply_may_have_several_members_and_come_in_pieces(
    server: Server, connect: Connect
) -> None:
    body = gzip.compress(b'{"a":') + gzip.compress(b"") + gzip.compress(b"1}")

    def made(_request: Request, _response: Response) -> Response:
        pieces = [body[at : at + 1] for at in range(len(body))]
        return Response(200, headers={"Content-Encoding": "GZip"}, chunks=pieces, chunked=True)

    server.faults.add(faults.rewrite(made))
    assert (await connect().request("GET", "/")).json() == {"a": 1}


@pytest.mark.parametrize(
    "encoding",
    ["UTF-8", "none", "", "identity", "identity,", "gzip", "gzip, identity", "br", "\xff" * 3000],
)
@pytest.mark.parametrize("zipped", [False, True])
async def test_a_body_is_read_as_what_it_is_whatever_its_encoding_is_called(
    server: Server, connect: Connect, encoding: str, *, zipped: bool
) -> None:
    body = gzip.compress(b'{"a": 1}') if zipped else b'{"a": 1}'
    server.faults.add(faults.answer(200, body, {"Content-Encoding": encoding}))
    assert (await connect().request("GET", "/")).json() == {"a": 1}


@pytest.mark.parametrize("body", [b"", b"\x1f", b"1"])
async def test_a_body_may_be_shorter_than_what_gzip_is_recognised_by(
    server: Server, connect: Connect, body: bytes
) -> None:
    server.faults.add(faults.answer(200, body))
    assert (await connect().request("GET", "/")).body == body


# --- the status decides


UNREADABLE = {
    "broken gzip": faults.answer(429, b"\x1f\x8bnot gzip", {"Retry-After": "9"}),
    "cut off": faults.rewrite(
        lambda _request, _response: Response(
            429, b"half", headers={"Retry-After": "9", "Content-Length": "10"}
        )
    ),
    "too large": faults.answer(429, b"x" * (body.MAX_REFUSAL_BYTES + 1), {"Retry-After": "9"}),
    "a bomb": faults.answer(429, gzip.compress(bytes(2**24)), {"Retry-After": "9"}),
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_a_refusal_counts_though_its_body_cannot_be_read(
    server: Server, connect: Connect, name: str
) -> None:
    server.faults.add(UNREADABLE[name])
    reply = await connect(timeout=SHORT_TIMEOUT).request("GET", "/")
    assert (reply.status, reply.headers["retry-after"], reply.body) == (429, "9", b"")


async def test_a_refusal_counts_though_its_body_never_comes(connect: Connect) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 9\r\nRetry-After: 9\r\n\r\nx")
        await writer.drain()
        await reader.read()

    async with scripted(serve) as url:
        reply = await connect(url, timeout=SHORT_TIMEOUT).request("GET", "/")
    assert (reply.status, reply.body) == (503, b"")


async def test_a_key_that_was_rotated_is_found_behind_a_refusal_that_cannot_be_read(
    server: Server, connect: Connect, tmp_path: Path
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("old-key")
    secret = Secret(Resolved(f"${{file:{key_file}}}"))
    peer = connect(secrets=(secret,), identity=lambda: {"x-key": secret.reveal()})
    server.key = "new-key"
    key_file.write_text("\ufeffnew-key\r\n")  # as an editor on Windows writes it
    server.faults.add(faults.answer(401, b"\x1f\x8b", {"Content-Encoding": "br"}))
    assert (await peer.request("GET", "/")).status == 200


# --- bounds


async def test_an_empty_body_may_claim_to_be_gzip(server: Server, connect: Connect) -> None:
    server.faults.add(faults.answer(503, b"", {"Content-Encoding": "gzip"}))
    assert (await connect().request("GET", "/")).status == 503


@pytest.mark.parametrize(
    ("encoding", "body", "message"),
    [
        ("gzip", gzip.compress(b"{}" * 500, mtime=0)[:-9], "is truncated gzip"),
        ("gzip", b"\x1f\x8bnot gzip", "damaged"),
        ("", b"\x1f\x8bnot gzip", "damaged"),
    ],
)
async def test_a_body_that_cannot_be_decompressed_is_a_bad_reply(
    server: Server, connect: Connect, encoding: str, body: bytes, message: str
) -> None:
    server.faults.add(faults.answer(200, body, {"Content-Encoding": encoding}))
    error = await failure(connect())
    assert error.reason == "bad_reply"
    assert message in str(error)


async def test_a_reply_of_exactly_the_size_limit_is_read(
    server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "MAX_BODY_BYTES", 100_000)
    for text, encoding in ((b"x" * 100_000, "identity"), (gzip.compress(b"x" * 100_000), "gzip")):
        server.faults.add(faults.answer(200, text, {"Content-Encoding": encoding}))
        assert len((await connect().request("GET", "/")).body) == 100_000


@pytest.mark.parametrize("action", [faults.huge(100_001), faults.gzip_bomb(100_001)])
async def test_a_reply_one_byte_over_the_limit_is_refused(
    server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch, action: faults.Action
) -> None:
    monkeypatch.setattr(body, "MAX_BODY_BYTES", 100_000)
    server.faults.add(action)
    error = await failure(connect())
    assert (error.reason, error.sent) == ("reply_too_large", True)


async def test_a_decompression_bomb_is_not_expanded(server: Server, connect: Connect) -> None:
    """128 MiB in 128 KiB: expansion stops one byte after the limit."""
    server.faults.add(faults.gzip_bomb(2**27))
    expanded = 0
    feed = body._GzipDecoder.feed

    def counting(self: body._GzipDecoder, data: bytes, limit: int) -> bytes:
        nonlocal expanded
        part = feed(self, data, limit)
        expanded += len(part)
        return part

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body._GzipDecoder, "feed", counting)
        error = await failure(connect())
    assert error.reason == "reply_too_large"
    assert expanded == body.MAX_BODY_BYTES + 1


async def test_a_huge_reply_is_not_read_to_its_end(server: Server, connect: Connect) -> None:
    server.faults.add(faults.huge(10**12))
    assert (await failure(connect())).reason == "reply_too_large"
