"""What two records of one event say differently, and what is only spelt in another way."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditrelay.events import Change
from auditrelay.events.changes import MAX_FIELDS, changed_fields

TIME = "2026-05-11T08:15:01"

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


def fields(before: Any, after: Any) -> list[str]:
    found = changed_fields(json.dumps(before).encode(), json.dumps(after).encode())
    return [each.field for each in found]


def turned(value: Any) -> Any:
    """Return *value* with its keys in the opposite order."""
    if isinstance(value, dict):
        return {key: turned(value[key]) for key in reversed(value)}
    return [turned(each) for each in value] if isinstance(value, list) else value


@given(values)
def test_the_same_in_another_order_and_other_spelling_is_no_change(value: Any) -> None:
    text = json.dumps(value, indent=1).encode()
    again = json.dumps(turned(value), ensure_ascii=False).encode("utf-8", "surrogatepass")
    assert changed_fields(text, again.decode("utf-8", "replace").encode()) == ()


@given(values, values)
def test_what_differs_has_a_field_and_what_does_not_has_none(one: Any, other: Any) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert bool(fields(one, other)) == (not same)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"1", b"1.0"),
        (b"1", b"1e0"),
        (b"100", b"1E+2"),
        (b"-0", b"0.0"),
        (b"0.10", b"0.1"),
        (b'"a/\\u00e9"', b'"a\\/\xc3\xa9"'),
        *(
            (f'"{TIME}{a}"'.encode(), f'"{TIME}{b}"'.encode())
            for a, b in (
                (".990Z", ".990052Z"),
                ("Z", ".412Z"),
                ("Z", "+00:00"),
                (".990052Z", ".990Z"),
                (".1Z", ".123456789Z"),
                (".990Z", ".989952Z"),
                ("Z", ""),
            )
        ),
    ],
)
def test_numbers_escapes_and_times_may_be_spelt_in_many_ways(one: bytes, other: bytes) -> None:
    assert changed_fields(b'{"a":%b}' % one, b'{"a":%b}' % other) == ()
    assert changed_fields(b'{"a":[%b]}' % one, b'{"a":[%b]}' % other) == ()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"1", b"true"),
        (b"0", b"false"),
        (b"0", b"null"),
        (b"1", b'"1"'),
        (b"1.0000000000000001", b"1"),
        (b"123456789012345678901", b"123456789012345678902"),
        (b"[1,2]", b"[2,1]"),
        (b"[1]", b"[1,null]"),
        (b'"grant.view"', b'"policy.delete"'),
        *(
            (f'"{a}"'.encode(), f'"{b}"'.encode())
            for a, b in (
                (f"{TIME}Z", "2026-05-11T08:15:02Z"),
                (f"{TIME}.123456Z", f"{TIME}.123457Z"),
                (f"{TIME}.123456789Z", f"{TIME}.923456789Z"),
                (f"{TIME}Z", f"{TIME}+01:00"),
                ("2026-05-11", "2026-05-11T00:00:30Z"),
                ("2026-05-11T08:15Z", f"{TIME}Z"),
            )
        ),
    ],
)
def test_another_value_is_a_change(one: bytes, other: bytes) -> None:
    [change] = changed_fields(b'{"a":%b}' % one, b'{"a":%b}' % other)
    assert change.field == "a"


def test_a_field_is_named_by_its_path_with_its_values_before_and_after() -> None:
    before = {"actor": {"role": "viewer"}, "gone": 1, "list": [1], "same": {"a": [1]}}
    after = {"same": {"a": [1]}, "actor": {"role": "admin"}, "list": [1, 2], "new": 2.5}
    assert changed_fields(json.dumps(before).encode(), json.dumps(after).encode()) == (
        Change("actor.role", '"viewer"', '"admin"'),
        Change("gone", "1", None),
        Change("list", "[1]", "[1, 2]"),
        Change("new", None, "2.5"),
    )


def test_names_and_values_are_bounded_and_harmless() -> None:
    wide = {f"k{number}": number for number in range(1000)}
    assert len(fields({}, wide)) == MAX_FIELDS
    [change] = changed_fields(b'{"a":1}', json.dumps({"a": "x" * 9000}).encode())
    assert (change.before, change.after) == ("1", None)
    assert fields({}, {"\x1b[2J\u202e" + "x" * 100: 1}) == ["\ufffd[2J\ufffd" + "x" * 55]
    deep = b'{"a":' * 190 + b"%d" + b"}" * 190
    assert [each.field for each in changed_fields(deep % 1, deep % 2)] == ["a.a.a.a"]
    assert changed_fields(b'"no object"', b"[]") == (Change("record", '"no object"', "[]"),)
    assert changed_fields(b'{"a":1}', b'{"a":1E400}')[0].after == '"1E+400"'
