"""Redaction and pseudonyms take time in proportion to the text, whatever it is."""

import base64
import json
import time
from collections.abc import Callable

import pytest

from auditrelay.events.normalize import Normalizer, vendor_named
from auditrelay.events.redact import Redactor

UNITS = [
    *('"', ":", "a", '"a', "token", "token=", "token: ", "a=b&", "a:", "=", " ", "\\", '\\"'),
    *(
        "://",
        "://x@",
        "x@",
        "?",
        "?a",
        "https://h/?a=b&",
        "-u a:",
        " -u ",
        " -p",
        "mysql",
        "Bearer ",
    ),
    *(
        "{",
        "[",
        "<a>",
        "<",
        "</",
        "eyJ",
        "eyJ.",
        "eyJaaaaaaa.",
        "-----BEGIN ",
        "-----BEGIN A KEY-----",
    ),
    *("AKIA", "sk_live_", "a.", "a-", "_", "%41", "password: {", "token:{", "cookie: a=b; ", "a;"),
    *(
        "\u0440",
        "\\u0041",
        "'",
        "'token': ",
        "SG.aaaaaaaaaaaa",
        "Authorization: Basic ",
        "\n",
        "A ",
    ),
]
SMALL = 3_000
MORE = 8
FLOOR = 0.02
"""Seconds; less is noise."""


def taken(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def grows_in_proportion(work: Callable[[str], object], unit: str, start: str = "") -> None:
    """
    Assert that a text of *unit*s that is MORE times longer does not take much longer than that.

    Quadratic work would take MORE times as much again.
    """
    short, long = (start + unit * (length // len(unit)) for length in (SMALL, SMALL * MORE))
    small = taken(lambda: work(short))
    assert taken(lambda: work(long)) < MORE * 4 * max(small, FLOOR)


@pytest.mark.parametrize("unit", UNITS, ids=repr)
def test_no_text_makes_redaction_slow(unit: str) -> None:
    redactor = Redactor("default", frozenset())

    def redact(text: str) -> None:
        redactor.text(text)
        for value in (text, "{" + text, '{"' + text):
            record = {"a": {"b": value}}
            redactor.record(record, json.dumps(record).encode())

    grows_in_proportion(redact, unit)
    grows_in_proportion(redact, unit, "token: {")


@pytest.mark.parametrize("unit", UNITS, ids=repr)
def test_no_text_makes_the_search_of_a_page_slow(unit: str) -> None:
    redactor = Redactor("default", frozenset())

    def search(text: str) -> None:
        page = json.dumps({"a": text, "b": " = :// \\ </ eyJ: -u"}).encode()
        redactor.spares_texts(page, page.decode(), redactor.searches(page))

    grows_in_proportion(search, unit)


@pytest.mark.parametrize(
    "record",
    [
        {"a" * 500_000: [[] for _ in range(100_000)]},
        {f"sk_live_abcdef{number}": 1 for number in range(30_000)},
        {"list": ["Authorization", "x1234567"] * 50_000},
    ],
    ids=["long key", "tokens as keys", "headers"],
)
def test_no_shape_of_a_record_makes_redaction_slow(record: dict[str, object]) -> None:
    redactor = Redactor("default", frozenset())
    assert taken(lambda: redactor.record(record, b"sk_live_")) < 5


def test_pairs_in_pairs_are_looked_through_once() -> None:
    node: object = ["a1b2c3d4"] * 20_000
    for _ in range(80):
        node = {"name": "token", "value": node}
    redactor = Redactor("default", frozenset())
    assert taken(lambda: redactor.record(node, b"{}")) < 3


def test_json_in_base64_in_json_does_not_exhaust_the_stack() -> None:
    text = "x"
    for _ in range(12):
        deep = "[" * 150 + json.dumps(text) + "]" * 150
        text = base64.b64encode(f'{{"a":{deep}}}'.encode()).decode()
    record = {"a": text, "b": f'{{"a": "{text}"}}'}
    Redactor("default", frozenset()).record(record, json.dumps(record).encode())


def test_a_page_of_a_megabyte_of_colons_is_read_at_once() -> None:
    normalize = Normalizer(
        vendor=vendor_named("bland"), source="s", api_host="h", scope="o", redact="default", tags={}
    )
    for text in (b'{"id":"' + b":" * 1_000_000, b'{"id":1,"a":"{' + b":" * 1_000_000 + b'"}'):
        assert taken(lambda: normalize([text], 1)) < 4  # noqa: B023  # called at once
