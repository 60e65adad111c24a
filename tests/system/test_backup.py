"""A backup of the state taken while the service runs, restored: which events are sent again."""

import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.daemon import (
    Daemon,
    command,
    configure,
    eventually,
    intakes,
    missing,
    sinks,
    sources,
)

from auditrelay.sandbox import Sandbox

pytestmark = pytest.mark.process


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        now = datetime.now(UTC)
        for vendor in (sandbox.cekura, sandbox.bland):
            vendor.fill(50, now - timedelta(minutes=50), now - timedelta(minutes=1))
        yield sandbox


def back_up(state: Path, copy: Path) -> None:
    """Do what ``sqlite3 state.db ".backup copy"`` does."""
    with (
        closing(sqlite3.connect(state / "state.db")) as live,
        closing(sqlite3.connect(copy)) as target,
    ):
        live.backup(target)


def restore(copy: Path, state: Path) -> None:
    shutil.rmtree(state)
    state.mkdir(mode=0o700)
    shutil.copy(copy, state / "state.db")
    (state / "state.db").chmod(0o600)


async def backlog_is_empty(daemon: Daemon, *sinks: str) -> bool:
    left = [await daemon.metric("auditrelay_sink_backlog_events", sink=sink) for sink in sinks]
    return not any(left)


async def test_a_restored_backup_loses_nothing_and_repeats_what_came_after_it(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    config, copy = configure(tmp_path, sources(sandbox), sinks(sandbox)), tmp_path / "copy.db"
    async with Daemon(config) as daemon:
        await eventually(lambda: not missing(sandbox))
        # One sink is behind at the backup, which includes the events that wait for it.
        await sandbox.datadog.stop()
        sandbox.cekura.add(datetime.now(UTC))
        await eventually(lambda: missing(sandbox).keys() == {"datadog"})
        # Events stored by a sink but not yet recorded as delivered would also be sent again.
        await eventually(lambda: backlog_is_empty(daemon, "splunk", "elastic"))
        back_up(tmp_path / "state", copy)
        await sandbox.datadog.start()
        await eventually(lambda: not missing(sandbox), what="probed again, after a while")
        after = [sandbox.bland.add(datetime.now(UTC)) for _ in range(3)]
        await eventually(lambda: not missing(sandbox))
        assert await daemon.end() == 0
    assert all(stored.repeated() == {} for stored in intakes(sandbox).values())

    restore(copy, tmp_path / "state")
    sandbox.cekura.add(datetime.now(UTC))
    async with Daemon(config) as daemon:
        await eventually(lambda: not missing(sandbox), what="it continues")
        again = len(after) + 1  # and the one that waited for Datadog at the backup
        await eventually(lambda: len(sandbox.datadog.stored.repeated()) == again)
        await eventually(lambda: len(sandbox.splunk.stored.repeated()) == len(after))
        assert not daemon.logged("gap_declared")
        assert await daemon.end() == 0
    assert sandbox.elastic.stored.repeated() == {}, "it recognises them by their uid"
    for stored in (sandbox.splunk.stored, sandbox.datadog.stored):
        assert set(stored.repeated().values()) == {2}
    shown = await command(config, "status")
    assert shown.status == 0
