"""
The daemon is killed with SIGKILL while it sends to receivers that are described in files.

Nothing is lost; one that knows a uid again stores each event once, the others get again at most
what was in flight.
"""

import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemon import command, configure, sources
from tests.support.quill import Quill
from tests.system.kill_at_write import KillAtWrite

from auditrelay.sandbox import Sandbox, receivers

pytestmark = pytest.mark.process

BATCH = 5
CONCURRENCY = 2
EVENTS = 24
KINDS: dict[str, Any] = {
    "quill": Quill,
    **{name: receivers.available()[name] for name in ("axiom", "loki")},
}


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(only=["bland"]) as sandbox:
        now = datetime.now(UTC)
        sandbox.bland.fill(EVENTS, now - timedelta(minutes=20), now - timedelta(minutes=1))
        yield sandbox


@pytest.mark.parametrize(("number", "side"), [(2, "before"), (2, "after"), (6, "before")])
async def test_nothing_is_lost_wherever_it_is_killed(
    tmp_path: Path, sandbox: Sandbox, number: int, side: str
) -> None:
    async with AsyncExitStack() as stack:
        doubles: dict[str, Any] = {
            name: await stack.enter_async_context(kind()) for name, kind in KINDS.items()
        }
        common: dict[str, Any] = {
            "batch_events": BATCH,
            "concurrency": CONCURRENCY,
            "linger": "0s",
        }
        config = configure(
            tmp_path,
            sources(sandbox, of=["bland"], page_size=4, initial_lookback="1h"),
            {name: {**double.settings(), **common} for name, double in doubles.items()},
        )
        kill = KillAtWrite(config.with_name("journal"), "settle", number, side)
        killed = await command(config, "run", "--once", fault=kill)
        assert killed.status == -signal.SIGKILL, killed.stderr
        ended = await command(config, "run", "--once")
        assert ended.status == 0, ended.stderr
        made = set(sandbox.bland.known_ids())
        assert len(made) == EVENTS
        for name, double in doubles.items():
            assert set(double.stored.by_native_id) == made, name
            repeated = double.stored.repeated()
            assert len(repeated) <= (0 if name in ("quill", "loki") else BATCH * CONCURRENCY), name
