"""A page of records is looked through at once for what Datadog does not take as attributes."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditrelay.events.forms.datadog import records

USUAL = b'{"id":"a","agent":"' + b"Mozilla " * 20 + b'","note":"[{: \\" ","n":1}'
ODD = {
    "long_key": b'{"' + b"k" * 50 + b'":1}',
    "long_key_and_space": b'{"' + b"k" * 50 + b'" :1}',
    "deep": b'{"a":' * 8 + b"1" + b"}" * 8,
    "many": orjson.dumps({f"key_{number}": number for number in range(201)}),
}
FINE = {
    "usual": USUAL,
    "shorter_key": b'{"' + b"k" * 49 + b'":1}',
    "long_text": b'{"a":"' + b"t" * 60 + b'","b":":"}',
    "long_text_with_a_colon": b'{"a":"' + b":" * 60 + b'"}',
    "levels": b'{"a":' * 7 + b"1" + b"}" * 7,
    "attributes": orjson.dumps({f"key_{number}": number for number in range(200)}),
    "short": b'{"":' + b"1" * 40 + b"}",
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_record_is_sent_as_a_text_and_those_beside_it_are_not(name: str) -> None:
    page = [USUAL, ODD[name], *FINE.values()]
    odd = orjson.dumps(ODD[name].decode())
    assert records(page) == [USUAL, odd, *FINE.values()]
    assert records([ODD[name]]) == [odd]


def test_records_within_the_limits_stay_as_they_are() -> None:
    assert records(list(FINE.values())) == list(FINE.values())
    assert records([]) == []


keys = st.text(st.sampled_from('ab"\\: \n{'), max_size=3) | st.integers(48, 52).map(
    lambda length: "k" * length
)
values = st.recursive(
    st.none() | keys | st.integers(-9, 9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(values.map(orjson.dumps), max_size=6))
def test_a_record_is_written_alike_alone_and_in_a_page(page: list[bytes]) -> None:
    assert records(page) == [text for record in page for text in records([record])]
