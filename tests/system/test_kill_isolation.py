"""
The daemon is killed while it sends events alone of which a receiver of OTLP has refused some.

Which they are is known in memory only. So after it they go together again, are refused again, and
go alone again: none is lost, and what is there more often than once was counted or in flight.
"""

import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.daemon import command, configure, made, sources
from tests.support.extent import extent
from tests.support.stores import explained
from tests.system.kill_at_write import KillAtWrite

from auditrelay.sandbox import Sandbox
from auditrelay.sandbox.siems.otlp import Otlp
from auditrelay.store.sqlite.store import open_view

pytestmark = pytest.mark.process

EVENTS = 12


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("number", extent((2, 5), range(1, 10)))
async def test_every_event_arrives_or_is_a_dead_letter_wherever_it_is_killed(
    tmp_path: Path, number: int, side: str
) -> None:
    async with Sandbox(only=["bland"], also=["otlp"]) as sandbox:
        now = datetime.now(UTC)
        sandbox.bland.fill(EVENTS, now - timedelta(minutes=50), now - timedelta(minutes=1))
        collector = sandbox.siems["collector"]
        assert isinstance(collector, Otlp)
        bad = sorted(made(sandbox))[3]
        collector.refuses = lambda record: f'"original_event_uid":"{bad}"' in str(record.body)
        sink = {**collector.settings(), "concurrency": 1, "linger": "1s"}
        config = configure(tmp_path, sources(sandbox, of=["bland"]), {"collector": sink})
        kill = KillAtWrite(tmp_path / "journal", "settle", number, side)
        ended = await command(config, "run", "--once", fault=kill)
        assert ended.status == -signal.SIGKILL, "it was not killed"
        ended = await command(config, "run", "--once")
        assert ended.status == 0, ended.stderr
        assert collector.stored.lost(made(sandbox)) == [bad]
        with open_view(tmp_path / "state") as view:
            [dead] = view.dead_letters()
        assert dead.letter.event.native_id == bad
        assert dead.letter.reason == "partial_success"
        # Together, and alone; and both once more if that was not written down.
        assert max(collector.stored.by_uid.values()) <= 4
        explained(tmp_path / "state")
