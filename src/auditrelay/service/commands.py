"""What a command asks of the instance: backfill, verify, replay, drop, forget."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from auditrelay import __version__
from auditrelay.clock import Clock
from auditrelay.collect.backfill import Backfiller
from auditrelay.collect.collector import Collector
from auditrelay.collect.on_progress import OnProgress
from auditrelay.collect.verify import Searchable, Verifier
from auditrelay.errors import ConfigError
from auditrelay.service.topology import Topology
from auditrelay.settings.values import format_duration
from auditrelay.store import SinkState, SourceState, Store
from auditrelay.window import EPOCH, Interval

_REQUIRED: Final = {
    "backfill": ("source", "start", "end", "sinks", "dry_run", "newest_first", "concurrency"),
    "verify": ("source", "start", "end", "repair", "at_sink"),
    "replay": ("ids",),
    "drop": ("ids",),
    "forget": ("name", "yes"),
}
"""The keys that each request has to have."""


class Commands:
    """The commands that an instance with this *topology* carries out."""

    def __init__(self, topology: Topology, store: Store, *, clock: Clock) -> None:
        self._topology = topology
        self._store = store
        self._clock = clock
        self._busy: Counter[str | None] = Counter()
        """How many requests are in progress for each source."""

    async def do(self, request: dict[str, Any], on_progress: OnProgress) -> dict[str, Any]:
        """
        Do the *request* of a command, see the modules of ``cli``; return its result.

        Raises ConfigError for what this configuration does not allow, and RelayError.
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
                f"the running service (auditrelay {__version__}) does not support {asked}: it and "
                "the command are of different versions; restart the service"
            )
        if missing := [key for key in _REQUIRED[asked] if key not in request]:
            raise ConfigError(
                f"the request for {asked} lacks {', '.join(missing)}: the running service "
                f"(auditrelay {__version__}) and the command are of different versions; restart "
                "the service, or use the command that came with it"
            )
        name = request.get("source")
        self._busy[name] += 1
        try:
            return await do(request, on_progress)
        finally:
            self._busy[name] -= 1

    async def _backfill(self, request: dict[str, Any], on_progress: OnProgress) -> dict[str, Any]:
        collector = self._collector(
            request["source"], "put an export of it into its directory, and it is read at once"
        )
        span = self._span(collector, request)
        fed = self._sinks_of(collector.name, request["sinks"])
        for note in self._notes(span, fed):
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
        collector = self._collector(request["source"], "there is nothing to compare with")
        await collector.checkpoint.refresh()
        span = self._span(collector, request)
        if span.start >= collector.checkpoint.at:
            raise ConfigError(
                f"--from is after the checkpoint of {collector.name} "
                f"({collector.checkpoint.at.isoformat()}): nothing was read there yet"
            )
        searchable = {}
        if request["at_sink"]:
            searchable = {
                name: sink
                for name, sink in self._topology.sinks.items()
                if isinstance(sink, Searchable) and name in self._sinks_of(collector.name, [])
            }
        return await Verifier(
            collector,
            self._store,
            span=Interval(span.start, min(span.end, collector.checkpoint.at)),
            sinks=self._sinks_of(collector.name, []),
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
        dropped = await self._store.drop(request["ids"], self._clock.now())
        return {"dropped": [letter.id for letter in dropped]}

    async def _forget(self, request: dict[str, Any], _: OnProgress) -> dict[str, Any]:
        name = request["name"]
        if name in self._topology.config.sources or name in self._topology.config.sinks:
            raise ConfigError(
                f"{name} is still in the configuration of this instance: remove it there, then "
                "reload or restart the service"
            )
        sources = {state.name: state for state in await self._store.sources()}
        sinks = {state.name: state for state in await self._store.sinks()}
        if name not in sources and name not in sinks:
            orphaned = sorted(
                (sources.keys() - self._topology.config.sources.keys())
                | (sinks.keys() - self._topology.config.sinks.keys())
            )
            raise ConfigError(
                f"the state has no source or sink {name!r}; orphaned are: "
                f"{', '.join(orphaned) or 'none'}"
            )
        if self._busy[name]:
            raise ConfigError(f"{name} is still being read for another command: wait for its end")
        if not request["yes"] and (lost := self._losses(sources.get(name), sinks.get(name))):
            raise ConfigError(f"This permanently deletes {lost} of {name}. Pass --yes to confirm.")
        await self._topology.remove_orphan(name)
        await self._store.forget(name)
        return {"forgotten": name}

    def _losses(self, source: SourceState | None, sink: SinkState | None) -> str:
        """Return what removing a source or sink would lose for good, in words; or nothing."""
        lost = []
        if sink is not None and sink.backlog_events:
            lost.append(f"the backlog ({sink.backlog_events:,} events)")
        if sink is not None and sink.dead_letters:
            lost.append(f"the dead letters ({sink.dead_letters:,})")
        if source is not None and source.waiting:
            lost.append(f"the undelivered events (up to {source.waiting:,} events)")
        return " and ".join(lost)

    def _collector(self, name: str, instead: str) -> Collector:
        """Return the collector of the source *name*; if it reads files, say what *instead*."""
        collector = self._topology.collectors.get(name)
        if collector is None:
            known = ", ".join(self._topology.collectors) or "none"
            raise ConfigError(f"there is no enabled source {name!r}; enabled are: {known}")
        if not isinstance(collector, Collector):
            raise ConfigError(f"{name} reads files and cannot be asked for a range: {instead}")
        return collector

    def _sinks_of(self, source: str, wanted: list[str]) -> list[str]:
        """Return the sinks *wanted*, or all that receive *source*; raise ConfigError for others."""
        fed = [
            sink
            for sink in self._topology.sinks
            if source in self._topology.config.sources_of(sink)
        ]
        for name in wanted:
            if name not in fed:
                known = ", ".join(fed) or "none"
                raise ConfigError(
                    f"no enabled sink {name!r} receives {source}; those that do: {known}"
                )
        return wanted or fed

    def _span(self, collector: Collector, request: dict[str, Any]) -> Interval:
        settled = self._clock.now() - collector.settings.settle
        start = datetime.fromisoformat(request["start"])
        end = settled if request["end"] is None else datetime.fromisoformat(request["end"])
        end = min(end, settled)
        if start < EPOCH:
            raise ConfigError(f"--from is before 1970: {start.isoformat()}")
        if start >= end:
            raise ConfigError(
                f"the range ends before it starts: {start.isoformat()} .. {end.isoformat()} (the "
                f"last {format_duration(collector.settings.settle)} have not settled yet)"
            )
        return Interval(start, end)

    def _notes(self, span: Interval, sinks: Sequence[str]) -> list[str]:
        """Return what an operator should know before a backfill of *span*."""
        notes = []
        remember = self._topology.config.spool.remember
        if span.start < self._clock.now() - remember:
            notes.append(
                f"uids older than spool.remember ({format_duration(remember)}) are forgotten: "
                "events of that time are forwarded again, under the same uid"
            )
        for name in sinks:
            notice = self._topology.sinks[name].backfill_notice(
                span.start, span.end, self._clock.now()
            )
            if notice:
                notes.append(f"{name}: {notice}")
        return notes
