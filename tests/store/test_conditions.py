"""Health as JSON: every field outlasts a restart, and what another version wrote is read."""

import json

import pytest

from auditrelay.store.conditions import (
    SinkCondition,
    SourceCondition,
    decode_condition,
    encode_condition,
)

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
