"""``auditrelay dead-letters``: how long it waits for the outcome of a replay."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.support.clock import FakeClock
from tests.support.stages import stage

from auditrelay.cli import dead_letters
from auditrelay.store.sqlite.store import open_view

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


async def test_a_replay_without_an_outcome_is_waited_for_a_minute_and_then_shown_as_going_on(
    tmp_path: Path,
) -> None:
    clock = FakeClock(NOW)
    async with stage(tmp_path, now=NOW) as staged:
        await staged.dead("splunk", 2)
        with open_view(staged.config.state_dir) as view:
            letters = view.dead_letters()
        await staged.store.replay([letters[0].id])
        outcomes = await dead_letters._outcomes(staged.config, clock, letters, ())
    assert [row.outcome for row in outcomes] == ["replaying", "refused_again"]
    assert sum(clock.waits) == pytest.approx(60, abs=0.5)
