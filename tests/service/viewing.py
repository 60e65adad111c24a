"""An instance of one source and one sink as ``InstanceView`` sees it."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.support.clock import FakeClock
from tests.support.stores import NOON, opened

from auditrelay.config import load
from auditrelay.config.model import Config
from auditrelay.deliver.throughput import Throughput
from auditrelay.http.retry import MAX_SOURCE_WAIT, SOURCE_ATTEMPTS
from auditrelay.service.instance_view import InstanceView
from auditrelay.store.conditions import SinkCondition, SourceCondition
from auditrelay.store.sql.store import SqlStore
from auditrelay.telemetry.metrics import Metrics

LONGEST = SOURCE_ATTEMPTS * (MAX_SOURCE_WAIT + 30)
"""Seconds that the attempts at one request of a source may take, with its timeout of 30."""


@dataclass
class Loop:
    """A collector or a deliverer as the view sees it."""

    name: str
    condition: Any
    settings: Any
    worked_at: float | None = None
    worked_once: bool = True
    polls: Any = field(default_factory=lambda: SimpleNamespace(rested_at=1000.0))
    throughput: Throughput = field(default_factory=lambda: Throughput(NOON))
    measured: int = 0

    def measure(self) -> None:
        self.measured += 1


@dataclass
class World:
    """An instance with the source "calls" and the sink "out", whose *clock* begins at 1000."""

    config: Config
    store: SqlStore
    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        self.metrics = Metrics(sources=["calls"], sinks=["out"], pairs=[("calls", "out")])
        self.source = Loop("calls", SourceCondition(up=True), self.config.sources["calls"])
        self.sink = Loop("out", SinkCondition(up=True), self.config.sinks["out"])
        topology: Any = SimpleNamespace(
            config=self.config,
            collectors={"calls": self.source},
            deliverers={"out": self.sink},
            loops=[self.source, self.sink],
        )
        self.view = InstanceView(
            topology, self.store, self.metrics, self.store.log, clock=self.clock
        )

    async def gauge(self, name: str) -> float:
        text = (await self.view.render_metrics(""))[0].decode()
        (line,) = (line for line in text.splitlines() if line.startswith(f"auditrelay_{name}"))
        return float(line.rpartition(" ")[2])


@contextlib.asynccontextmanager
async def viewed(tmp_path: Path) -> AsyncIterator[World]:
    """Open an instance in *tmp_path*."""
    path = tmp_path / "c.toml"
    path.touch(mode=0o600)
    path.write_text(
        f'state_dir = "{tmp_path}"\n[sources.calls]\ntype = "bland"\napi_key = "key-one"\n'
        'timeout = "30s"\npoll_interval = "60s"\n'
        f'[sinks.out]\ntype = "file"\npath = "{tmp_path}/out.jsonl"\n'
    )
    config = load(path, {"HOME": str(tmp_path)})
    store = await opened(tmp_path)
    await store.start_source("calls", NOON)
    await store.start_sink("out", ["calls"])
    yield World(config, store)
    await store.close()
