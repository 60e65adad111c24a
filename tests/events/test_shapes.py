"""What comes of a record is the same, whether its shape was learnt before or not."""

import json
import threading
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.described import described
from tests.support.extent import extent

from auditrelay.descriptions import load
from auditrelay.descriptions.vendor import vendor_of
from auditrelay.events import AuditEvent, shapes
from auditrelay.events.normalize import Normalizer
from auditrelay.events.shapes import FIRST, Shapes
from auditrelay.events.vendors import Vendor

NOON = 1_795_167_600_123_456
MODES: dict[str, Any] = {"default": "default", "off": "off", "globs": ["*name*", "token", "x"]}

TRICKY = described(
    """
[records]
at = "items"
id = "id"
time = ["at", "meta.at"]
organisation = "org.id"
fields = ["actor", "kind", "things", "extra"]

[event]
action_parts = ["kind", "meta.step"]
outcome = "meta.ok"
actor_ip = "actor.net.ip"
metadata = "meta.free"
reason = "login.<meta.step>.why"
changes = { list = "changes", field = "key", before = "from", after = "to" }

[[event.actor]]
id = ["actor.id", "actor.client.uid"]
name = "actor.name"

[[event.target]]
type_is = "Thing"
id = "things.[type=Thing].id"

[[event.target]]
id = "things.0.id"
"""
)
PLAIN = described(
    """
[records]
at = "items"
id_parts = ["id", "org.id"]
time = "at"
fields = ["actor", "kind", "things", "meta", "changes", "org"]

[event]
action = "kind"
message = "meta.text"
project_id = "meta.project.id"
changes = { before = "changes.old", after = "changes.new" }

[[event.actor]]
id = "actor.id"
email = "actor.net.mail"
"""
)
BASE: dict[str, Any] = {
    "id": "a1",
    "at": "2026-11-20T09:31:07.5Z",
    "org": {"id": "o1", "plan": None},
    "kind": "login",
    "login": {"done": {"why": "asked"}},
    "actor": {
        "id": "u1",
        "name": "Zoë",
        "client": {"uid": "k1", "label": "ci"},
        "net": {"ip": "203.0.113.9", "mail": "dana@acme.example", "hops": [{"n": 1}, {"n": 2}]},
    },
    "things": [{"type": "User", "id": 5}, {"type": "Thing", "id": "t1"}],
    "changes": [{"key": "role", "from": "a", "to": "b"}],
    "meta": {
        "at": "2026-11-20T09:31:08Z",
        "step": "done",
        "ok": True,
        "free": {"a": 1, "b": [1, 2]},
        "text": "Dana did",
        "project": {"id": 7},
        "ratio": 0.5,
        "session_id": "abc",
        "empty": [],
        "none": None,
    },
}


USUAL = orjson.dumps(BASE)


