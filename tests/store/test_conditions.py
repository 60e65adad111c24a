"""Health as JSON: every field outlasts a restart, and what another version wrote is read."""

import json

import pytest

from auditrelay.store.conditions import (
    SinkCondition,
    SourceCondition,
    SourceFreshness,
    decode_condition,
    encode_condition,
    with_part,
)
from auditrelay.store.parts import Part

AT = "2026-01-10T12:00:00+00:00"


@pytest.mark.parametrize(
    "condition",
    [
        SourceCondition(),
        SourceCondition(up=True, since=AT, last_error="401 ü", silent=True, unknown_actions=7),
        SinkCondition(),
        SinkCondition(held=True, last_delivered_at=AT, breaker_reason="mapping"),
    ],
)
def test_what_is_saved_is_read_again(condition: SourceCondition | SinkCondition) -> None:
    text = encode_condition(condition)
    if isinstance(condition, SourceCondition):
        assert decode_condition(text, SourceCondition) == condition
    else:
        assert decode_condition(text, SinkCondition) == condition


def test_what_is_missing_or_odd_has_its_default_and_the_rest_is_read() -> None:
    assert decode_condition("{}", SourceCondition) == SourceCondition()
    odd = {"up": "yes", "held": True, "since": 5, "last_error": "401", "since_when": AT}
    read = decode_condition(json.dumps(odd), SourceCondition)
    assert read == SourceCondition(held=True, last_error="401")


@pytest.mark.parametrize("new", [{}, {"breaker_reason": None}])
def test_the_reason_of_an_open_breaker_is_read_by_its_first_name(new: dict[str, None]) -> None:
    saved = {
        "flood": "mapping",
        **new,
    }
    assert decode_condition(json.dumps(saved), SinkCondition).breaker_reason == "mapping"
    saved["breaker_reason"] = "too_large"
    assert decode_condition(json.dumps(saved), SinkCondition).breaker_reason == "too_large"


def part_condition(**changes: object) -> str:
    return encode_condition(SinkCondition(**changes))  # type: ignore[arg-type]  # its fields


def test_a_sink_is_as_its_worst_part_is() -> None:
    whole = encode_condition(SinkCondition(up=True))
    later = "2026-01-10T13:00:00+00:00"
    for number, text in enumerate(
        (
            part_condition(up=True, since=AT, last_delivered_at=later),
            part_condition(held=True, since=later, last_error="401", error_code="refused"),
            part_condition(up=True, since=AT, last_error="slow", breaker_reason="mapping"),
        )
    ):
        whole = with_part(whole, Part(number, 3), text)
    assert decode_condition(whole, SinkCondition) == SinkCondition(
        held=True,
        since=later,
        last_delivered_at=later,
        last_error="401",
        error_code="refused",
        breaker_reason="mapping",
    )
    whole = with_part(whole, Part(1, 3), part_condition(since=AT, last_error="reset"))
    read = decode_condition(whole, SinkCondition)
    assert (read.up, read.held, read.last_error, read.since) == (False, False, "reset", AT)
    whole = with_part(whole, Part(1, 3), part_condition(up=True, unproven=True))
    read = decode_condition(whole, SinkCondition)
    assert (read.up, read.last_error, read.unproven) == (True, "slow", True)


def test_what_parts_of_another_number_were_is_over() -> None:
    whole = with_part("{}", Part(1, 2), part_condition(held=True, last_error="401"))
    whole = with_part(whole, Part(0, 3), part_condition(up=True))
    assert decode_condition(whole, SinkCondition) == SinkCondition(up=True)
    odd = json.dumps({"parts": {"1/3": 5, "2/3": {"held": "yes"}}})
    read = decode_condition(with_part(odd, Part(0, 3), part_condition(up=True)), SinkCondition)
    assert (read.up, read.held) == (False, False), "of the second nothing is known"
    assert decode_condition(with_part('{"parts": 1}', Part(0, 3), "{}"), SinkCondition)


def test_events_arrive_at_a_sink_as_late_as_at_its_slowest_part() -> None:
    slow = SourceFreshness("voice", 30.0, 40.0, 5, AT)
    fast = SourceFreshness("voice", 20.0, 60.0, 7, AT)
    other = SourceFreshness("calls", 1.0, 2.0, 3, AT)
    whole = with_part("{}", Part(0, 2), part_condition(freshness=(slow, other)))
    whole = with_part(whole, Part(1, 2), part_condition(freshness=(fast,)))
    assert decode_condition(whole, SinkCondition).freshness == (
        other,
        SourceFreshness("voice", 30.0, 60.0, 12, AT),
    )
