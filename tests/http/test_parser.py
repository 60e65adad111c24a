"""The bytes of replies: the same result however they are split, and nothing but a problem."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from auditrelay.http.parser import MAX_HEADERS, MAX_OVERHEAD_BYTES, ReplyParser

OK = b"HTTP/1.1 200 OK\r\n"


def parsed(data: bytes, *cuts: int, method: str = "GET", closed: bool = False) -> ReplyParser:
    """Return the parser after *data*, fed in pieces that end at *cuts*."""
    reply = ReplyParser(method)
    for start, end in pairwise([0, *sorted(cuts), len(data)]):
        if end > start and not reply.problem:
            reply.feed(memoryview(data)[start:end])
    if closed:
        reply.end(closed=True)
    return reply


def result(reply: ReplyParser) -> tuple[object, ...]:
    ok = (reply.status, reply.headers, reply.complete, reply.reusable, reply.take())
    # Which line it is can only be said of what came at once.
    return (reply.problem.partition(" (line")[0],) if reply.problem else ok


@pytest.mark.parametrize(
    ("method", "data", "body", "reusable"),
    [
        ("GET", OK + b"Content-Length: 2\r\n\r\n{}", b"{}", True),
        ("GET", OK + b"Content-Length: 0\r\n\r\n", b"", True),
        (
            "GET",
            OK + b"Transfer-Encoding: Chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
            b"{}",
            True,
        ),
        ("GET", OK + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}", b"{}", False),
        ("GET", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", b"{}", False),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n", b"", True),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b"", True),
        ("HEAD", OK + b"Content-Length: 9\r\n\r\n", b"", True),
        ("HEAD", OK + b"Transfer-Encoding: chunked\r\n\r\n", b"", True),
        (
            "POST",
            b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\n{}",
            b"{}",
            True,
        ),
        (
            "GET",
            b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" * 20
            + OK
            + b"Content-Length: 2\r\n\r\n{}",
            b"{}",
            True,
        ),
        (
            "GET",
            OK
            + b"Transfer-Encoding: chunked\r\n\r\n2;name=value\r\n{}\r\n0\r\nLink: trailer\r\n\r\n",
            b"{}",
            True,
        ),
    ],
)
def test_the_end_of_every_kind_of_reply_is_found(
    method: str, data: bytes, body: bytes, *, reusable: bool
) -> None:
    reply = parsed(data, method=method)
    assert (reply.problem, reply.complete, reply.take()) == ("", True, body)
    assert reply.reusable == reusable
    assert all(name != b"Link" for name, _ in reply.headers)
    for end in range(len(data)):
        assert not parsed(data[:end], method=method).complete, data[:end]


def test_a_reply_without_a_length_ends_with_the_connection() -> None:
    reply = parsed(OK + b"\r\n{}")
    assert (reply.head_complete, reply.complete) == (True, False)
    reply.end(closed=True)
    assert (reply.complete, reply.take(), reply.reusable) == (True, b"{}", False)
    broken = parsed(OK + b"\r\n{}")
    broken.end(closed=False)
    assert not broken.complete


@pytest.mark.parametrize(
    "data",
    [
        b"",
        OK,
        OK + b"Content-Length: 3\r\n\r\n{}",
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}",
    ],
)
def test_a_reply_that_is_cut_off_is_not_complete(data: bytes) -> None:
    assert not parsed(data, closed=True).complete


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        (b"X: caf\xe9\x01", b"X", b"caf\xe9\x01"),
        (b"X: a\r\n folded", b"X", b"a folded"),
        (b"X:  blanks \t", b"X", b"blanks"),
        (b"X:", b"X", b""),
        (b"Connection: Upgrade\r\nUpgrade: h2c", b"Upgrade", b"h2c"),
    ],
)
def test_odd_headers_that_mean_one_thing_are_read(line: bytes, name: bytes, value: bytes) -> None:
    reply = parsed(OK + line + b"\r\nContent-Length: 2\r\n\r\n{}")
    assert (reply.problem, reply.complete, reply.take()) == ("", True, b"{}")
    assert (name, value) in reply.headers


def test_blanks_may_follow_the_size_of_a_chunk() -> None:
    reply = parsed(OK + b"Transfer-Encoding: chunked\r\n\r\n2  \r\n{}\r\n0\r\n\r\n")
    assert (reply.problem, reply.complete, reply.take()) == ("", True, b"{}")


def test_lines_of_the_head_may_end_in_a_line_feed_alone() -> None:
    reply = parsed(b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}")
    assert (reply.problem, reply.complete, reply.take()) == ("", True, b"{}")


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"HTTP/1.1 20 OK\r\n\r\n",
        OK + b"bad header\r\n\r\n",
        OK + b": 1\r\n\r\n",
        OK + b"X-Odd : 1\r\n\r\n",
        OK + b"X: a\rb\r\n\r\n",
        OK + b"Content-Length: many\r\n\r\n",
        OK + b"Content-Length: -1\r\n\r\n",
        OK + b"Content-Length: 99999999999999999999999\r\n\r\n",
        OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding : chunked\r\nContent-Length: 2\r\n\r\n{}",
        OK + b"Transfer-Encoding: gzip\r\n\r\n{}",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}x0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n" + OK,
    ],
)
def test_what_is_not_http_or_can_be_read_in_two_ways_is_a_problem(data: bytes) -> None:
    for cut in range(len(data)):
        reply = parsed(data, cut, closed=True)
        assert reply.problem
        assert not reply.complete


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (OK, b"x" * 1000),
        (OK, b"X: " + b"x" * 1000),
        (OK, b"X: 1\r\n"),
        (OK, b"X: " + b"x" * 990 + b"\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: " + b"x" * 900 + b"\r\n\r\n"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2;", b"x" * 1000),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: 1\r\n"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"x" * 1000),
    ],
)
def test_what_never_becomes_a_body_is_not_read_for_ever(start: bytes, more: bytes) -> None:
    reply = ReplyParser("GET")
    reply.feed(start or more)
    fed = 0
    while not reply.problem:
        reply.feed(more)
        fed += len(more)
        assert fed <= MAX_OVERHEAD_BYTES + len(more)
    assert len(reply.headers) <= MAX_HEADERS


def test_a_head_of_many_headers_is_refused_in_one_piece_too() -> None:
    assert parsed(OK + b"X: 1\r\n" * (MAX_HEADERS + 1) + b"Content-Length: 2\r\n\r\n{}").problem
    many = OK + b"X: 1\r\n" * (MAX_HEADERS - 1) + b"Content-Length: 2\r\n\r\n{}"
    assert parsed(many).complete


@pytest.mark.parametrize(
    "surplus", [b"x", OK, OK + b"Content-Length: 2\r\n\r\n[]", b"HTTP/1.1 400 Bad\r\n\r\n"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_more_than_one_reply_is_one_reply_and_the_end_of_the_connection(
    surplus: bytes, method: str
) -> None:
    data = OK + b"Content-Length: 2\r\n\r\n" + (b"" if method == "HEAD" else b"{}")
    for cut in (0, len(data), len(data) + len(surplus) - 1):
        reply = parsed(data + surplus, cut, method=method)
        assert (reply.problem, reply.complete, reply.reusable) == ("", True, False)
        assert (reply.status, reply.take()) == (200, b"" if method == "HEAD" else b"{}")


def test_a_body_is_taken_as_it_comes() -> None:
    reply = parsed(OK + b"Content-Length: 6\r\n\r\nab")
    assert (reply.untaken, reply.take(), reply.untaken, reply.take()) == (2, b"ab", 0, b"")
    reply.feed(b"cdef")
    assert (reply.take(), reply.complete) == (b"cdef", True)


# --- any bytes

TOKEN = st.text("abcXYZ019-_", min_size=1, max_size=12).map(str.encode)
VALUE = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30).map(str.encode)


@st.composite
def replies(draw: st.DrawFn) -> tuple[bytes, int, list[tuple[bytes, bytes]], bytes, bool]:
    """A valid reply: its bytes, status, headers and body, and whether it ends with a close."""
    status = draw(st.sampled_from([200, 201, 400, 401, 413, 429, 503]))
    headers = draw(st.lists(st.tuples(TOKEN.map(b"x-%b".__mod__), VALUE), max_size=6))
    body = draw(st.binary(max_size=300))
    framing = draw(st.sampled_from(["length", "chunked", "close"]))
    coded = body
    if framing == "length":
        headers.append((b"Content-Length", b"%d" % len(body)))
    elif framing == "chunked":
        headers.append((b"Transfer-Encoding", b"chunked"))
        size = draw(st.integers(1, 100))
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        extension = draw(st.sampled_from([b"", b";a=b", b";a"]))
        coded = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
        coded += b"0\r\n" + draw(st.sampled_from([b"", b"T: 1\r\n"])) + b"\r\n"
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    interim = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n"]))
    data = interim + b"HTTP/1.1 %d Reason\r\n%b\r\n%b" % (status, lines, coded)
    return data, status, headers, body, framing == "close"


@given(replies(), st.lists(st.integers(0, 1000), max_size=20), st.booleans())
def test_any_split_of_a_valid_reply_gives_the_same_result(
    reply: tuple[bytes, int, list[tuple[bytes, bytes]], bytes, bool],
    cuts: list[int],
    bytewise: bool,
) -> None:
    data, status, headers, body, closed = reply
    ends = range(len(data)) if bytewise else [cut for cut in cuts if cut < len(data)]
    read = parsed(data, *ends, closed=closed)
    assert result(read) == (status, headers, True, not closed, body)


@given(
    st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=200).map(OK.__add__),
        st.binary(max_size=200).map((OK + b"Transfer-Encoding: chunked\r\n\r\n").__add__),
        st.tuples(replies(), st.integers(0, 400), st.binary(min_size=1, max_size=3)).map(
            lambda drawn: drawn[0][0][: drawn[1]] + drawn[2] + drawn[0][0][drawn[1] + 1 :]
        ),
    ),
    st.lists(st.integers(0, 600), max_size=10),
    st.sampled_from(["GET", "POST", "HEAD"]),
)
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n\x00", [38], "GET")
def test_any_bytes_are_a_reply_a_problem_or_not_complete(
    data: bytes, cuts: list[int], method: str
) -> None:
    reply = parsed(data, *(cut for cut in cuts if cut < len(data)), method=method, closed=True)
    assert not (reply.problem and reply.complete)
    assert result(reply) == result(parsed(data, method=method, closed=True))
