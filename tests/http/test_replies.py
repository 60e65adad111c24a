"""A reply: the error for its status, its decoded body, and the wait that a vendor asks for."""

import json
import time
from typing import Any

import httpx
import msgspec
import pytest
from tests.support.peers import NOON, PARAMS, Connect, Server, reply

from auditrelay.errors import Refused, Rejected, RelayError, Retryable, TooLarge
from auditrelay.http.fields import Records
from auditrelay.http.fields import texts as texts_of
from auditrelay.http.headers import MAX_RETRY_AFTER
from auditrelay.http.replies import MOST_RECORDS, MOST_VALUES, Reply, check, decode
from auditrelay.sandbox import faults
from auditrelay.sandbox.server import Trap

# --- redirects


async def test_a_redirect_is_not_followed_and_only_its_host_is_named(
    server: Server, connect: Connect
) -> None:
    async with Trap() as trap:
        target = trap.url.replace("127.0.0.1", "localhost")
        server.faults.add(faults.redirect(target), times=None)
        peer = connect(identity=lambda: {"x-key": "key-secret"})
        answer = await peer.request("GET", "/logs", params=PARAMS)
        with pytest.raises(
            Refused, match="redirects to localhost; redirects are never followed"
        ) as caught:
            check(answer)
        assert not trap.caught
    assert caught.value.status == 302
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("location", ["", "/login", "http://[broken", "//"])
def test_a_redirect_to_nowhere_is_refused_too(location: str) -> None:
    with pytest.raises(Refused, match="redirects elsewhere"):
        check(reply(307, location=location))


def test_a_redirects_host_may_not_forge_a_line() -> None:
    headers = httpx.Headers([(b"location", "http://a\x1b31m\u2028b/".encode())])
    with pytest.raises(Refused, match="redirects to a") as caught:
        check(Reply(307, headers, b"", "GET https://api.example/logs", NOON))
    assert str(caught.value).isprintable()


# --- what a status means