def places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the keys and indices that lead to each value in *value*."""
    found = []
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in inner:
        found.append((*place, key))
        if isinstance(item, dict | list):
            found += places(item, (*place, key))
    return found


VALUES = st.sampled_from(
    [
        *(
            None,
            True,
            0,
            7,
            -5,
            2**53,
            2**63,
            2**64,
            10**4200,
            0.25,
            1e300,
            -0.0,
            "",
            "x",
            "plain words",
        ),
        *("ä\u2028\\n", 'say "so"', "https://a:b@acme.example/?token=Zm9vYmFy0123456789aBcD"),
        *("Bearer eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJlMDEyMzQ1Njc4OQ", "0123456789abcdef" * 2),
        *(
            "y" * 8192,
            '{"password":"Zm9vYmFy0123456789aBcD"}',
            {},
            [],
            ["Authorization", "Basic Zm9v"],
        ),
        *({"password": "hunter2hunter2"}, {"name": "token", "value": "Zm9vYmFy0123456789aBcD"}),
        *({"id": "w", "n": {"deep": [{"er": 1}]}}, [{"type": "Thing", "id": 9}], [[1], {"a": 2}]),
    ]
)
KEYS = st.sampled_from(
    [
        "id",
        "n",
        "new",
        "password",
        "value",
        "name",
        "from",
        "api_key",
        "a b",
        "k\u00e9",
        "",
        "p" * 201,
    ]
)


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """Draw the text of a record: the usual one, in which something is different."""
    record = orjson.loads(orjson.dumps(BASE))
    for _ in range(draw(st.integers(0, 2))):
        *above, last = draw(st.sampled_from(places(BASE)))
        node: Any = record
        for key in above:
            node = node[key] if isinstance(node, dict) and key in node else None
        if not isinstance(node, dict):
            continue
        how = draw(st.sampled_from(["set", "set", "drop", "add", "last"]))
        if how == "set":
            node[last] = draw(VALUES)
        elif how == "add":
            node[draw(KEYS)] = draw(VALUES)
        elif last in node:
            value = node.pop(last)
            if how == "last":  # in another order
                node[last] = value
    style = draw(st.sampled_from(["compact"] * 6 + ["spaces", "ascii", "twice"]))
    text = json.dumps(
        record,
        ensure_ascii=style == "ascii",
        separators=(", ", ": ") if style == "spaces" else (",", ":"),
    )
    return (text[:-1] + ',"id":"b2"}' if style == "twice" else text).encode()


def normalizer(vendor: Vendor, mode: Any = "default") -> Normalizer:
    return Normalizer(
        vendor=vendor, source="it", api_host="a.example", scope="s", redact=mode, tags={}
    )


def without_shapes(vendor: Vendor, mode: Any, texts: list[bytes]) -> list[AuditEvent]:
    """Return the events of *texts*, read without any shape."""
    return list(normalizer(vendor, mode)(texts, NOON))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("vendor", [TRICKY, PLAIN], ids=["tricky", "plain"])
@settings(max_examples=extent(30, 60), deadline=None)
@given(data=st.data())
def test_what_was_seen_before_changes_nothing(
    vendor: Vendor, mode: str, data: st.DataObject
) -> None:
    seen = data.draw(st.lists(records(), max_size=6))
    page = data.draw(st.lists(records(), min_size=1, max_size=6))
    expected = without_shapes(vendor, MODES[mode], page)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "FIRST", 1)
        normalize = normalizer(vendor, MODES[mode])
        for text in [USUAL, *seen, USUAL]:
            normalize([text], NOON)
        assert list(normalize(page, NOON)) == expected


def shapes_of(normalize: Normalizer) -> Shapes:
    found = normalize._gate._shapes
    assert found is not None
    return found


def fits(normalize: Normalizer, text: bytes) -> bool:
    """Return whether the record *text* is decoded as a type."""
    return shapes_of(normalize).read([text], 8191)[0] != [None]


@pytest.mark.parametrize("vendor", [TRICKY, PLAIN], ids=["tricky", "plain"])
def test_a_shape_is_learnt_when_it_was_seen_often(vendor: Vendor) -> None:
    normalize = normalizer(vendor)
    normalize([USUAL] * (FIRST - 1), NOON)
    assert not fits(normalize, USUAL)
    normalize([USUAL], NOON)
    assert fits(normalize, USUAL)


def changed(**fields: Any) -> bytes:
    return json.dumps({**BASE, **fields}, ensure_ascii=False, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(json.dumps(BASE).encode(), id="spaces, and escapes"),
        pytest.param(USUAL[:-1] + b',"id":"a2"}', id="a key twice"),
        pytest.param(changed(new=1), id="a key that is new"),
        pytest.param(orjson.dumps(dict(reversed(BASE.items()))), id="another order"),
        pytest.param(changed(kind=2**64), id="an integer that is too large"),
        pytest.param(changed(kind={"a": 1}), id="an object that is new"),
        pytest.param(changed(kind="x" * 8191), id="a long record"),
        pytest.param(changed(meta={"session_id": {"a": 1}, "ok": {"token": "x9"}}), id="a secret"),
        pytest.param(changed(things=[{"password": "hunter2hunter2"}]), id="a secret in a list"),
        pytest.param(b"{" + USUAL, id="no JSON"),
    ],
)
def test_what_does_not_fit_to_the_byte_has_no_shape(text: bytes) -> None:
    normalize = normalizer(TRICKY)
    normalize([USUAL] * FIRST, NOON)
    assert fits(normalize, USUAL)
    assert not fits(normalize, text)
    read, _ = shapes_of(normalize).read([USUAL, text, USUAL], 8191)
    assert [each is None for each in read] == [False, True, False]


SPELLINGS = [
    *(b"1e30", b"1e+30", b"1E30", b"0.50", b"5e-1", b"-0", b"-0.0", b"1.0", b"1e16", b"1e400"),
    *(b"10000000000000000.0", b"9223372036854775807", b"9223372036854775808", b"5e-324"),
    *(b"18446744073709551615", rb'"a\/b"', rb'"\u00e9"', rb'"\u2028"', b'"\x7f"', rb'"\u001F"'),
    *(rb'"\b"', rb'"\u0008"', rb'"\ud83d\ude00"', rb'"\ud800"', b'"a","of":"another key"'),
]


@pytest.mark.parametrize("vendor", [TRICKY, PLAIN], ids=["tricky", "plain"])
def test_however_a_value_is_spelt_the_same_comes_of_it(vendor: Vendor) -> None:
    normalize = normalizer(vendor)
    normalize([USUAL] * FIRST, NOON)
    for before, after in [
        *((b'"ratio":', b"0.5"), (b'"free":{"a":', b"1"), (b'"kind":', b'"login"')),
        *((b'"project":{"id":', b"7"), (b'{"n":', b"1"), (b'"label":', b'"ci"')),
    ]:
        assert before + after in USUAL
        texts = [USUAL.replace(before + after, before + each) for each in SPELLINGS]
        above, key = before[: (at := before[:-2].rindex(b'"'))], before[at:]
        texts.append(USUAL.replace(before, above + key + b"null," + key, 1))
        expected = [without_shapes(vendor, "default", [text]) for text in texts]
        assert [list(normalize([text], NOON)) for text in texts] == expected


def test_a_field_that_a_vendor_adds_is_learnt_and_so_is_one_that_is_missing() -> None:
    normalize = normalizer(TRICKY)
    normalize([USUAL] * FIRST, NOON)
    more, less = changed(added={"by": "the vendor"}), orjson.dumps({"id": "a1", "at": BASE["at"]})
    assert fits(normalize, less)
    normalize([more] * (2 * FIRST), NOON)
    assert fits(normalize, more)
    assert fits(normalize, USUAL)
    assert list(normalize([more, less], NOON)) == without_shapes(TRICKY, "default", [more, less])


def test_what_has_no_order_or_too_many_keys_costs_that_object_alone() -> None:
    normalize = normalizer(PLAIN)
    tables = [{f"k{number}": number} for number in range(300)]
    texts = [changed(meta={**BASE["meta"], "free": table}) for table in tables]
    for number in range(30):
        normalize(texts[10 * number : 10 * number + 10] + [USUAL] * 50, NOON)
        turned = dict(reversed(BASE["actor"].items()))
        normalize([changed(actor=turned)], NOON)
    normalize([changed(meta={**BASE["meta"], "free": {"unseen": 1}})] * 4000, NOON)
    assert fits(normalize, changed(meta={**BASE["meta"], "free": {"never": "seen"}}))
    assert fits(normalize, changed(actor=dict(reversed(BASE["actor"].items()))))


@pytest.mark.parametrize("key", ['say "so"', "a\\b", "a\nb", "\x00", "", "ü", "a.b", "class"])
def test_an_odd_key_stops_no_source(key: str) -> None:
    texts = [changed(meta={**BASE["meta"], key: "x", "inner": {key: {"n": 1}}}), USUAL]
    normalize = normalizer(PLAIN)
    for _ in range(3):
        events = list(normalize(texts * FIRST, NOON))
    assert events[:2] == without_shapes(PLAIN, "default", texts)
    assert all(fits(normalize, text) for text in texts)


@pytest.mark.parametrize("place", ["hops", "empty"])
@pytest.mark.parametrize(
    "value",
    [["Authorization", "Zm9vYmFy0123456789aBcD"], [{"n": 1}, "X-Api-Key", "abc123456789"]],
    ids=str,
)
def test_a_header_in_a_list_of_what_were_objects_is_hidden(place: str, value: list[Any]) -> None:
    def record(value: list[Any]) -> bytes:
        return changed(meta={**BASE["meta"], "free": {place: value}})

    usual = record([{"n": 1}] if place == "hops" else [])
    normalize = normalizer(PLAIN)
    normalize([usual] * FIRST, NOON)
    assert fits(normalize, usual)
    [event] = normalize([record(value)], NOON)
    assert [event] == without_shapes(PLAIN, "default", [record(value)])
    assert event.redacted == (f"meta.free.{place}.{len(value) - 1}",)


def test_keys_without_end_are_not_learnt_without_end() -> None:
    normalize = normalizer(PLAIN)
    for number in range(100):
        normalize([changed(meta={f"k{number}": {f"k{at}": {} for at in range(100)}})], NOON)
    normalize([USUAL] * FIRST, NOON)
    learnt = shapes_of(normalize)
    assert learnt._root.count_below() == learnt._places <= shapes._MOST_PLACES
    assert fits(normalize, USUAL)


def test_one_record_that_does_not_fit_costs_few_others_their_speed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    normalize = normalizer(PLAIN)
    normalize([USUAL] * FIRST, NOON)
    alone: list[bytes] = []
    decode = shapes._decoded_one

    def noted(decoder: Any, text: bytes) -> Any:
        alone.append(text)
        return decode(decoder, text)

    monkeypatch.setattr(shapes, "_decoded_one", noted)
    page = [USUAL] * 330 + [changed(new=1)] + [USUAL] * 444
    read, _ = shapes_of(normalize).read(page, 8191)
    assert [row for row, each in enumerate(read) if each is None] == [330]
    assert len(read) == 775
    assert len(alone) == shapes._BLOCK


def test_tables_in_tables_do_not_grow_for_ever() -> None:
    normalize = normalizer(PLAIN)

    def nested(number: int, **more: Any) -> bytes:
        extra = {f"a{number % 190}": {f"b{number % 89}": {"c": [{"d": number}]}}}
        return changed(extra=extra, **more)

    for number in range(0, 2000, 20):
        normalize([nested(each) for each in range(number, number + 20)], NOON)
    assert 0 < shapes_of(normalize)._root.count_below() <= 1000
    assert shapes_of(normalize)._root.count_below() == shapes_of(normalize)._places
    normalize([nested(4711)] * 8000, NOON)
    assert fits(normalize, USUAL)
    assert fits(normalize, nested(1_000_003)), "what has no place is read as a whole"
    assert not fits(normalize, nested(1, unseen=1))
    secret = nested(4711, actor={**BASE["actor"], "id": "0123456789abcdef" * 2})
    assert list(normalize([secret], NOON)) == without_shapes(PLAIN, "default", [secret])


def test_records_that_no_type_fits_are_not_learnt_of() -> None:
    normalize = normalizer(PLAIN)
    normalize([json.dumps(BASE).encode()] * 2 * FIRST, NOON)
    assert shapes_of(normalize)._root.keys is None


def test_every_record_of_okta_has_a_shape() -> None:
    normalize = normalizer(vendor_of(load.named("okta").feed()))
    record = {
        "actor": {"id": "00u", "type": "User", "alternateId": "d@acme.example"},
        "authenticationContext": {"externalSessionId": "session-5", "credentialType": None},
        "eventType": "user.session.start",
        "published": "2026-11-20T09:31:07.412Z",
        "debugContext": {"debugData": {"requestUri": "/idp"}},
        "uuid": "6b2f9f3e",
        "target": [{"id": "0oa1", "type": "AppInstance"}],
    }
    text = orjson.dumps(record)
    normalize([text] * FIRST, NOON)
    assert fits(normalize, text)


def test_a_type_that_fits_few_records_is_given_up() -> None:
    normalize = normalizer(TRICKY)
    normalize([USUAL] * FIRST, NOON)
    spaces = json.dumps(BASE).encode()
    normalize([USUAL, spaces] * 300, NOON)
    assert fits(normalize, USUAL)
    normalize([spaces] * 1000, NOON)
    assert not fits(normalize, USUAL)


def test_a_record_with_a_secret_under_a_key_that_names_one_keeps_its_shape() -> None:
    normalize = normalizer(TRICKY)
    normalize([USUAL] * FIRST, NOON)
    secret = changed(meta={**BASE["meta"], "session_id": "0123456789abcdef" * 2})
    assert fits(normalize, secret)
    [event, plain] = normalize([secret, USUAL], NOON)
    assert [event, plain] == without_shapes(TRICKY, "default", [secret, USUAL])
    assert event.redacted == ("meta.session_id",)
    assert b"0123456789abcdef" not in bytes(event.raw)
    assert plain.redacted == ()


def test_what_a_name_beside_it_may_hide_is_looked_at_in_each_record() -> None:
    normalize = normalizer(PLAIN)
    plain, secret = (
        changed(meta={**BASE["meta"], "header": {"name": name, "value": "hunter2hunter2"}})
        for name in ("colour", "api_key")
    )
    normalize([plain] * FIRST, NOON)
    assert fits(normalize, plain)
    [event] = normalize([secret], NOON)
    assert [event] == without_shapes(PLAIN, "default", [secret])
    assert event.redacted == ("meta.header.value",)


@pytest.mark.parametrize("levels", [15, 19, 25, 90])
def test_what_is_nested_deeply_is_the_same_and_its_type_ends_early(levels: int) -> None:
    normalize = normalizer(PLAIN)
    deep: Any = {"password": "hunter2hunter2"}
    for _ in range(levels):
        deep = {"in": deep}
    texts = [changed(extra=deep), changed(extra={"in": {"in": {}}})]
    normalize(texts * FIRST, NOON)
    assert list(normalize(texts, NOON)) == without_shapes(PLAIN, "default", texts)
    node, depth = shapes_of(normalize)._root, 0
    while node.keys and (below := node.keys.get("extra") or node.keys.get("in")):
        node, depth = below, depth + 1
    assert depth <= 20


def test_what_a_key_may_hide_in_a_list_is_looked_at_in_each_record() -> None:
    normalize = normalizer(PLAIN)
    plain, secret = (
        changed(org={"id": "o1", "hops": [{"n": 1, "session_id": each}]})
        for each in ("abc", "0123456789abcdef" * 2)
    )
    normalize([plain] * FIRST, NOON)
    assert fits(normalize, plain)
    [event] = normalize([secret], NOON)
    assert [event] == without_shapes(PLAIN, "default", [secret])
    assert event.redacted == ("org.hops.0.session_id",)


def test_a_secret_is_found_while_another_thread_makes_a_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A long page is read in a thread, and the loop reads others of the same source meanwhile."""
    normalize = normalizer(TRICKY)
    normalize([USUAL] * FIRST, NOON)
    secret = changed(meta={**BASE["meta"], "free": {"password": "hunter2hunter2"}})
    expected = without_shapes(TRICKY, "default", [secret])
    makes, go_on = threading.Event(), threading.Event()
    make, decode = Shapes._struct, shapes._decoded

    def slow(*arguments: Any) -> Any:
        makes.set()
        assert go_on.wait(10)
        return make(*arguments)

    beside = threading.Thread(target=normalize, args=([changed(added=1)] * 2 * FIRST, NOON))

    def meanwhile(*arguments: Any) -> Any:
        found = decode(*arguments)
        monkeypatch.setattr(shapes, "_decoded", decode)
        beside.start()
        assert makes.wait(10)
        return found

    monkeypatch.setattr(Shapes, "_struct", slow)
    monkeypatch.setattr(shapes, "_decoded", meanwhile)
    try:
        assert list(normalize([secret], NOON)) == expected
        normalize([changed(other=1)], NOON)  # it does not wait for what is being learnt
    finally:
        go_on.set()
        beside.join()
    assert fits(normalize, changed(added=1))
