# ruff: noqa: ASYNC240  # a test may look at a small file from the loop
"""Whatever lies in a drop folder, no file costs more than itself."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.daemon import FAST, Daemon, configure, eventually, missing, sinks, sources

from auditrelay.sandbox import Sandbox

pytestmark = pytest.mark.process

OLD = time.time() - 3600


async def test_odd_files_cost_neither_the_process_nor_another_source(tmp_path: Path) -> None:
    drop = tmp_path / "drop"
    drop.mkdir()
    async with Sandbox() as sandbox:
        now = datetime.now(UTC)
        sandbox.cekura.fill(5, now - timedelta(minutes=30), now)
        exporter = sandbox.cencori
        exporter.fill(3, now - timedelta(days=1), now - timedelta(hours=1))
        os.rename(exporter.drop(drop, "json"), os.fsencode(drop) + b"/pr\xfcfung.json")  # noqa: PTH104
        odd = [b"audit-log-acme-24h-9999-12-31.csv", b"audit-log-acme-90d-0001-01-01.csv"]
        for name in (*odd, b"\xff\x1b[2J.json", b"nothing.csv"):
            Path(os.fsdecode(os.fsencode(drop) + b"/" + name)).write_bytes(b"")
        (drop / "link.csv").symlink_to("/etc/passwd")
        for path in drop.iterdir():
            os.utime(path, (OLD, OLD), follow_symlinks=False)
        tables = sources(sandbox, of=["cekura"])
        tables["files"] = {**exporter.file_settings(drop), **FAST, "resweep": []}
        async with Daemon(configure(tmp_path, tables, sinks(sandbox))) as daemon:
            await eventually(lambda: not missing(sandbox), what="the exports' rows, too")
            await eventually(lambda: len(daemon.logged("file_rejected")) == 5)
            assert await daemon.end() == 0
    collected = [line["file"] for line in daemon.logged("file_collected")]
    assert collected == [r"pr\udcfcfung.json"]
    assert "Traceback" not in daemon.log