@pytest.mark.parametrize("status", [200, 202, 204])
def test_a_success_passes(status: int) -> None:
    assert check(reply(status)).status == status


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_a_temporary_failure_is_retryable(status: int) -> None:
    with pytest.raises(Retryable) as caught:
        check(reply(status, retry_after="7"))
    assert caught.value.reason == f"status_{status}"
    assert caught.value.retry_after == 7
    assert caught.value.sent, "only the product's own words could prove that it took nothing"


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (401, Refused, "check the key"),
        (403, Refused, "check the rights"),
        (404, Refused, "check the address"),
        (405, Refused, "check the address"),
        (301, Refused, "redirects elsewhere"),
        (304, Refused, "redirects elsewhere"),
        (400, Rejected, "400 from GET https://api.example/logs"),
        (413, TooLarge, "413 from"),
        (422, Rejected, "422 from"),
    ],
)
def test_every_other_status_says_what_to_do(
    status: int, kind: type[RelayError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        check(reply(status, b"body-secret", x_token="header-secret"))
    assert type(caught.value) is kind
    assert "secret" not in str(caught.value)
    assert getattr(caught.value, "status", None) == status


@pytest.mark.parametrize(
    ("body", "message", "is_page"),
    [
        (b"<html>", "", True),
        (b'<?xml version="1.0"?>\n<!DOCTYPE html>', "", True),
        (b'<?xml version="1.0"?>\n<Error><Code>SlowDown</Code></Error>', "SlowDown", False),
        (b'{"error": "no right"}', "", False),
        (b"", "", False),
    ],
)
def test_a_web_page_instead_of_the_apis_words_is_called_one(
    body: bytes, message: str, is_page: bool
) -> None:
    with pytest.raises(Refused) as caught:
        check(reply(403, body), message=message)
    assert ("a web page" in str(caught.value)) is is_page


def test_the_servers_message_is_cut_and_cannot_forge_a_line() -> None:
    with pytest.raises(Rejected) as caught:
        check(reply(400), message="no\n" + "x" * 1000)
    assert "no" in str(caught.value)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("status", [302, 400, 402, 403, 404, 409, 413, 422, 429, 503])
def test_a_hint_replaces_the_general_advice_whatever_the_status(status: int) -> None:
    with pytest.raises(RelayError, match=r"logs: Forbidden; ask the admin$"):
        check(reply(status), message="Forbidden", hint="ask the admin")


def test_a_wait_asked_for_in_the_servers_own_way_counts_only_without_retry_after() -> None:
    for answer, seconds in ((reply(429), 9.0), (reply(429, retry_after="3"), 3.0)):
        with pytest.raises(Retryable) as caught:
            check(answer, wait=9.0)
        assert caught.value.retry_after == seconds


def test_a_wait_asked_for_in_any_way_is_bounded() -> None:
    for asked, seconds in ((10.0**9, MAX_RETRY_AFTER), (-5.0, 0.0)):
        with pytest.raises(Retryable) as caught:
            check(reply(429), wait=asked)
        assert caught.value.retry_after == seconds


# --- decoding


class Rows(msgspec.Struct):
    rows: list[msgspec.Raw]
    more: bool = False


class Envelope(msgspec.Struct):
    data: Rows | None = None


def texts(body: bytes) -> list[bytes]:
    answer = decode(reply(200, body, content_type="application/json"), Envelope)
    assert answer.data is not None
    assert answer.data.more is True
    return [bytes(row) for row in answer.data.rows]


def test_records_keep_their_text_byte_for_byte() -> None:
    row = b'{"n": 1.10, "big":12345678901234567890123 , "u":"\\u00e9"}'
    assert texts(b'{"data":{"rows":[' + row + b', 1],"more":true}}') == [row, b"1"]


@pytest.mark.parametrize("odd", [b"NaN", b"-Infinity", b'"\\ud800"', b'"a\tb"', b"{not: json}"])
def test_an_odd_record_costs_the_records_beside_it_no_byte(odd: bytes) -> None:
    usual = b'{ "n": 1.10,"b" :2}'
    body = b'{"extra":[1],"data":{"x":[3],"rows":[{"a":%b} , %b],"more":true,"y":null}}' % (
        odd,
        usual,
    )
    assert texts(body) == [b'{"a":%b}' % odd, usual]


@pytest.mark.parametrize("rows", [b"[NaN,,1]", b"[NaN,1,]", b"[NaN 1", b"[NaN}"])
def test_a_list_that_is_none_is_no_page(rows: bytes) -> None:
    with pytest.raises(Retryable, match="it is not JSON"):
        texts(b'{"data":{"rows":%b,"more":true}}' % rows)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32-be"])
def test_a_page_may_be_in_any_unicode(encoding: str) -> None:
    row = '{"a":"\u00e4"}'
    body = f'{{"data":{{"rows":[{row}],"more":true}}}}'.encode(encoding)
    assert texts(body) == [row.encode()]


def test_an_odd_page_may_omit_fields_with_a_default() -> None:
    answer = decode(reply(200, b'{"data":{"rows":[NaN]}}'), Envelope)
    assert answer == Envelope(Rows([msgspec.Raw(b"NaN")], more=False))


DEEP = b'{"a":[' * 1000 + b'"]"' + b"]}" * 1000


@pytest.mark.parametrize(
    "odd",
    [
        DEEP,
        b"[" * 200_000 + b"]" * 200_000,
        b'["\xff",NaN]',
        b'["\\ud800",' + b"9" * 5000 + b"]",
        b'{"a":' + DEEP + b',"b":"\xff\\"[[[","c":-' + b"9" * 5000 + b"}",
    ],
)
def test_no_value_is_too_odd_for_the_records_beside_it(odd: bytes) -> None:
    body = b'{"data":{"rows":[{"a":1},' + odd + b',{"b":"x"}],"more":true}}'
    assert texts(body) == [b'{"a":1}', odd, b'{"b":"x"}']


@pytest.mark.parametrize("before", [b'{"data":', b'{"data":{"rows":[', b'{"data":{"rows":[{"a":'])
@pytest.mark.parametrize("odd", [b'"' + b'\\"' * 200_000, b'"' * 200_001, b'"\\' * 200_000])
def test_a_text_without_end_is_refused_in_time_that_grows_with_it(
    before: bytes, odd: bytes
) -> None:
    started = time.perf_counter()
    with pytest.raises(Retryable):
        decode(reply(200, before + odd), Envelope)
    assert time.perf_counter() - started < 2


def test_what_an_unusable_body_is_said_to_be_is_part_of_the_message() -> None:
    with pytest.raises(Retryable, match=r"content type text/x, content encoding br, 1 bytes"):
        decode(reply(200, b"\x0b", content_type="text/x", content_encoding="br"), Envelope)


class Named(msgspec.Struct):
    rows: list[msgspec.Raw]
    cursor: str


def test_bytes_of_a_field_that_are_no_utf_8_do_not_cost_the_records() -> None:
    answer = decode(reply(200, b'{"rows":[{"a":1}],"cursor":"x\xff"}'), Named)
    assert (list(map(bytes, answer.rows)), answer.cursor) == ([b'{"a":1}'], "x\ufffd")


def test_a_byte_order_mark_does_not_cost_a_page() -> None:
    assert texts(b'\xef\xbb\xbf{"data":{"rows":[1],"more":true}}') == [b"1"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>captive</html>",
        b'{"data":{"rows":[{"a":',
        b"[]",
        b"null",
        b'"secret"',
        b'{"data":{"rows":{}}}',
        b'{"data":{"rows":[1],"more":"secret"}}',
        b'{"data":{"rows":[NaN],"more":"secret"}}',
        b'{"data":{"more":true}}',
        b'{"data":[NaN]}',
        b"[" * 200_000,
        b'\xff\xfe{"secret',
        b"{}secret",
    ],
)
def test_a_body_that_is_not_the_expected_json_is_a_bad_reply(body: bytes) -> None:
    with pytest.raises(Retryable) as caught:
        decode(reply(200, body, content_type="text/html; charset=x"), Envelope)
    assert caught.value.reason == "bad_reply"
    assert "content type text/html" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_reply_without_a_content_type_says_so() -> None:
    with pytest.raises(Retryable, match="content type not given"):
        decode(reply(200, b""), Envelope)


@pytest.mark.parametrize("body", [b"NaN", b'"\\ud800"', b'{"a":"\x01"}', b"[1]"])
def test_a_replys_json_is_read_leniently(body: bytes) -> None:
    assert repr(reply(200, body).json()) == repr(json.loads(body, strict=False))


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"[" * 200_000])
def test_a_replys_json_is_a_value_error_if_it_is_not_json(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # three decoders, each with its own message
        reply(200, body).json()


@pytest.mark.parametrize(
    ("body", "expected"),
    [(b'{"a": NaN}', {"a": pytest.approx(float("nan"), nan_ok=True)}), (b"[1]", None), (b"", None)],
)
def test_a_replys_object_is_none_if_it_is_anything_else(
    body: bytes, expected: dict[str, Any] | None
) -> None:
    assert reply(400, body).object() == expected


# --- a list itself

LIST: Any = Records


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (b"[]", 0),
        (b"null", 0),
        (b' [ {"a":1} , 2 ]', 2),
        (b'[{"a":NaN},"\xff"]', 2),
        (b"[" * 5000 + b"]" * 5000, 1),
        ('[{"a":1}]'.encode("utf-16"), 1),
    ],
)
def test_a_body_may_be_the_list_of_records_itself(body: bytes, count: int) -> None:
    assert len(texts_of(decode(reply(200, body), LIST))) == count


