"""What comes of a record is the same, whether it is read with its page or with care, alone."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.cases import case
from tests.support.extent import extent
from tests.support.records import USUAL, variants

from auditrelay.events import AuditEvent
from auditrelay.events.careful import CarefulReader
from auditrelay.events.decode import decode
from auditrelay.events.gate import Gate
from auditrelay.events.normalize import Normalizer, vendor_named
from auditrelay.events.redact import Redactor

MODES: dict[str, Any] = {"default": "default", "off": "off", "globs": ["*name*", "token", "x"]}
USUAL_TEXT = b'{"id":1,"timestamp":"2026-11-20T09:31:07Z"}'

Make = Callable[..., Normalizer]


def with_care(normalize: Normalizer, records: list[bytes]) -> list[AuditEvent]:
    """Return the events of *records*, each read with care."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Gate, "decode", lambda _, texts: [None] * len(texts))
        return list(normalize(records, 5))


@pytest.fixture
def nothing_odd(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: CarefulReader, record: bytes, *_args: object) -> None:
        raise AssertionError(f"{record!r} is taken to be odd")

    monkeypatch.setattr(CarefulReader, "__call__", refuse)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("vendor", USUAL)
def test_a_page_of_all_sorts_is_read_as_each_record_is_alone(
    vendor: str, mode: str, normalizer: Make
) -> None:
    normalize = normalizer(vendor, redact=MODES[mode])
    records = list(variants(vendor))
    assert list(normalize(records, 5)) == with_care(normalize, records)
    for record in records:
        assert list(normalize([record], 5)) == with_care(normalize, [record])
    usual = [record for record in records if Gate.decode(normalize._gate, [record])[0]]
    assert list(normalize(usual, 5)) == with_care(normalize, usual)
    assert usual or mode == "globs"


@pytest.mark.usefixtures("nothing_odd")
@pytest.mark.parametrize("vendor", USUAL)
@pytest.mark.parametrize(
    "text",
    [
        "see https://acme.example/a/b?page=2&sort=name",
        'said "hello"\n\tand C:\\temp',
        "a=b; c:d @e {not json}",
        "Zoë \u2028 \U0001f600",
    ],
)
def test_addresses_and_backslashes_are_usual(vendor: str, text: str, normalizer: Make) -> None:
    usual = USUAL[vendor]
    fields = {"cekura": "project_name", "slaunch": "event"}
    record = {**usual, fields.get(vendor, "resource_type"): text}
    if vendor != "cekura":
        record["metadata"] = {"note": text, "list": [text, {"x": None}]}
    for spacing in ((",", ":"), (", ", ": ")):
        normalize = normalizer(vendor)
        for _ in range(2):
            lines = [json.dumps(record, ensure_ascii=False, separators=spacing).encode()]
            [event] = normalize(lines, 5)
            assert bytes(event.raw) == lines[0]


@pytest.mark.usefixtures("nothing_odd")
@pytest.mark.parametrize("vendor", USUAL)
def test_a_field_that_a_vendor_adds_to_its_records_is_usual(vendor: str, normalizer: Make) -> None:
    record = USUAL[vendor] | {"trace": {"request": "r-1", "hops": [1, 2.5]}, "shard": None}
    text = json.dumps(record, separators=(",", ":")).encode()
    for _ in range(2):
        events = normalizer(vendor)([text, json.dumps(USUAL[vendor]).encode()], 5)
        unmapped = json.loads(bytes(events[0].unmapped))
        assert (unmapped["trace"], unmapped["shard"]) == (record["trace"], None)
        assert bytes(events[0].raw) == text


@pytest.mark.parametrize("vendor", [each for each in USUAL if "metadata" in USUAL[each]])
@pytest.mark.parametrize("more", [{}, {"added": 1}])
def test_details_that_are_a_long_text_are_warned_of(
    vendor: str, more: dict[str, Any], normalizer: Make
) -> None:
    record = USUAL[vendor] | more | {"metadata": "x" * 9000}
    text = json.dumps(record, separators=(",", ":")).encode()
    normalize = normalizer(vendor)
    for records in ([text], [text, json.dumps(USUAL[vendor]).encode()]):
        events = list(normalize(records, 5))
        assert "shortened" in events[0].warnings
        assert events == with_care(normalize, records)


@pytest.mark.parametrize(
    "pieces",
    [
        [b'{"id":1,"timestamp":"2026-11-20T09:31:07Z"', b'"user":2}'],
        [b'{"id":1,"timestamp":"2026-11-20T09:31:07Z"}\n{"id":2}', b""],
        [b'{"id":1,\n"timestamp":"2026-11-20T09:31:07Z"', b"}"],
        [USUAL_TEXT[:8], USUAL_TEXT[8:], USUAL_TEXT + USUAL_TEXT],
        [USUAL_TEXT[:8], USUAL_TEXT[8:] + USUAL_TEXT],
        [USUAL_TEXT + USUAL_TEXT],
        [b'{"id":1,"timestamp":"2026-11-20T09:31:07Z","user":', b"2}"],
    ],
)
def test_two_odd_texts_do_not_make_up_a_usual_one(pieces: list[bytes], normalizer: Make) -> None:
    normalize = normalizer("cekura")
    events = list(normalize(pieces, 5))
    assert events == with_care(normalize, pieces)
    assert len(events) == len(pieces)


