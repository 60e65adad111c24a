"""A store with a spool, and a scripted sink, for the tests of delivery."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.support.clock import FakeClock
from tests.support.states import State, open_state, state_in

from auditrelay.clock import Clock
from auditrelay.deliver.deliverer import Deliverer
from auditrelay.errors import RelayError, Retryable
from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.settings import SinkSettings
from auditrelay.sinks import Item, Limits, Rendered, Verdict
from auditrelay.store.sql.store import SqlStore
from auditrelay.telemetry.metrics import Metrics

NOON = datetime(2026, 1, 10, 12, tzinfo=UTC)
Make = Callable[..., AuditEvent]
Answer = Callable[[Sequence[Item]], Verdict | Awaitable[Verdict]]


def name_of(item: Item) -> str:
    """Return the native id of an event; of a reduced copy, the uid of the refused event."""
    record = json.loads(item.text)
    return str(record["reduced"]["uid"] if item.reduced else record["id"])


@dataclass
class Intake:
    """
    A sink that follows the contract: it has accepted what it does not reject, retry or raise about.

    *script* answers the requests in order, *always* those after it. Reduced copies are accepted and
    listed in *reduced*, apart from the others, unless it *refuses_reduced* ones like any event.
    """

    limits: Limits = field(default_factory=lambda: Limits(1000, 10**9))
    script: list[Answer | RelayError | Verdict] = field(default_factory=list)
    always: Answer = lambda _: Verdict()
    deduplicates: bool = False
    offered: list[list[str]] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    checks: list[RelayError] = field(default_factory=list)
    asked: int = 0
    reduced: list[str] = field(default_factory=list)
    refuses_reduced: bool = False

    def render(
        self, page: Page, now: int, *, marks: Mapping[str, object] | None = None
    ) -> list[Rendered]:
        return [self.rendered(event, now) for event in page]

    def rendered(self, event: AuditEvent, now: int) -> Rendered:
        return Rendered(bytes(event.raw))

    async def send(self, batch: Sequence[Item]) -> Verdict:
        assert batch, "an empty batch"
        assert len(batch) <= self.limits.events
        assert len({item.position for item in batch}) == len(batch)
        if not self.refuses_reduced and any(item.reduced for item in batch):
            whole = [index for index, item in enumerate(batch) if not item.reduced]
            verdict = Verdict()
            if whole:
                verdict = (await self.send([batch[index] for index in whole])).within(whole)
            self.reduced += [name_of(item) for item in batch if item.reduced]
            return verdict
        self.offered.append([name_of(item) for item in batch])
        answer = self.script.pop(0) if self.script else self.always
        if isinstance(answer, RelayError):
            raise answer
        found = answer if isinstance(answer, Verdict) else answer(batch)
        verdict = found if isinstance(found, Verdict) else await found
        named = {*verdict.retry, *(each.index for each in verdict.rejected)}
        self.taken += [name_of(item) for index, item in enumerate(batch) if index not in named]
        return verdict

    async def check(self) -> str:
        self.asked += 1
        if self.checks:
            raise self.checks.pop(0)
        return "healthy"

    def backfill_notice(self, start: datetime, end: datetime, now: datetime) -> str | None:
        return None

    def query(self, uid: str) -> Sequence[str]:
        return ()

    async def close(self) -> None: ...


@dataclass
class World:
    """A store with a spool, and what is needed to deliver from it."""

    store: SqlStore
    state: State | Path
    metrics: Metrics
    event: Make
    clock: FakeClock

    async def spool(self, count: int, *, first: int = 0, source: str = "voice") -> list[str]:
        made = [self.event(first + number, source=source) for number in range(count)]
        for start in range(0, count, 100):
            await self.store.add(source, Page.of(made[start : start + 100]))
        return [str(each.native_id) for each in made]

    def deliverer(
        self,
        intake: Intake,
        *,
        name: str = "sink",
        clock: Clock | None = None,
        attempts: int | None = None,
        **changes: Any,
    ) -> Deliverer:
        keys = {"type": "test", "format": "raw", "linger": "0s", "concurrency": 1, **changes}
        return Deliverer(
            name,
            SinkSettings.model_validate(keys),
            intake,
            store=self.store,
            metrics=self.metrics,
            clock=clock or self.clock,
            attempts=attempts,
        )

    async def run(self, intake: Intake, **changes: Any) -> Deliverer:
        """Deliver until nothing waits."""
        deliverer = self.deliverer(intake, **changes)
        deliverer.finish()
        async with asyncio.timeout(90):
            await deliverer.keep_delivering()
        return deliverer

    async def backlog(self, name: str = "sink") -> int:
        (state,) = [state for state in await self.store.sinks() if state.name == name]
        return state.backlog_events

    def dead(self) -> list[tuple[str, str, int | None, int]]:
        """Return id, reason, status and attempts of each dead letter."""
        with state_in(self.state).view() as view:
            return [
                (
                    str(each.letter.event.native_id),
                    each.letter.reason,
                    each.letter.status,
                    each.letter.attempts,
                )
                for each in view.dead_letters()
            ]

    def counted(self, name: str) -> float:
        text = self.metrics.render()[0].decode()
        return sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith(f"auditrelay_{name}{{")
        )


class opened:  # noqa: N801  # it reads as a verb
    """A store on a state for the length of a ``with`` block."""

    def __init__(self, state: State | Path, event: Make, clock: FakeClock) -> None:
        self._state, self._event, self._clock = state, event, clock

    async def __aenter__(self) -> World:
        store = await open_state(self._state, clock=self._clock)
        for source in ("voice", "calls"):
            await store.start_source(source, NOON - timedelta(days=7))
        await store.start_sink("sink", ["voice"])
        self._world = World(store, self._state, Metrics(sinks=["sink"]), self._event, self._clock)
        return self._world

    async def __aexit__(self, *_: object) -> None:
        await self._world.store.close()


@contextlib.asynccontextmanager
async def running(deliverer: Deliverer) -> AsyncIterator[None]:
    """Deliver for the length of a ``with`` block, then die as by kill -9."""
    task = asyncio.ensure_future(deliverer.keep_delivering())
    try:
        yield
    finally:
        if task.done():
            task.result()
        task.cancel()
        await asyncio.wait([task])


def busy(**changes: Any) -> Retryable:
    return Retryable("busy", reason="status_503", **changes)
