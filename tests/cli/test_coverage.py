"""``auditrelay coverage``: the spans say which time they are of."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from auditrelay.cli.coverage import _json, _print
from auditrelay.store import Coverage, Span
from auditrelay.window import Interval

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def known() -> Coverage:
    spans = (Span(Interval(NOON, NOON + timedelta(hours=1)), events=7),)
    return Coverage(spans, (), None, (), 0)


@pytest.mark.parametrize(
    ("axis", "line"),
    [
        ("event", "acme: 2026-03-01 12:00:00Z to 2026-03-01 13:00:00Z, 7 events"),
        (
            "recorded",
            "acme: recorded from 2026-03-01 12:00:00Z to 2026-03-01 13:00:00Z, 7 events",
        ),
    ],
)
def test_spans_of_the_recorded_time_say_so(
    capsys: pytest.CaptureFixture[str], known: Coverage, axis: str, line: str
) -> None:
    _print("acme", known, None, axis)
    assert capsys.readouterr().out.splitlines()[0] == line
    assert json.loads(json.dumps(_json("acme", known, None, axis)))["axis"] == axis
