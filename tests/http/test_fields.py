"""A field of an answer means the same however it is spelt, and nothing else passes."""

from typing import Any

import msgspec
import pytest

from auditrelay.http.fields import Count, Flag, Link, read_cursor, read_field


class Answer(msgspec.Struct):
    count: Count | None = None
    more: Flag | None = None
    next: Link | msgspec.UnsetType | None = msgspec.UNSET


def read(**fields: Any) -> Answer:
    return msgspec.json.decode(msgspec.json.encode(fields), type=Answer, dec_hook=read_field)


@pytest.mark.parametrize("spelt", [7, 7.0, "7", "7.0", " 7 "])
def test_a_count_is_a_number_in_any_spelling(spelt: object) -> None:
    assert read(count=spelt).count == 7


@pytest.mark.parametrize(
    "wrong", [-1, 1.5, "many", "", True, [7], {}, 1e300, "1e300", "nan", "9" * 5000, 2**60]
)
def test_what_is_no_number_of_records_is_no_count(wrong: object) -> None:
    with pytest.raises(msgspec.ValidationError, match="count"):
        read(count=wrong)


@pytest.mark.parametrize(
    ("spelt", "meant"),
    [
        (True, 1),
        (1, 1),
        (1.0, 1),
        ("true", 1),
        ("True", 1),
        ("1", 1),
        (False, 0),
        (0, 0),
        (0.0, 0),
        ("false", 0),
        ("0", 0),
        ("", 0),
        ("null", 0),
    ],
)
def test_a_flag_is_yes_or_no_in_any_spelling(spelt: object, meant: int) -> None:
    assert read(more=spelt).more == meant


@pytest.mark.parametrize("wrong", ["no way", 2, -1, [], {}, [True]])
def test_what_is_neither_yes_nor_no_is_no_flag(wrong: object) -> None:
    with pytest.raises(msgspec.ValidationError, match="more"):
        read(more=wrong)


@pytest.mark.parametrize("none", [None, "", False, 0, 0.0])
def test_no_next_page_has_many_spellings(none: object) -> None:
    assert not read(next=none).next


@pytest.mark.parametrize("wrong", [7, True, [1], {"a": 1}])
def test_what_names_no_page_is_no_link(wrong: object) -> None:
    with pytest.raises(msgspec.ValidationError, match="next"):
        read(next=wrong)


def test_null_and_absence_stay_apart() -> None:
    assert read().next is msgspec.UNSET
    assert read(count=None, more=None, next=None) == Answer(None, None, None)


def test_a_field_of_another_type_is_a_bug_and_no_answer() -> None:
    with pytest.raises(NotImplementedError):
        read_field(complex, 1)


@pytest.mark.parametrize(
    ("spelt", "meant"),
    [
        ("a", "a"),
        (7, 7),
        (10**40, 10**40),
        (-1, -1),
        (["a", 7], ("a", 7)),
        (None, None),
        ("", None),
        (0, None),
        (False, None),
        ([], None),
    ],
)
def test_a_cursor_is_a_text_a_number_or_a_list(spelt: object, meant: object) -> None:
    assert read_cursor(spelt) == meant


@pytest.mark.parametrize("wrong", [1.5, True, {"a": 1}, [["a"]], ["a", None], ["a", ""], [1.5]])
def test_anything_else_is_no_cursor(wrong: object) -> None:
    with pytest.raises(ValueError, match="neither a text, nor a whole number, nor a list"):
        read_cursor(wrong)
