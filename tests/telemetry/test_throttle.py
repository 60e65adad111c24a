"""One line of a kind a minute."""

from auditrelay.telemetry.throttle import MOST_KINDS, SECONDS, Throttle


class Seconds:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_first_line_of_a_minute_is_written_and_says_how_many_were_held_back() -> None:
    seconds = Seconds()
    throttle = Throttle(seconds)
    assert [throttle.admit("full") for _ in range(4)] == [0, None, None, None]
    assert throttle.admit("other") == 0
    seconds.now = SECONDS - 0.001
    assert throttle.admit("full") is None
    seconds.now = SECONDS
    assert throttle.admit("full") == 4
    assert throttle.admit("full") is None
    seconds.now = 2 * SECONDS
    assert throttle.admit("full") == 1


def test_kinds_without_end_take_no_memory_without_end() -> None:
    throttle = Throttle(Seconds())
    for number in range(10 * MOST_KINDS):
        assert throttle.admit(f"kind {number}") == 0
    assert throttle.admit(f"kind {10 * MOST_KINDS - 1}") is None
    assert throttle.admit("kind 0") == 0
    assert len(vars(throttle)["_written"]) == MOST_KINDS