def spelled(draw: st.DrawFn, value: Any, odd: bool) -> str:
    """Return *value* as JSON in one of the ways in which it can be written."""
    space = draw(st.sampled_from(["", "", " ", "\n"])) if odd else ""
    if isinstance(value, dict):
        items = [
            f"{spelled(draw, key, odd)}{space}:{spelled(draw, item, odd)}"
            for key, item in value.items()
        ]
        if odd and items and draw(st.booleans()):
            items.append(draw(st.sampled_from(items)))
        return "{" + space + f",{space}".join(items) + "}"
    if isinstance(value, list):
        return "[" + f"{space},".join(spelled(draw, item, odd) for item in value) + "]"
    if isinstance(value, str) and odd:
        return '"' + "".join(character(draw, each) for each in value) + '"'
    if isinstance(value, int | float) and not isinstance(value, bool) and odd:
        forms = [json.dumps(value), f"{value}e0", f"{value}.0", f"{value}00e-2", f"-{value}"]
        return draw(st.sampled_from(forms))
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def character(draw: st.DrawFn, each: str) -> str:
    plain = json.dumps(each, ensure_ascii=False)[1:-1]
    escaped = json.dumps(each)[1:-1]
    coded = "".join(
        f"\\u{unit:04X}" for unit in memoryview(each.encode("utf-16-le", "surrogatepass")).cast("H")
    )
    return draw(st.sampled_from([plain, plain, plain, escaped, coded, f"{plain}"]))


texts = st.text(
    st.sampled_from('ab0:/@?&;#=%\\"{}[]\n\x01é\u2028\ud800 ') | st.characters(), max_size=12
) | st.sampled_from(
    ["2026-11-20T09:31:07Z", "https://a/?token=b", "://a@b", '{"token":"b"}', ' ["a"]', "password"]
)
simple = (
    texts | st.integers() | st.none() | st.booleans() | st.sampled_from([100, 10**15, 1e2, 2.5])
)
details = st.recursive(
    simple,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "value", "before", "token", "x", "email"]) | texts,
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@st.composite
def pages(draw: st.DrawFn, vendor: str) -> list[bytes]:
    """Draw a page of records that are usual, or nearly so."""
    usual = USUAL[vendor]
    records = []
    for _ in range(draw(st.integers(1, 3))):
        changed = {
            field: draw(details if field == "metadata" else simple)
            for field in draw(st.lists(st.sampled_from(sorted(usual)), max_size=3, unique=True))
        }
        record = {**usual, **changed}
        for field in draw(st.lists(st.sampled_from(sorted(usual)), max_size=2)):
            record.pop(field, None)
        odd = draw(st.sampled_from([False, False, True]))
        records.append(spelled(draw, record, odd).encode("utf-8", "surrogatepass"))
    return records


@pytest.mark.slow
@pytest.mark.parametrize("vendor", USUAL)
@given(data=st.data())
@settings(deadline=None, max_examples=extent(24, 200))
def test_however_a_record_is_written_both_ways_agree(vendor: str, data: st.DataObject) -> None:
    records = data.draw(pages(vendor))  # which takes longer than to read them in every mode
    for mode, redact in MODES.items():
        with case(mode):
            normalize = Normalizer(
                vendor=vendor_named(vendor),
                source="s",
                api_host="h",
                scope="o",
                redact=redact,
                tags={},
            )
            # The second time its keys are known to be harmless.
            for _ in range(2):
                assert list(normalize(records, 5)) == with_care(normalize, records)


@pytest.mark.slow
@pytest.mark.parametrize("vendor", ["bland", "cekura", "cencori", "jitsudo"])
@given(data=st.data())
@settings(deadline=None, max_examples=extent(20, 200))
def test_what_the_lengths_prove_is_true(vendor: str, data: st.DataObject) -> None:
    module = vendor_named(vendor)
    gate = Gate(module, module.identity, Redactor("off", module.fields))
    for text in [record.strip() for record in data.draw(pages(vendor))]:
        [found] = gate.decode([text])
        if type(found) is not module.record:  # it is looked into as a whole, later
            continue
        decoded = decode(text)
        assert decoded.verbatim or b"metadata" in text
        for name, value in decoded.value.items():
            if name != "metadata":
                assert getattr(found, name) == value


@pytest.mark.parametrize("mode", MODES)
@given(value=details)
@settings(deadline=None, max_examples=extent(60, 200))
def test_what_redaction_spares_it_would_not_change(mode: str, value: Any) -> None:
    redactor = Redactor(MODES[mode], frozenset(("metadata",)))
    try:
        text = json.dumps({"metadata": value}, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return
    for _ in range(2):
        searches = redactor.searches(text)
        spared = redactor.spares_values(value) and redactor.spares_texts(
            text, text.decode(), searches
        )
        assert redactor.spares_values(value) or not redactor.spares_page([value])
        changed = redactor.record({"metadata": json.loads(text)}, text)
        assert not (spared and changed)
