"""Records that are too large to be decoded: what they are known by is read all the same."""

import json
import tracemalloc
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.events.conftest import FETCHED

from auditrelay.events import AuditEvent
from auditrelay.events.decode import Undecodable
from auditrelay.events.identity import Place
from auditrelay.events.large import MAX_DECODED, MAX_KEPT, TOO_LARGE, LargeReader
from auditrelay.events.normalize import Normalizer, vendor_named

One = Callable[..., AuditEvent]
Written = Callable[[AuditEvent], dict[str, bytes]]

BEGIN = b'{"id":"1","org_id":"o","event_type":"pathway.created","created_at":"2026-01-05T06:07:08Z"'


def large(*fields: bytes) -> bytes:
    return BEGIN + b"".join(b"," + field for field in fields) + b"}"


MANY = {
    "one key again and again": b'"metadata":{' + b",".join([b'"a":1'] * 200_000) + b"}",
    "many keys, one of them twice": b'"metadata":{%b,"0":1}'
    % b",".join(b'"%d":1' % number for number in range(120_000)),
    "many objects": b'"metadata":[' + b",".join([b'{"a":1}'] * 150_000) + b"]",
    "many empty lists": b'"metadata":[' + b",".join([b"[]"] * 400_000) + b"]",
    "many fields of its own": b",".join(b'"f%d":1' % number for number in range(150_000)),
}


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("field", MANY.values(), ids=MANY)
def test_what_a_large_record_is_known_by_is_read(field: bytes, one: One, written: Written) -> None:
    record = large(field)
    assert len(record) > MAX_DECODED
    event, small = one(record), one(large())
    assert (event.uid, event.at, event.time_quality) == (small.uid, small.at, small.time_quality)
    assert (event.native_id, event.native_action, event.org_id) == ("1", "pathway.created", "o")
    assert "too_large" in event.warnings
    assert json.loads(bytes(event.raw)) == record.decode(), "all of it"
    assert event.raw_sha256 == sha256(record).hexdigest()
    written(event)


@pytest.mark.parametrize("field", MANY.values(), ids=MANY)
@pytest.mark.usefixtures("traced")
def test_a_large_record_is_not_made_into_many_values(field: bytes) -> None:
    record, read = large(field), LargeReader(["id", "metadata"])
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    assert read(record).value["id"] == "1"
    assert tracemalloc.get_traced_memory()[1] - before < 3 * len(record), "decoded it takes sixty"


def test_small_values_of_a_large_record_are_read_and_large_ones_are_not(one: One) -> None:
    text = b'"%b"' % (b"x" * MAX_DECODED)
    event = one(large(b'"metadata":{"a":"b"}', b'"actor_id":' + text))
    assert json.loads(bytes(event.metadata)) == {"a": "b"}
    assert event.actor.id == TOO_LARGE


def test_a_large_record_whose_every_field_is_large_is_still_an_event(
    one: One, written: Written
) -> None:
    text = "ü" * MAX_DECODED
    event = one({"id": "1", "event_type": text, "resource_id": text, "actor_id": text})
    assert event.native_id == "1"
    assert event.native_action == event.target.id == event.actor.id == TOO_LARGE
    assert "too_large" in event.warnings
    assert len(event.message) < 1000
    written(event)


def test_secrets_in_a_large_record_are_hidden(one: One) -> None:
    event = one(large(b'"metadata":{"password":"hunter2-example"}', MANY["many objects"][11:]))
    shown = one(large(b'"metadata":[{"password":"hunter2-example"},%b' % MANY["many objects"][12:]))
    assert b"hunter2" not in bytes(event.raw) + bytes(event.metadata) + bytes(shown.raw)


def test_of_a_very_large_record_the_beginning_is_kept(one: One, written: Written) -> None:
    record = large(b'"metadata":["%b"]' % (b"x" * 2 * MAX_KEPT))
    event, other = one(record), one(record.replace(b'x"]', b'y"]'))
    text = json.loads(bytes(event.raw))
    assert text[:MAX_KEPT] == record[:MAX_KEPT].decode()
    assert len(text) < MAX_KEPT + 200
    assert event.raw_sha256 in text, "so that a change behind it is one"
    assert (event.uid, event.raw) != (other.uid, other.raw)
    assert event.uid == other.uid
    written(event)


@pytest.mark.parametrize("text", [b"[1]", b"null", b'{"id":1', b'{"id":NaN}', b"\xff"])
def test_what_is_no_object_is_not_decoded(text: bytes) -> None:
    with pytest.raises(Undecodable):
        LargeReader(["id"])(text)


def test_a_large_record_that_is_no_json_is_forwarded_as_text(one: One) -> None:
    event = one(b'{"id":"1","a":' + b"[" * 2 * MAX_DECODED)
    assert "not_normalized" in event.warnings


@given(fields=st.sets(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=5))
@settings(derandomize=True, max_examples=100)
def test_any_field_may_be_named(fields: set[str]) -> None:
    values: dict[str, Any] = {name: [name] for name in fields}
    text = json.dumps(values, ensure_ascii=False)
    assert LargeReader(fields)(text.encode()).value.items() <= values.items()


@pytest.mark.parametrize("size", [10, 2 * MAX_DECODED])
def test_records_without_an_id_that_differ_in_what_is_not_decoded_are_two_events(size: int) -> None:
    vendor = vendor_named("bland")
    no_id = (Place.of("none", "id"),)
    identity = msgspec.structs.replace(vendor.identity, id=no_id, without=frozenset(("seen",)))
    normalizer = Normalizer(
        vendor=msgspec.structs.replace(vendor, identity=identity),
        source="it",
        api_host="h",
        scope="o",
        redact="default",
        tags={},
    )
    deep = b'{"seen":1,"a":' + b"[" * 300 + b"%b" + b"]" * 300 + b',"b":"%b"}'
    one, other = (
        normalizer([deep % (value, b"x" * size)], FETCHED).uid[0] for value in (b"1", b"2")
    )
    assert one != other
