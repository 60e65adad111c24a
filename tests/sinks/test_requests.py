"""The body of a request: its texts in one piece, compressed a part at a time."""

import gzip
import zlib
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.peers import reply

from auditrelay.sinks import _requests
from auditrelay.sinks._requests import body_of, chunks, is_proof


@pytest.mark.parametrize("compression", ["gzip", "none"])
@pytest.mark.parametrize("count", [0, 1, 2, 99, 100, 101, 200, 1001])
@pytest.mark.parametrize("size", [1, 900])
async def test_a_body_is_its_texts_and_nothing_else(
    compression: Literal["gzip", "none"], count: int, size: int
) -> None:
    texts = [b"%d" % number * size for number in range(count)]
    for start, between, end in ((b"[", b",", b"]"), (b"", b"\n", b"\n"), (b"", b"\n", b"")):
        body, headers = await body_of(texts, compression, start=start, between=between, end=end)
        if compression == "gzip":
            assert headers == {"Content-Encoding": "gzip"}
            one = zlib.decompressobj(wbits=31)
            assert one.decompress(body) == start + between.join(texts) + end
            assert (one.eof, one.unused_data) == (True, b""), "one member: not all read several"
            assert gzip.decompress(body)[:1] == (start + b"".join(texts) + end)[:1]
        else:
            assert (body, headers) == (start + between.join(texts) + end, {})


@given(st.lists(st.binary(max_size=3), max_size=10), st.integers(1, 4))
def test_chunks_are_the_texts_in_parts(texts: list[bytes], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_requests, "_CHUNK", most)
        parts = list(chunks(texts, start=b"<", between=b"|", end=b">"))
    assert b"".join(parts) == b"<" + b"|".join(texts) + b">"
    assert len(parts) == -(-len(texts) // most) + 1


@pytest.mark.parametrize(
    "body", [b"<html>", b" \n<!DOCTYPE html>", b'<?xml version="1.0"?><Error/>']
)
def test_markup_with_a_200_is_no_proof(body: bytes) -> None:
    assert not is_proof(reply(200, body))
    assert is_proof(reply(200, b"{}"))
