"""The body of a reply: decompressed piece by piece, and bounded in size."""

import gzip

import pytest
from tests.support.peers import Connect, Server, failure

from auditrelay.http import body
from auditrelay.sandbox import faults
from auditrelay.sandbox.messages import Request, Response


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


async def test_an_empty_body_may_claim_to_be_gzip(server: Server, connect: Connect) -> None:
    server.faults.add(faults.answer(503, b"", {"Content-Encoding": "gzip"}))
    assert (await connect().request("GET", "/")).status == 503


@pytest.mark.parametrize(
    ("encoding", "body", "message"),
    [
        ("gzip", gzip.compress(b"{}" * 500, mtime=0)[:-9], "is truncated gzip"),
        ("gzip", b"\x1f\x8bnot gzip", "damaged"),
        ("gzip", b'{"not": "gzip at all, and longer"}', "damaged"),
        ("br", b"\x0b", "content encoding br"),
        ("gzip, gzip", b"", "content encoding gzip, gzip"),
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