@pytest.mark.parametrize("body", [b"{}", b'{"a":[NaN]}', b"[1", b"[1,,2]", b"", b"7", b'"x"'])
def test_what_is_no_list_is_no_reply(body: bytes) -> None:
    with pytest.raises(Retryable) as caught:
        decode(reply(200, body), LIST)
    assert caught.value.reason == "bad_reply"


def test_null_is_no_list_that_was_promised() -> None:
    with pytest.raises(Retryable, match="null for the records of a page that was announced"):
        decode(reply(200, b"null"), LIST, promised=True)


class Inner(msgspec.Struct, rename={"list": "the list"}):
    list: Records = None


class Outer(msgspec.Struct, rename={"inner": "@data"}):
    inner: Inner | None = None


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (b'{"@data":{"the list":[{"a":NaN},{}]}}', 2),
        (b'{"@data":{"the list":[NaN]},"@data":null}', None),
        (b'{"@data":null,"x":NaN}', 0),
    ],
)
def test_the_keys_to_a_list_may_be_no_names(body: bytes, count: int | None) -> None:
    if count is None:
        with pytest.raises(Retryable):
            decode(reply(200, body), Outer)
        return
    inner = decode(reply(200, body), Outer).inner
    assert len(texts_of(None if inner is None else inner.list)) == count


# --- bounds of what is decoded

MANY = b",".join([b"[[[[[[]]]]]]"] * (MOST_VALUES // 6))


def test_a_reply_of_too_many_values_is_not_decoded() -> None:
    body = b'{"code":0,"x":[' + MANY + b"]}"
    answer = reply(200, body)
    assert answer.object() is None
    with pytest.raises(ValueError, match="too many values"):
        answer.json()
    assert reply(200, b'{"code":0,"x":[[],{}]}').object() == {"code": 0, "x": [[], {}]}


@pytest.mark.parametrize("odd", [b"", b',"y":NaN'])
def test_a_page_of_too_many_brackets_is_too_large(odd: bytes) -> None:
    body = b'{"data":[],"x":[' + b",".join([b"[" * 50 + b"]" * 50] * (MOST_RECORDS // 50))
    with pytest.raises(Retryable) as caught:
        decode(reply(200, body + b"]" + odd + b"}"), Listed)
    assert caught.value.reason == "reply_too_large"


def test_what_is_beside_odd_records_is_bounded() -> None:
    body = b'{"data":[NaN],"x":[' + MANY + b"]}"
    with pytest.raises(Retryable, match="not JSON"):
        decode(reply(200, body), Listed)


class Listed(msgspec.Struct):
    data: Records
