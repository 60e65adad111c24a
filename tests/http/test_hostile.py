"""Whatever a peer answers, over a real socket: only errors that have a name come of it."""

import asyncio
import contextlib
import gzip
import json
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.support.clock import FakeClock
from tests.support.peers import PLAIN, scripted

from auditrelay.errors import RelayError
from auditrelay.http.cookies import header_of, updated
from auditrelay.http.credentials import KeyCredentials
from auditrelay.http.headers import age, date, seconds
from auditrelay.http.peer import Peer
from auditrelay.http.replies import Reply, check, decode
from auditrelay.telemetry.metrics import Metrics


class Rows(msgspec.Struct):
    rows: list[msgspec.Raw]
    cursor: str | None = None


NAMES = (
    b"Age",
    b"Date",
    b"Retry-After",
    b"Content-Encoding",
    b"Content-Type",
    b"Content-Length",
    b"Transfer-Encoding",
    b"Set-Cookie",
    b"Location",
    b"Connection",
    b"X-RateLimit-Reset",
    b"X-Odd ",
    b"",
)

numbers = st.one_of(
    st.integers().map(str), st.integers(0, 6000).map("9".__mul__), st.floats().map(str)
)
values = st.one_of(
    st.sampled_from(
        [
            "gzip",
            "identity,",
            "br",
            "chunked",
            "close",
            "text/html",
            "Sun, 01 Mar 2026 12:00:30 GMT",
            "sb-x-auth-token=a\tb; Max-Age=5",
        ]
    ),
    numbers,
    st.text(max_size=30),
).map(lambda text: text.encode("utf-8", "replace").replace(b"\n", b" "))
headers = st.lists(
    st.tuples(st.one_of(st.sampled_from(NAMES), st.binary(max_size=6)), values), max_size=5
)
documents = st.recursive(
    st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=9)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["rows", "cursor"]), inner)
    ),
    max_leaves=8,
).map(lambda document: json.dumps(document).encode())
bodies = st.one_of(
    documents,
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"[" * 5000,
            b'{"rows":[' + b'{"a":' * 3000 + b"}" * 3000 + b"]}",
            b'{"rows":[' + b"9" * 5000 + b',"\xff\\ud800"],"cursor":"\\ud800"}',
            b'{"rows":' + b'"' + b'\\"' * 5000,
            b'{"rows":[],"cursor":"' + b"x" * 70_000 + b'"}',
        ]
    ),
)
bodies = st.one_of(
    bodies, bodies.map(gzip.compress), bodies.map(lambda body: gzip.compress(body)[:-5])
)
statuses = st.one_of(
    st.sampled_from([200, 204, 302, 401, 413, 429, 500, 503]), st.integers(0, 1100)
)


@given(status=statuses, headers=headers, body=bodies, honest=st.booleans())
@example(status=200, headers=[(b"Age", b"9" * 5000)], body=b'{"rows":[]}', honest=False)
@example(status=429, headers=[(b"Retry-After", b"1e308")], body=b"\x1f\x8b", honest=False)
@example(status=401, headers=[(b"Set-Cookie", b"a=\xed\xa0\x80")], body=b"", honest=False)
@settings(max_examples=60, deadline=None)
def test_nothing_but_errors_with_a_name_comes_of_a_reply(
    *, status: int, headers: list[tuple[bytes, bytes]], body: bytes, honest: bool
) -> None:
    head = [b"HTTP/1.1 %d X" % status, *(b"%b: %b" % header for header in headers)]
    if honest:
        head.append(b"Content-Length: %d" % len(body))
    answer = b"\r\n".join((*head, b"", body))

    async def serve(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    async def ask() -> None:
        async with scripted(serve) as url, asyncio.timeout(90):
            peer = Peer(
                "voice",
                PLAIN,
                base_url=url,
                credentials=KeyCredentials(dict),
                metrics=Metrics(),
                clock=FakeClock(),
            )
            with contextlib.suppress(RelayError):
                rows = await peer.get("/logs", {}, read)
                await peer.get("/logs", {"cursor": rows.cursor or ""}, read)
            with contextlib.suppress(RelayError):
                everything_of(await peer.request("POST", "/logs", content=b"{}"))
            await peer.aclose()

    def read(reply: Reply) -> Rows:
        everything_of(reply)
        return decode(check(reply), Rows)

    asyncio.run(ask())


def everything_of(reply: Reply) -> None:
    """Use a reply in every way in which a source or a sink does."""
    for use in (check, lambda reply: decode(reply, Rows)):
        with contextlib.suppress(RelayError):
            use(reply)
    with contextlib.suppress(ValueError):
        reply.json()
    reply.object()
    age(reply.headers)
    date(reply.headers)
    seconds(reply.headers, "x-ratelimit-reset")
    header_of(updated({}, reply.headers, reply.at)).encode("ascii")
