"""No secret of a record reaches a store or a SIEM."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditrelay.events import AuditEvent, pack, secret_keys
from auditrelay.events.normalize import Normalizer, available, vendor_named
from auditrelay.events.redact import Redactor
from auditrelay.events.secret_keys import looks_secret
from auditrelay.events.secret_texts import MARK

SECRET_KEYS = [
    "password", "passwd", "Password", "user_password", "db_pass", "passphrase", "pwd",
    "secret", "clientSecret", "client_secret", "CLIENT-SECRET", "secret_key", "signing_secret",
    "token", "access_token", "accessToken", "accesstoken", "X-Auth-Token", "token_value",
    "refreshToken", "id_token", "token1", "api_key", "apiKey", "APIKey", "APIKEY", "apikey",
    "X-Api-Key", "api-key", "api key", "aPi_KeY", "api_key_2", "openai_api_key", "private_key",
    "privateKey", "ssh_private_key_pem", "authorization", "Authorization",
    "Proxy-Authorization", "credentials", "aws_secret_access_key", "encryption_key",
    "connection_string", "cookie", "Set-Cookie", "password_hash", "basic_auth", "webhook.secret",
]  # fmt: skip
HARMLESS_KEYS = [
    "api_key_name", "key_prefix", "token_count", "token_type", "api_key_id", "secret_name",
    "apiKeyName", "clientSecretId", "max_tokens", "prompt_tokens", "completionTokens",
    "password_updated_at", "passwordUpdatedAt", "has_password", "token_expires", "auth_method",
    "secretary", "tokenizer", "keyboard", "key", "name", "public_key", "primary_key", "author",
    "token_url", "password_policy", "", "id", "session_id", "passed", "compass",
]  # fmt: skip


@pytest.mark.parametrize("key", SECRET_KEYS)
def test_a_key_that_names_a_secret_looks_secret(key: str) -> None:
    assert looks_secret(key)


@pytest.mark.parametrize("key", HARMLESS_KEYS)
def test_a_key_that_describes_a_secret_or_means_something_else_does_not(key: str) -> None:
    assert not looks_secret(key)


def test_no_documented_field_of_any_vendor_is_redacted_at_the_top(
    normalizer: Callable[..., Normalizer], fetched: int
) -> None:
    for name, vendor in available().items():
        record = json.dumps(dict.fromkeys(vendor.FIELDS, "kept")).encode()
        [event] = normalizer(name)([record], fetched)
        assert bytes(event.raw) == record


def buried(secret: object, key: str, depth: int, *, in_list: bool) -> object:
    node: object = {key: secret, "plain": "seen"}
    for level in range(depth):
        node = [node] if in_list and level % 2 else {f"level{level}": node, "more": [1, "x"]}
    return node


MARKER = "837465928374659"
SHAPES: dict[str, Any] = {
    "text": f"s-{MARKER}",
    "list": [f"s-{MARKER}", {"a": f"s-{MARKER}"}],
    "object": {"value": f"s-{MARKER}", "n": [int(MARKER)]},
    "number": int(MARKER),
    "json": json.dumps({"inner": MARKER}),
    "header": f"Bearer {MARKER}",
}


@pytest.fixture(scope="module")
def secret_is_gone() -> Callable[[bytes], AuditEvent]:
    """Normalize a record, and assert that the marked secret in it is nowhere in the event."""
    normalize = {
        vendor: Normalizer(
            vendor=vendor_named(vendor),
            source="s",
            api_host="h",
            scope="o",
            redact="default",
            tags={},
        )
        for vendor in available()
    }

    def check(text: bytes) -> AuditEvent:
        for normalizer in normalize.values():
            [event] = normalizer([text], 1)
            assert MARKER.encode() not in pack([event])
        return event

    return check


@given(
    key=st.sampled_from(SECRET_KEYS),
    depth=st.integers(min_value=0, max_value=40),
    in_list=st.booleans(),
    where=st.sampled_from(["metadata", "brand_new_field", "event_type", "top"]),
    shape=st.sampled_from(sorted(SHAPES)),
    spacing=st.sampled_from([None, 1]),
    escape=st.booleans(),
)
def test_a_secret_at_any_depth_and_in_any_shape_is_nowhere_in_the_event(
    key: str,
    depth: int,
    in_list: bool,
    where: str,
    shape: str,
    spacing: int | None,
    escape: bool,
    secret_is_gone: Callable[[bytes], AuditEvent],
) -> None:
    node = buried(SHAPES[shape], key, depth, in_list=in_list)
    record = {"id": "1", "created_at": "2026-01-01T00:00:00Z"}
    record |= node if where == "top" and isinstance(node, dict) else {where: node}  # type: ignore[dict-item]
    text = json.dumps(record, indent=spacing)
    if escape:
        text = text.replace(f'"{key}"', f'"\\u{ord(key[0]):04x}{key[1:]}"')
    event = secret_is_gone(text.encode())
    assert MARK.encode() in bytes(event.raw)
    assert b"seen" in bytes(event.raw)


@pytest.mark.parametrize(
    "text",
    [
        '{"token":"s-MARKER","token":"harmless"}',
        '{"token" : "s-MARKER", "token":"harmless"}',
        '{"metadata":{"token":"s-MARKER"},"metadata":{}}',
        '{"metadata":{"a":{"password":"s-MARKER"},"a":1}}',
        '{"x":{"token":"MARKER"},"x":{"token":"MARKER"},"x":2}',
        '{"\\u0074oken":"MARKER"}',
        '{"metadata":{"\\u0074oken":"MARKER","token":1}}',
        '{"metadata":{"headers":[{"name":"Authorization","value":"Bearer MARKER"}]}}',
        '{"metadata":{"changes":[{"field":"api_key","before":"MARKER","after":["MARKER"]}]}}',
        '{"metadata":{"headers":[{"Name":"X-Api-Key","Value":"MARKER"}]}}',
        '{"metadata":"{\\"token\\": \\"MARKER\\"}"}',
        '{"metadata":{"body":"[{\\"a\\":{\\"clientSecret\\":[\\"MARKER\\"]}}]"}}',
        '{"metadata":{"body":"{\\"token\\": \\"MARKER\\", cut off"}}',
        '{"metadata":{"body":"{\\"token\\":\\"MARKER\\",\\"token\\":\\"x\\"}"}}',
        '{"metadata":{"body":"{\\"a\\":{\\"token\\":\\"MARKER\\"},\\"a\\":1}"}}',
        '{"metadata":{"body":'
        + json.dumps('{"a":' * 300 + '{"token":"MARKER"}' + "}" * 300)
        + "}}",
        '{"metadata":{"url":"https://user:MARKER@host/path"}}',
        '{"metadata":{"url":"https:\\/\\/user:MARKER@host\\/path"}}',
        '{"metadata":{"url":"https://user:p@MARKER@host/path"}}',
        '{"metadata":{"url":"https://MARKER@host"}}',
        '{"metadata":{"url":"https://h/?a=1&token=MARKER&b=2"}}',
        '{"metadata":{"url":"https://h/?to%6ben=MARKER"}}',
        '{"metadata":{"url":"https://h/cb#access_token=MARKER&x=1"}}',
        '{"metadata":{"url":"https://h/?X-Amz-Signature=MARKER"}}',
        '{"resource_id":"https://h/?api_key=MARKER","event_type":"see postgres://u:MARKER@db/x"}',
        '{"object_type":"https://u:MARKER@h","user_email":"https://u:MARKER@h"}',
        '{"id":"https://u:MARKER@h/","organization":"ftp://MARKER@x","org_id":"ftp://MARKER@x"}',
        '{"timestamp":"https://u:MARKER@h/","created_at":"https://u:MARKER@h/"}',
        '[{"token":"MARKER"}]',
        '[["https://u:MARKER@h"]]',
        '{"token":"MARKER", NaN',
        '{"a":1,"password": "MARKER"',
        "{'password': 'MARKER', 'x': None}",
        '{"a":{"secret":{"deep":"MARKER"}}, cut',
        "<html>password=MARKER</html>",
        "Authorization: Bearer MARKER",
        '", "token":"MARKER"}',
        '{"token":"a\\"MARKER","x":',
        '{"\\u0074oken":"MARKER",',
        '\ufeff{"token":"MARKER"}',
        '{"metadata":{"token":"MARKER","bad":"\\ud800","n":NaN,"big":1180591620717411303424}}',
        '{"metadata":' + '{"a":' * 300 + '{"token":"MARKER"}' + "}" * 300 + "}",
        '{"metadata":' + "[" * 10_000 + '{"token":"MARKER"}' + "]" * 10_000 + "}",
        '{"' + "x" * 100_000 + '_token":"MARKER"}',
    ],
)  # fmt: skip
def test_no_disguise_hides_a_secret_from_redaction(
    text: str, secret_is_gone: Callable[[bytes], AuditEvent]
) -> None:
    secret_is_gone(text.replace("MARKER", MARKER).encode())


def test_bytes_that_are_not_utf8_do_not_hide_a_secret(
    secret_is_gone: Callable[[bytes], AuditEvent],
) -> None:
    secret_is_gone(b'{"name":"\xff\xfe","token":"%s"}' % MARKER.encode())
    secret_is_gone(b'\xff{"token":"%s"' % MARKER.encode())


@pytest.mark.parametrize(
    "text",
    [
        b'{"id": 1,  "b" : [1.50, {"c":null}],\n"d":"\\u00e9 \\/ \xc3\xa9"}',
        b'{"id":"1","metadata":{"token":null,"token_count":5,"url":"https://h/p?x=1"}}',
        b'{"id":1180591620717411303424}',
    ],
)
def test_a_record_without_a_secret_is_kept_byte_for_byte(
    text: bytes, one: Callable[..., AuditEvent]
) -> None:
    assert bytes(one(text).raw) == text


def test_redaction_marks_secrets_and_keeps_the_rest(
    one: Callable[..., AuditEvent],
) -> None:
    event = one(
        {
            "id": "1",
            "metadata": {
                "clientSecret": {"a": [1]},
                "api_key_name": "ci",
                "url": "https://u:p@h.example/x?token=t&y=2",
                "max_tokens": 5,
            },
            "secret_thing": 7,
        }
    )
    expected = {
        "clientSecret": MARK,
        "api_key_name": "ci",
        "url": f"https://u:{MARK}@h.example/x?token={MARK}&y=2",
        "max_tokens": 5,
    }
    assert json.loads(bytes(event.metadata)) == expected
    assert json.loads(bytes(event.unmapped)) == {"secret_thing": MARK}
    assert json.loads(bytes(event.raw))["metadata"] == expected


def test_off_keeps_everything_unchanged(one: Callable[..., AuditEvent]) -> None:
    text = b'{"id":"1","metadata":{"token":"t","url":"https://u:p@h/?token=t"},"n":{"token":1}}'
    event = one(text, redact="off")
    assert bytes(event.raw) == text
    assert b'"token":"t"' in bytes(event.metadata)
    assert bytes(one(b'{"token":"t"', redact="off").raw) == b'"{\\"token\\":\\"t\\""'


def test_globs_replace_the_default_and_apply_at_the_top_too(
    one: Callable[..., AuditEvent],
) -> None:
    record = {
        "id": 1,
        "organization": 2,
        "timestamp": "2026-05-11T08:15:01Z",
        "user_email": "dana@acme.example",
        "password": "kept",
        "x": [{"User_Email": "dana@acme.example"}],
    }
    event = one(record, "cekura", redact=["*_email"])
    assert b"dana" not in pack([event])
    assert json.loads(bytes(event.raw))["password"] == "kept"
    assert event.uid == one(record, "cekura").uid
    assert one(record, "cekura", redact=["timestamp"]).at == event.at


def test_the_order_of_keys_does_not_matter() -> None:
    redactor = Redactor("default", frozenset())
    for key in (*HARMLESS_KEYS, *SECRET_KEYS, *HARMLESS_KEYS, *SECRET_KEYS):
        record = {"outer": {key: "x"}}
        changed = redactor.record(record, json.dumps(record).encode())
        assert bool(changed) == (key in SECRET_KEYS), key
        assert record["outer"][key] == (MARK if key in SECRET_KEYS else "x")


def test_a_value_next_to_a_secret_name_is_redacted_though_both_keys_were_harmless_before() -> None:
    redactor = Redactor("default", frozenset(("outer",)))
    value = "x8374659283"
    for name, expected in (("Accept", value), ("Authorization", MARK), ("Accept", value)):
        record = {"outer": {"header": {"name": name, "value": value}}}
        redactor.record(record, json.dumps(record).encode())
        assert record["outer"]["header"]["value"] == expected


WORDS = sorted(
    {word for pair in secret_keys._SECRET_PAIRS for word in pair}
    | secret_keys._SECRET_WORDS
    | secret_keys._SECRET_KEYS
    | secret_keys._AMBIGUOUS
    | {*secret_keys._SECRET_ENDINGS, "key", "keys", "session", "id", "user", "kéy", "7", ""}
)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(WORDS),
            st.sampled_from((str.lower, str.upper, str.title, str.swapcase)),
            st.sampled_from(("", "_", "-", " ", ".", "#1")),
        ),
        max_size=4,
    )
)
def test_no_key_that_any_rule_is_about_is_passed_over(words: list[tuple[str, Any, str]]) -> None:
    key = "".join(f"{case(word)}{between}" for word, case, between in words)
    lists = secret_keys._splits(key)
    if any(map(secret_keys._names_secret, lists)) or any(map(secret_keys._is_ambiguous, lists)):
        assert not secret_keys._is_plain(key)


def test_the_cache_of_keys_is_bounded() -> None:
    redactor = Redactor("default", frozenset())
    for number in range(30_000):
        redactor.record({"outer": {f"key{number}" + "x" * (number % 300): 1}}, b"{}")
    assert len(redactor._keys) <= 8192
    assert len(redactor._keys.harmless) <= 8192
    assert max(map(len, redactor._keys)) <= 200


def test_json_in_a_text_loses_its_secrets_and_nothing_else(
    one: Callable[..., AuditEvent],
) -> None:
    kept = '{"note": "token: abc", "max_tokens": 5}'
    event = one({"id": "1", "metadata": {"kept": kept, "cut": '{"token": "s", "a": [1]}'}})
    assert json.loads(bytes(event.metadata)) == {
        "kept": kept,
        "cut": f'{{"token":"{MARK}","a":[1]}}',
    }


def test_text_that_is_not_json_keeps_harmless_values() -> None:
    redactor = Redactor("default", frozenset())
    text = '{"user": "dana", "password": "x y", "ok": true, "secret": 5, "token_type": "b", cut'
    expected = text.replace('"x y', f'"{MARK}').replace(": 5", f": {MARK}")
    assert redactor.text(text) == expected
    assert not re.search("x y|5", redactor.text(text))
