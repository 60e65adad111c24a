"""The depth of JSON is seen without decoding it."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from auditrelay.events.forms.nesting import deeper_than

texts = st.text(st.sampled_from('{}[]()"\\: a\n') | st.characters(codec="utf-8"), max_size=8)
values = st.recursive(
    st.none() | texts | st.integers(-9, 9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=20,
)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


@given(value=values, limit=st.integers(0, 6))
@example(value="{", limit=0)
def test_json_is_deeper_than_a_limit_or_not(value: Any, limit: int) -> None:
    for text in (orjson.dumps(value), json.dumps(value, indent=1).encode()):
        assert deeper_than(limit, text) == (depth(value) > limit)


@pytest.mark.parametrize("levels", [1, 7, 200])
def test_the_deepest_of_many_counts(levels: int) -> None:
    inner = b"[" * levels + b"]" * levels
    text = b'{"a":[],"b":' + inner + b',"c":{}}'
    assert deeper_than(levels, text)
    assert not deeper_than(levels + 1, text)
