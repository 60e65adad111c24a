"""Places: a log and a position as one number."""

from hypothesis import given
from hypothesis import strategies as st

from auditrelay.store.places import POSITION_BITS, log_of, place, position_of

POSITIONS = st.integers(0, (1 << POSITION_BITS) - 1)


@given(log=st.integers(0, (1 << 19) - 1), position=POSITIONS)
def test_a_place_is_a_log_and_a_position_in_64_bits(log: int, position: int) -> None:
    at = place(log, position)
    assert (log_of(at), position_of(at)) == (log, position)
    assert at < 1 << 63


@given(position=POSITIONS)
def test_in_log_0_a_place_is_its_position(position: int) -> None:
    assert place(0, position) == position


@given(log=st.integers(0, 1000), position=st.integers(0, (1 << POSITION_BITS) - 2))
def test_places_of_one_log_are_consecutive(log: int, position: int) -> None:
    assert place(log, position + 1) == place(log, position) + 1
