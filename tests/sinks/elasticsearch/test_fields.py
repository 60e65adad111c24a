"""No document is refused for the sake of a key or a value that a vendor has chosen."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import make_event
from tests.support.clock import FakeClock

from auditrelay.events import Change
from auditrelay.events.forms.fields import acceptable
from auditrelay.events.normalize import Normalizer, vendor_named
from auditrelay.events.page import Page
from auditrelay.events.vendors import MAX_TEXT_LENGTH
from auditrelay.sandbox.messages import Request
from auditrelay.sandbox.siems.elasticsearch import Elastic
from auditrelay.sinks import elasticsearch
from auditrelay.telemetry.metrics import Metrics

NOON = 1_767_268_800 * 10**6

ODD_KEYS = [
    *("a\0b", "\0", "a\0", "", " ", ".", "..", "...", ".a", "a.", "a..b", " .a", "a. ", "a. .b"),
    *("\t", "a.\n", "\u3000", "\u2003.x", "k" * 9000, "k" * 60_000, "." * 500, "a." * 30 + "a"),
    *(
        "\ud800",
        "a\\",
        "\u2028",
        "\x1f.",
        '"',
        "#1",
        "rewritten",
        "x" * 40_000 + "\0",
        "\0" * 6000,
        "a." * 12_000,
    ),
]
ODD_VALUES = [
    *(
        "9" * 1001,
        "-" + "9" * 3999,
        "1" * 999 + ".5",
        "0." + "0" * 2000 + "1",
        "1e400",
        "-1E-99999",
    ),
    *('"%s"' % ("\U0001f600" * 8191), '"\\ud83d"', "NaN", "[[[[[1]]]]]", '""', '{"":{"":{"":1}}}'),
    *(
        "[" * 30 + "]" * 30,
        '{"a":' * 25 + "1" + "}" * 25,
        '"%s"' % ("x" * 40_000),
        '[{"\\u0000":1}]',
    ),
]


def sink(form: str = "ecs", **keys: Any) -> elasticsearch.Sink:
    settings = elasticsearch.Settings.model_validate(
        {"type": "elasticsearch", "urls": ["https://es.example"], "format": form, **keys}
    )
    return elasticsearch.build("elastic", settings, Metrics(), FakeClock())


def events(*records: str) -> Page:
    normalizer = Normalizer(
        vendor=vendor_named("bland"),
        source="voice",
        api_host="",
        scope="",
        redact="default",
        tags={"a.b": "c"},
    )
    return normalizer([record.encode("utf-8", "surrogatepass") for record in records], NOON)


def record(number: int, member: str, **others: Any) -> str:
    fields = {"id": str(number), "event_type": "x", "created_at": "2026-01-01T00:00:00Z", **others}
    return json.dumps(fields)[:-1] + f",{member}}}"


def refused(page: Page, form: str = "ecs") -> list[tuple[str, str]]:
    """Return the error of each event of *page* that the strict double refuses."""
    double = Elastic()
    double.security = False
    body = b"".join(each.text + b"\n" for each in sink(form).render(page, NOON))
    headers = {"content-type": "application/x-ndjson"}
    reply = double.respond(Request(1, "POST", "/_bulk", "/_bulk", {}, headers, body, 0.0))
    items = [each["create"] for each in orjson.loads(reply.body)["items"]]
    assert len(items) == len(page)
    return [(each["error"]["type"], each["error"]["reason"]) for each in items if "error" in each]


@pytest.mark.parametrize("form", ["ecs", "raw", "ocsf", "cim", "datadog"])
@pytest.mark.parametrize("key", ODD_KEYS, ids=lambda key: ascii(key[:12]))
def test_an_odd_key_keeps_no_event_out(key: str, form: str) -> None:
    inner = json.dumps({key: {key: 1, "b": "c"}})
    members = [f'"metadata":{inner}', inner[1:-1], f'"metadata":{{"x":[{inner}]}}']
    page = events(*[record(number, member) for number, member in enumerate(members)])
    assert refused(page, form) == []


@pytest.mark.parametrize("form", ["ecs", "raw", "ocsf"])
@pytest.mark.parametrize("value", ODD_VALUES, ids=lambda value: value[:12])
def test_an_odd_value_keeps_no_event_out(value: str, form: str) -> None:
    for member in (f'"metadata":{{"a":{value}}}', f'"metadata":{value}', f'"novel":{value}'):
        assert refused(events(record(1, member)), form) == []


def test_a_changed_field_of_a_name_as_long_as_can_be_keeps_no_event_out() -> None:
    longest = "\U0001f600" * MAX_TEXT_LENGTH
    changes = (Change(longest, longest, None), Change("\0", None, longest))
    assert refused(Page.of([make_event(1, changes=changes)])) == []


texts = st.text(st.sampled_from("a. \0\t_#1é\u3000\ud800"), max_size=6)
numbers = st.integers() | st.floats() | st.sampled_from([10**1001, 10**3999, -(10**1500)])
values = st.recursive(
    st.none() | st.booleans() | numbers | texts | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=30,
)


@given(st.lists(st.tuples(values, st.dictionaries(texts, values, max_size=3)), min_size=1))
def test_no_document_is_refused_for_a_keys_or_a_values_sake(records: list[Any]) -> None:
    page = events(
        *[
            json.dumps(
                {**more, "id": number, "created_at": "2026-01-01T00:00:00Z", "metadata": metadata}
            )
            for number, (metadata, more) in enumerate(records)
        ]
    )
    assert refused(page) == []


@given(values)
def test_what_is_rewritten_is_accepted_and_stays_so(value: Any) -> None:
    [text] = events(record(1, f'"metadata":{json.dumps({"a": value})}')).metadata
    assert text is not None
    once = acceptable(text.encode())
    assert acceptable(once) == once


def test_what_was_done_is_marked_and_the_original_is_kept() -> None:
    text = record(1, '"metadata":{"a\\u0000b":1,"a\\ufffdb":2,"n":%s}' % ("7" * 1500))
    [rendered] = sink().render(events(text), NOON)
    document = json.loads(rendered.text.split(b"\n")[1])
    metadata = document["bland"]["audit"]["metadata"]
    assert metadata.pop("rewritten").startswith("some keys or numbers that Elasticsearch refuses")
    assert metadata == {"a\ufffdb": 1, "a\ufffdb#1": 2, "n": "7" * 1500}
    assert document["event"]["original"] == text


def test_an_object_that_is_accepted_stays_as_it_is() -> None:
    for text in (b'{"a.b":1,"c":"ends with a dot."}', b'{"v":1.10,"w":1e-7}', b'{"a":".."}'):
        assert acceptable(text) is text


def test_a_dot_and_a_space_are_seen_though_they_are_escaped() -> None:
    odd = r'"a\u002e":1,"\u0020" :2,"\t":3,"b."  :4'
    assert refused(events(record(1, odd)), "raw") == []


def test_many_keys_that_become_one_take_no_time() -> None:
    keys = ["".join("\0\ufffd"[n >> bit & 1] for bit in range(13)) for n in range(2**13)]
    found = orjson.loads(acceptable(orjson.dumps(dict.fromkeys(keys, 1))))
    assert len(found) == len(keys) + 1
