"""No record, however it is made, costs more than itself."""

import json
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.extent import extent
from tests.support.records import USUAL

from auditrelay.events import AuditEvent
from auditrelay.events.normalize import Normalizer, available, vendor_named

NORMALIZERS = {
    vendor: Normalizer(
        vendor=vendor_named(vendor), source="s", api_host="h", scope="o", redact="default", tags={}
    )
    for vendor in available()
}
One = Callable[..., AuditEvent]


def within_each_other(levels: int, texts: int, opening: str = "[", closing: str = "]") -> str:
    """Return a JSON text with so many levels of brackets, in a text with as many, and so on."""
    text = "x"
    for _ in range(texts):
        text = opening * levels + json.dumps(text) + closing * levels
    return text


@pytest.mark.parametrize("vendor", USUAL)
@pytest.mark.parametrize("shape", [("[", "]"), ('{"a":', "}"), ('{"a":["x",', "]}")])
@pytest.mark.parametrize(
    ("levels", "texts"), [(1, 4), (40, 4), (200, 1), (200, 5), (254, 3), (100, 9), (1, 12), (30, 8)]
)
def test_texts_in_each_other_count_together(
    vendor: str, shape: tuple[str, str], levels: int, texts: int, one: One
) -> None:
    text = within_each_other(levels, texts, *shape)
    for record in (USUAL[vendor] | {"extra": text}, USUAL[vendor] | {"metadata": {"x": text}}):
        assert one(record, vendor).native_id == str(USUAL[vendor]["id"])


def test_a_secret_in_texts_that_are_too_deep_in_each_other_is_redacted_as_in_a_text(
    one: One,
) -> None:
    text = json.dumps({"password": "hush"})
    for levels in (1, 3, 250):
        deep = "[" * levels + json.dumps(text) + "]" * levels
        for _ in range(3):
            deep = json.dumps([deep])
        event = one({"id": "1", "metadata": {"note": deep}})
        assert b"hush" not in bytes(event.raw)
        assert b"hush" not in bytes(event.metadata)


@pytest.mark.slow
@pytest.mark.parametrize("inside", ["record", "text"])
@pytest.mark.parametrize("keys", [["a"], ["a", "b"], ["a", "a#1"]])
def test_a_key_that_stands_a_million_times_costs_what_its_bytes_cost(
    inside: str, keys: list[str], one: One
) -> None:
    pairs = ",".join([f'"{key}":1' for key in keys] * (200_000 // len(keys)))
    text = '{"id":"1",' + pairs + "}"
    record = text.encode() if inside == "record" else json.dumps({"id": "1", "x": text}).encode()
    began = time.process_time()
    event = one(record)
    assert event.native_id == "1"
    assert time.process_time() - began < 5, "quadratic: it took minutes"


@st.composite
def deep_texts(draw: st.DrawFn) -> str:
    """Draw JSON in a text in JSON, and so on, up to 64 kB."""
    text = draw(st.sampled_from(["x", "password=x", '{"token":"x"}', "[["]))
    for _ in range(draw(st.integers(0, 12))):
        levels = draw(st.sampled_from([0, 1, 2, 30, 99, 100, 199, 200, 201, 254, 255, 1100]))
        opening, closing = draw(st.sampled_from([("[", "]"), ('{"a":', "}"), ('{"key":[', "]}")]))
        wrapped = opening * levels + json.dumps(text) + closing * levels
        if len(wrapped) > 64_000:
            break
        text = wrapped
    return text


@pytest.mark.parametrize("vendor", USUAL)
@given(text=deep_texts(), field=st.sampled_from(["metadata", "user", "id", "reasoning", "new"]))
@settings(deadline=None, max_examples=extent(20, 100))
def test_no_text_in_a_record_is_too_deep(vendor: str, text: str, field: str) -> None:
    normalize = NORMALIZERS[vendor]
    usual = json.dumps(USUAL[vendor])
    for value in (json.dumps(text), text):
        odd = f'{usual[:-1]},"{field}":{value}}}'.encode()
        events = normalize([usual.encode(), odd, usual.encode()], 5)
        assert len(events) == 3
        assert events[0] == events[2]
