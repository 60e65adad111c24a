"""Whatever a vendor sends becomes an event, and the event becomes strict JSON."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.cases import case

from auditrelay.events import NOTHING, AuditEvent, pack, unpack
from auditrelay.events.decode import MAX_REPEATS, TOO_DEEP
from auditrelay.events.forms import FORMS
from auditrelay.events.normalize import Normalizer, available, vendor_named
from auditrelay.events.timestamps import iso_us
from auditrelay.events.vendors import MAX_TEXT_LENGTH, Columns

Written = Callable[[AuditEvent], dict[str, bytes]]
NORMALIZERS = {
    vendor: Normalizer(
        vendor=vendor_named(vendor),
        source="s",
        api_host="h",
        scope="o",
        redact="default",
        tags={"a.b": "c"},
    )
    for vendor in available()
}
FIELDS = sorted({field for vendor in available().values() for field in vendor.FIELDS})

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.sampled_from(["", "\ud800", "object", "create", "2026-05-11T08:15:01Z", "://@", '{"a":1}'])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
rows = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=12), values, max_size=12)


def check_everywhere(event: AuditEvent) -> None:
    """Assert that *event* survives the spool and renders to strict JSON in every form."""
    [kept] = unpack(pack([event]))
    assert kept == event
    for render in FORMS.values():
        text = orjson.dumps(render(kept))
        assert event.uid.encode() in text
        json.loads(text, parse_constant=pytest.fail)
        assert b"\n" not in text


@given(value=rows | values)
@settings(deadline=None)  # the first example also pays for what is built once
def test_any_json_becomes_an_event_in_every_form(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value, indent=1, ensure_ascii=False)):
        for vendor, normalize in NORMALIZERS.items():
            with case(vendor):
                [event] = normalize([text.encode("utf-8", "surrogatepass")], 5)
                assert ("not_normalized" in event.warnings) == (not isinstance(value, dict))
                check_everywhere(event)


@given(
    st.binary(max_size=60) | st.text(alphabet='{}[]":,\\\n1eE-.tNa', max_size=30).map(str.encode)
)
def test_any_bytes_become_an_event_in_every_form(text: bytes) -> None:
    for normalize in NORMALIZERS.values():
        [event] = normalize([text], 5)
        check_everywhere(event)


def test_each_record_becomes_one_event_in_order(
    normalizer: Callable[..., Normalizer], fetched: int
) -> None:
    records = [b'{"id":"1"}', b"poison", b'{"id":"2"}', b"", b"[]", b'{"id":"3"}']
    events = normalizer()(records, fetched)
    assert [event.native_id for event in events] == ["1", None, "2", None, None, "3"]
    assert [event.raw_sha256 for event in events] == [
        hashlib.sha256(record).hexdigest() for record in records
    ]
    assert list(normalizer()([], fetched)) == []


@pytest.mark.parametrize(
    ("text", "raw"),
    [
        (b"poison", b'"poison"'),
        (b"", b'""'),
        (b'{"id":"1"', b'"{\\"id\\":\\"1\\""'),
        (b"[1, 2]", b"[1, 2]"),
        (b"null", b"null"),
        (b"12", b"12"),
        (b'"text"', b'"text"'),
        (b"\xff\xfe", '"\ufffd\ufffd"'.encode()),
    ],
)
def test_a_record_that_is_not_an_object_is_forwarded_and_marked(
    text: bytes, raw: bytes, one: Callable[..., AuditEvent], written: Written, fetched: int
) -> None:
    event = one(text)
    assert event.warnings[0] == "not_normalized"
    assert (event.kind, event.verb, event.outcome) == ("other", "other", None)
    assert (event.at, event.time_quality) == (fetched, "fetched")
    assert bytes(event.raw) == raw
    document = json.loads(written(event)["ecs"])
    assert document["event"]["kind"] == "pipeline_error"
    assert document["error"]["message"] == event.message
    assert "category" not in document["event"]


@pytest.mark.parametrize(
    ("text", "warning", "part", "kept"),
    [
        (b'{"id":"1","metadata":{"n":NaN,"i":-Infinity}}', "replaced_numbers",
         "metadata", b'{"n":"NaN","i":"-Infinity"}'),
        (b'{"id":"1","metadata":{"n":1e999}}', "replaced_numbers", "metadata", b'{"n":"1e999"}'),
        (b'{"id":"1","metadata":{"n":"\\ud800x"}}', "replaced_characters",
         "metadata", '{"n":"\ufffdx"}'.encode()),
        (b'{"id":"1","metadata":{"\\udfff":1}}', "replaced_characters",
         "metadata", '{"\ufffd":1}'.encode()),
        (b'{"id":"1","metadata":{"n":"\xff"}}', "replaced_characters",
         "metadata", '{"n":"\ufffd"}'.encode()),
        (b'{"id":"1","metadata":{"a":1,"a":2,"a":3}}', "duplicate_keys",
         "metadata", b'{"a#1":1,"a":3,"a#2":2}'),
        (b'{"id":"1","event_type":"a","event_type":"b"}', "duplicate_keys",
         "unmapped", b'{"event_type#1":"a"}'),
        (b'{"id":"1","metadata":' + b"9" * 5000 + b"}", "replaced_numbers",
         "metadata", b'"' + b"9" * 5000 + b'"'),
    ],
)  # fmt: skip
def test_what_json_libraries_refuse_is_replaced_and_marked(
    text: bytes,
    warning: str,
    part: str,
    kept: bytes,
    one: Callable[..., AuditEvent],
    written: Written,
) -> None:
    event = one(text)
    assert event.native_id == "1"
    assert warning in event.warnings
    found = bytes(getattr(event, part))
    assert json.loads(found) == json.loads(kept)
    assert json.loads(bytes(event.raw))["id"] == "1"
    written(event)


def test_an_integer_beyond_64_bits_keeps_its_digits(
    one: Callable[..., AuditEvent], written: Written
) -> None:
    digits = b"1180591620717411303424"
    event = one(b'{"id":%s,"metadata":{"n":%s,"token":"s"}}' % (digits, digits))
    assert event.native_id == digits.decode()
    assert digits in bytes(event.raw)
    assert bytes(event.metadata) == b'{"n":%s,"token":"[redacted]"}' % digits
    for text in written(event).values():
        assert digits in text


def test_whitespace_around_a_record_is_not_part_of_it(one: Callable[..., AuditEvent]) -> None:
    event = one(b'\n {"id": "1"}\r\n')
    assert bytes(event.raw) == b'{"id": "1"}'
    assert event == one(b'{"id": "1"}')


def test_a_byte_order_mark_is_removed(one: Callable[..., AuditEvent]) -> None:
    event = one(b'\xef\xbb\xbf{"id":"1"}')
    assert (event.native_id, bytes(event.raw)) == ("1", b'{"id":"1"}')


def test_a_field_of_300_kilobytes_is_shortened_and_kept_whole_in_the_raw_record(
    one: Callable[..., AuditEvent], written: Written
) -> None:
    long = "ü" * 50_000  # six bytes each, as JSON escapes it
    event = one({"id": "1", "event_type": long, "resource_id": long, "actor_id": long})
    assert len(event.native_action) == len(event.target.id or "") == MAX_TEXT_LENGTH
    assert len(event.message) <= MAX_TEXT_LENGTH
    assert "shortened" in event.warnings
    assert json.loads(bytes(event.raw))["event_type"] == long
    written(event)


@pytest.mark.parametrize("depth", [40, 150])
def test_deep_nesting_is_kept(depth: int, one: Callable[..., AuditEvent], written: Written) -> None:
    inner = b"[" * depth + b"]" * depth
    event = one(b'{"id":"1","metadata":%s}' % inner)
    assert (event.native_id, bytes(event.metadata)) == ("1", inner)
    assert "too_deep" not in event.warnings
    written(event)


@pytest.mark.parametrize(
    "beside", [b'"id":"1","metadata":{%s}', b'"id":"1",%s', b'"id":"1","x":[{%s}]']
)
def test_a_key_that_is_repeated_without_end_costs_only_its_earlier_values(
    beside: bytes, one: Callable[..., AuditEvent], written: Written
) -> None:
    repeated = b",".join(b'"a":%d' % number for number in range(5 * MAX_REPEATS))
    record = b'{"event_type":"pathway.created","org_id":"o",' + beside % repeated + b"}"
    event = one(record)
    assert (event.native_id, event.kind) == ("1", "pathway")
    assert {"duplicate_keys", "too_many_repeats"} <= set(event.warnings)
    assert json.loads(bytes(event.raw)) == record.decode(), "all of them"
    assert len(bytes(event.metadata or b"")) + len(bytes(event.unmapped or b"")) < 40 * MAX_REPEATS
    written(event)


def test_nesting_that_json_writers_refuse_is_kept_as_text(
    one: Callable[..., AuditEvent], written: Written
) -> None:
    inner = b'{"a":' * 300 + b"1" + b"}" * 300
    event = one(b'{"id":"1","org_id":"o","event_type":"pathway.created","metadata":%s}' % inner)
    assert (event.native_id, event.kind) == ("1", "pathway")
    assert "too_deep" in event.warnings
    assert TOO_DEEP.encode() in bytes(event.metadata)
    assert inner.decode() in json.loads(bytes(event.raw))
    written(event)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_ten_thousand_levels_are_forwarded_as_text(
    opening: bytes, one: Callable[..., AuditEvent], written: Written
) -> None:
    text = b'{"id":"1","metadata":' + opening * 10_000
    event = one(text)
    assert "not_normalized" in event.warnings
    assert json.loads(bytes(event.raw)) == text.decode()
    written(event)


@pytest.mark.parametrize(
    ("time", "kept"),
    [
        (None, None),
        ("", ""),
        ("soon", "soon"),
        ("2026-02-30T00:00:00Z", "2026-02-30T00:00:00Z"),
        (17673230450000000000000, "17673230450000000000000"),
        ({"seconds": "5 s"}, '{"seconds":"5 s"}'),
        ("Fri, 2 Jan 2026 03:04:05 CEST", "Fri, 2 Jan 2026 03:04:05 CEST"),
        (True, "true"),
    ],
)
def test_without_a_usable_time_the_time_of_reading_is_used(
    time: object, kept: str | None, one: Callable[..., AuditEvent], fetched: int
) -> None:
    event = one({"id": "1", "created_at": time})
    assert (event.at, event.time_quality, event.time_raw) == (fetched, "fetched", kept)
    assert "no_time" in event.warnings


@pytest.mark.parametrize(
    "time",
    [
        "0001-01-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "1999-12-31T23:59:59Z",
        "2500-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999Z",
    ],
)
def test_an_implausible_time_is_kept_marked_and_renders(
    time: str, one: Callable[..., AuditEvent], written: Written
) -> None:
    event = one({"id": "1", "created_at": time})
    assert json.loads(written(event)["ecs"])["@timestamp"][:19] == time[:19]
    assert event.time_quality == "implausible"
    assert event.warnings[0] == "implausible_time"


def test_a_time_is_implausible_from_a_day_after_it_was_fetched(
    one: Callable[..., AuditEvent], fetched: int
) -> None:
    def quality(at: int) -> str:
        return one({"id": "1", "created_at": iso_us(at)}).time_quality

    assert quality(fetched + 86_400_000_000) == "source"
    assert quality(fetched + 86_400_000_001) == "implausible"
    assert quality(946_684_800_000_000) == "source"  # 2000-01-01


def test_among_usual_records_only_the_one_that_is_far_off_is_marked(
    normalizer: Callable[..., Normalizer], fetched: int
) -> None:
    times = ["2026-01-01T12:00:00Z", "9999-12-31T23:59:59Z", "2026-01-01T12:00:01Z"]
    records = [b'{"id":"%d","created_at":"%b"}' % (n, t.encode()) for n, t in enumerate(times)]
    events = normalizer()(records, fetched)
    assert [event.time_quality for event in events] == ["source", "implausible", "source"]


@pytest.mark.parametrize(
    "time",
    [
        1767323045,
        1767323045000,
        {"$date": 1767323045000},
        "Fri, 2 Jan 2026 03:04:05 GMT",
        "2026-01-02 03:04:05 UTC",
    ],
)
def test_a_time_in_another_spelling_is_read_and_kept_verbatim(
    time: object, one: Callable[..., AuditEvent]
) -> None:
    event = one({"id": "1", "created_at": time})
    assert (event.at, event.time_quality) == (1_767_323_045_000_000, "source")
    assert "no_time" not in event.warnings


def test_a_time_without_an_offset_is_taken_for_utc_and_marked(
    one: Callable[..., AuditEvent],
) -> None:
    event = one({"id": "1", "created_at": "2026-05-11T08:15:01"})
    assert (event.at, event.time_quality) == (1_778_487_301_000_000, "assumed_utc")


@pytest.mark.parametrize("vendor", NORMALIZERS)
@pytest.mark.parametrize("value", [[1], {"a": "b"}, 1.5, True, [], {}])
def test_a_value_without_a_field_is_unmapped(vendor: str, value: object) -> None:
    module = available()[vendor]
    free = {module.TIME, "metadata"} & module.FIELDS
    record = dict.fromkeys(module.FIELDS, value) | {"novel": value}
    [event] = NORMALIZERS[vendor]([json.dumps(record).encode()], 5)
    expected = dict.fromkeys(module.FIELDS - free, value) | {"novel": value}
    assert json.loads(bytes(event.unmapped)) == expected


@pytest.mark.parametrize("vendor", NORMALIZERS)
def test_a_documented_record_has_nothing_unmapped(vendor: str) -> None:
    for value in (None, "x", 5):
        record = dict.fromkeys(available()[vendor].FIELDS, value)
        [event] = NORMALIZERS[vendor]([json.dumps(record).encode()], 5)
        assert event.unmapped == NOTHING


@pytest.mark.parametrize("metadata", ["text", [1], 5, True, ""])
def test_metadata_may_be_any_json(
    metadata: object, one: Callable[..., AuditEvent], written: Written
) -> None:
    event = one({"id": "1", "metadata": metadata})
    assert json.loads(bytes(event.metadata)) == metadata
    wrapped = json.loads(written(event)["ecs"])["bland"]["audit"]["metadata"]
    assert wrapped == {"value": metadata}


def test_an_event_has_its_origin(one: Callable[..., AuditEvent], fetched: int) -> None:
    event = one({"id": "1", "org_id": "o"}, source="prod", api_host="h", tags={"k": "v"})
    assert (event.source, event.vendor, event.product) == ("prod", "bland", "Bland AI")
    assert (event.api_host, event.org_id, event.fetched) == ("h", "o", fetched)
    assert (event.tags, event.late_by_s, event.backfill) == ((("k", "v"),), None, False)


def test_bland_takes_names_of_people_and_files_from_the_metadata(
    one: Callable[..., AuditEvent],
) -> None:
    login = {"event_type": "auth.sso_login", "actor_id": "a", "metadata": {"email": "d@x.example"}}
    event = one(login)
    assert (event.actor.id, event.actor.email, event.actor.kind) == ("a", "d@x.example", "user")
    file = one({"event_type": "kb.file_replaced", "metadata": {"filename": "f", "email": "e"}})
    assert (file.target.name, file.actor.email, file.actor.kind) == ("f", None, "unknown")
    odd = one({"event_type": "auth.sso_login", "metadata": {"email": ["e"]}})
    assert odd.actor.email is None
    assert json.loads(bytes(odd.metadata)) == {"email": ["e"]}


def test_cekura_distinguishes_people_from_api_keys(one: Callable[..., AuditEvent]) -> None:
    def actor(**fields: object) -> tuple[Any, ...]:
        found = one(fields, "cekura").actor
        return found.kind, found.id, found.name, found.email

    assert actor(user=5, user_email="d@x") == ("user", "5", None, "d@x")
    assert actor(api_key_name="ci") == ("api_key", None, "ci", None)
    assert actor(user=5, user_email="d@x", api_key_name="ci") == ("user", "5", "ci", "d@x")
    assert actor() == ("unknown", None, None, None)


def test_an_unknown_vendor_is_refused_with_the_known_ones(
    normalizer: Callable[..., Normalizer],
) -> None:
    with pytest.raises(LookupError, match=r"no vendor 'acme': there are bland, cekura"):
        normalizer("acme")


def test_a_bug_in_a_vendors_module_is_raised(
    normalizer: Callable[..., Normalizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_page: Columns) -> None:
        raise KeyError("bug")

    monkeypatch.setattr(available()["bland"], "read", broken)
    normalize = normalizer("bland")
    with pytest.raises(KeyError, match="bug"):
        normalize([b"{}"], 1)


@pytest.mark.parametrize("action", ["auditrelay.gap_filled", " AuditRelay.record_changed"])
def test_an_action_that_is_spelt_like_one_of_auditrelay_itself_is_marked_as_foreign(
    action: str, normalizer: Callable[..., Normalizer], fetched: int
) -> None:
    records = [
        json.dumps({"id": "1", "action": each, "created_at": "2026-05-11T08:15:01Z"}).encode()
        for each in (action, "grant.view")
    ]
    foreign, usual = normalizer("jitsudo")(records, fetched)
    assert "foreign_action" in foreign.warnings
    assert "foreign_action" not in usual.warnings
    assert not foreign.notice


def test_what_has_an_id_can_change_and_what_is_known_by_its_content_cannot(
    normalizer: Callable[..., Normalizer], fetched: int
) -> None:
    records = [b'{"id":"1","created_at":"2026-05-11T08:15:01Z"}', b'{"id":2}', b"{}", b"[1]", b"no"]
    page = normalizer("jitsudo").identify(records, fetched)
    assert [bool(content) for content in page.content] == [True, True, False, False, False]
    assert [each.hex() for each in page.sha256] == page.raw_sha256(range(5))


def test_no_setting_of_redaction_changes_the_content_that_a_record_is_known_by(
    normalizer: Callable[..., Normalizer], fetched: int
) -> None:
    records = [b'{"id":"1","token":"hush","created_at":"2026-05-11T08:15:01Z","reasoning":"a"}']
    contents = [
        normalizer("jitsudo", **settings).identify(records, fetched).content
        for settings in ({}, {"redact": "off"}, {"redact": ["reasoning"]})
    ]
    assert contents[0] == contents[1] == contents[2] != [b""]
