"""What a command has the instance do, beside its loops: backfill, verify, replay, drop."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

from auditrelay import __version__
from auditrelay.collect.backfill import Backfiller
from auditrelay.collect.collector import Collector
from auditrelay.collect.progress import OnProgress
from auditrelay.collect.verify import Searchable, Verifier
from auditrelay.errors import ConfigError
from auditrelay.service.topology import Topology
from auditrelay.settings.values import format_duration
from auditrelay.store import SinkState, SourceState, Store
from auditrelay.window import EPOCH, Interval

_ASKED_WITH: Final = {
    "backfill": ("source", "start", "end", "sinks", "dry_run", "newest_first", "concurrency"),
    "verify": ("source", "start", "end", "repair", "at_sink"),
    "replay": ("ids",),
    "drop": ("ids",),
    "forget": ("name", "yes"),
}
"""What has to come with each request."""


class Commands:
    """What can be asked of an instance with this *topology*."""

    def __init__(self, topology: Topology, store: Store, *, clock: Callable[[], datetime]) -> None:
        self._topology = topology
        self._store = store
        self._clock = clock
        self._busy: Counter[str | None] = Counter()
        """How many requests work on each source."""

    async def do(self, request: dict[str, Any], on_progress: OnProgress) -> dict[str, Any]:
        """
        Do what a command asks for, see the modules of ``cli``; return the result for it.

        Raises ConfigError for what cannot be done with this configuration, and RelayError.
        """
        asked = str(request.get("do"))
        do = {
            "backfill": self._backfill,
            "verify": self._verify,
            "replay": self._replay,
            "drop": self._drop,
            "forget": self._forget,
        }.get(asked)
        if do is None:
            raise ConfigError(
                f"this instance (auditrelay {__version__}) knows no {asked}: it was started by "
                "another version; restart it"
            )
        if left_out := [key for key in _ASKED_WITH[asked] if key not in request]:
            raise ConfigError(
                f"this instance (auditrelay {__version__}) has to be told {', '.join(left_out)} "
                f"for a {asked}: the command is of another version; restart the instance, or use "
                "the command that came with it"
            )
        name = request.get("source")
        self._busy[name] += 1
        try:
            return await do(request, on_progress)
        finally:
            self._busy[name] -= 1

    async def _backfill(self, request: dict[str, Any], on_progress: OnProgress) -> dict[str, Any]:
        collector = self._polled(request["source"])
        span = self._span(collector, request)
        fed = self._fed(collector.name, request["sinks"])
        for note in self._beforehand(span, fed):
            await on_progress({"note": note})
        backfiller = Backfiller(
            collector,
            self._store,
            span=span,
            sinks=fed if request["sinks"] else [],
            clock=self._clock,
            on_progress=on_progress,
        )
        concurrency = request["concurrency"]
        if request["dry_run"]:
            return await backfiller.count(concurrency=concurrency)
        return await backfiller.run(concurrency=concurrency, newest_first=request["newest_first"])

    async def _verify(self, request: dict[str, Any], on_progress: OnProgress) -> dict[str, Any]:
        collector = self._polled(request["source"])
        await collector.checkpoint.refresh()
        span = self._span(collector, request)
        if span.start >= collector.checkpoint.at:
            raise ConfigError(
                f"{collector.name} has been read up to {collector.checkpoint.at.isoformat()} only: "
                "there is nothing to compare from --from on"
            )
        searchable = {}
        if request["at_sink"]:
            searchable = {
                name: sink
                for name, sink in self._topology.sinks.items()
                if isinstance(sink, Searchable) and name in self._fed(collector.name, [])
            }
        return await Verifier(
            collector,
            self._store,
            span=Interval(span.start, min(span.end, collector.checkpoint.at)),
            sinks=self._fed(collector.name, []),
            searchable=searchable,
            repair=request["repair"],
            clock=self._clock,
            on_progress=on_progress,
        ).run()

    async def _replay(self, request: dict[str, Any], _: OnProgress) -> dict[str, Any]:
        sent = await self._store.replay(request["ids"])
        for deliverer in self._topology.deliverers.values():
            deliverer.wake.set()
        return {"replayed": [letter.id for letter in sent]}

    async def _drop(self, request: dict[str, Any], _: OnProgress) -> dict[str, Any]:
        gone = await self._store.drop(request["ids"], self._clock())
        return {"dropped": [letter.id for letter in gone]}

    async def _forget(self, request: dict[str, Any], _: OnProgress) -> dict[str, Any]:
        name = request["name"]
        if name in self._topology.config.sources or name in self._topology.config.sinks:
            raise ConfigError(
                f"{name} is still in the configuration of this instance: take it out, and reload "
                "or restart the service"
            )
        sources = {state.name: state for state in await self._store.sources()}
        sinks = {state.name: state for state in await self._store.sinks()}
        if name not in sources and name not in sinks:
            left = sorted(
                (sources.keys() - self._topology.config.sources.keys())
                | (sinks.keys() - self._topology.config.sinks.keys())
            )
            raise ConfigError(
                f"nothing is known of {name!r}; left over: {', '.join(left) or 'nothing'}"
            )
        if self._busy[name]:
            raise ConfigError(f"{name} is still being read for another command: wait for its end")
        if not request["yes"] and (lost := self._lost_with(sources.get(name), sinks.get(name))):
            raise ConfigError(f"with {name} goes {lost}; if that is meant, say --yes")
        await self._topology.remove_orphan(name)
        await self._store.forget(name)
        return {"forgotten": name}

    def _lost_with(self, source: SourceState | None, sink: SinkState | None) -> str:
        """Return what would be lost for good with a source or sink, in words; empty: nothing."""
        lost = []
        if sink is not None and sink.backlog_events:
            lost.append(f"what waits for it ({sink.backlog_events:,} events)")
        if sink is not None and sink.dead_letters:
            lost.append(f"its dead letters ({sink.dead_letters:,})")
        if source is not None and source.waiting:
            lost.append(f"what sinks have yet to take of it (up to {source.waiting:,} events)")
        return " and ".join(lost)

    def _polled(self, name: str) -> Collector:
        if name in self._topology.collectors:
            return self._topology.collectors[name]
        known = ", ".join(self._topology.collectors) or "none"
        raise ConfigError(f"there is no enabled source {name!r}; there is: {known}")

    def _fed(self, source: str, wanted: list[str]) -> list[str]:
        """Return the sinks *wanted* (empty: all) as far as they receive *source*."""
        fed = [
            sink
            for sink in self._topology.sinks
            if source in self._topology.config.sources_of(sink)
        ]
        for name in wanted:
            if name not in fed:
                known = ", ".join(fed) or "none"
                raise ConfigError(f"no enabled sink {name!r} receives {source}; there is: {known}")
        return wanted or fed

    def _span(self, collector: Collector, request: dict[str, Any]) -> Interval:
        settled = self._clock() - collector.settings.settle
        start = datetime.fromisoformat(request["start"])
        end = settled if request["end"] is None else datetime.fromisoformat(request["end"])
        end = min(end, settled)
        if start < EPOCH:
            raise ConfigError(f"there is no event as old as {start.isoformat()}: begin in 1970")
        if start >= end:
            raise ConfigError(
                f"the range ends before it starts: {start.isoformat()} .. {end.isoformat()} (what "
                f"is newer than {format_duration(collector.settings.settle)} has not settled yet)"
            )
        return Interval(start, end)

    def _beforehand(self, span: Interval, sinks: Sequence[str]) -> list[str]:
        """Return what an operator should know before *span* is filled."""
        notes = []
        remember = self._topology.config.spool.remember
        if span.start < self._clock() - remember:
            notes.append(
                f"what is older than spool.remember ({format_duration(remember)}) is not known any "
                "more: events of that time are forwarded again, under the same uid"
            )
        for name in sinks:
            said = self._topology.sinks[name].backfill_notice(span.start, span.end, self._clock())
            if said:
                notes.append(f"{name}: {said}")
        return notes
