"""Does what a command asks of the instance: backfill, verify, replay, drop, ..."""

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final

import structlog

from auditrelay.clock import Clock
from auditrelay.collect.backfill import Backfiller
from auditrelay.collect.collector import Collector
from auditrelay.collect.verify import Searchable, Verifier
from auditrelay.errors import ConfigError
from auditrelay.events.exclude import Exclude
from auditrelay.events.page import Page
from auditrelay.service.desk import (
    Backfill,
    Backfilled,
    Drop,
    Dropped,
    Forget,
    Forgotten,
    Note,
    OnProgress,
    Recorded,
    Reopen,
    Reopened,
    ReopenedGap,
    Replay,
    Replayed,
    Request,
    Restored,
    Result,
    Verified,
    Verify,
)
from auditrelay.service.store import OperatorStore
from auditrelay.service.topology import Topology
from auditrelay.settings.values import format_duration
from auditrelay.store import REOPENED, Proof, SinkState, SourceState, StoredDeadLetter
from auditrelay.window import EPOCH, Interval, holes, iso, until

LETTERS: Final = 500
"""How many dead letters one write is about at most: others wait for it meanwhile."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def _nowhere(_: str) -> Sequence[str]:
    """Return nothing: there is one instance."""
    return ()


class Commands:
    """
    The commands that an instance with this *topology* carries out.

    *seal* seals the evidence; what cannot be sealed it reports itself. *configured_at* returns the
    names of the live replicas that have a source or sink of a name in their configuration.
    """

    def __init__(
        self,
        topology: Topology,
        store: OperatorStore,
        *,
        clock: Clock,
        seal: Callable[[], Awaitable[object]],
        configured_at: Callable[[str], Sequence[str]] = _nowhere,
    ) -> None:
        self._configured_at = configured_at
        self._topology = topology
        self._store = store
        self._clock = clock
        self._seal = seal
        self._busy: Counter[str] = Counter()
        """How many requests are in progress for each source."""

    async def do(  # noqa: PLR0911  # one for each request
        self, request: Request, on_progress: OnProgress, by: int | None = None
    ) -> Result:
        """
        Do *request* of the user with the id *by*, who stands in the evidence; return its result.

        Raises ConfigError for what this configuration does not allow, and RelayError.
        """
        match request:
            case Backfill():
                with self._reading(request.source):
                    return await self._backfill(request, on_progress, by)
            case Verify():
                with self._reading(request.source):
                    return await self._verify(request, on_progress, by)
            case Replay():
                return await self._replay(request, by)
            case Drop():
                return await self._drop(request, by)
            case Forget():
                return await self._forget(request, by)
            case Reopen():
                with self._reading(request.source):
                    return await self._reopen(request, by)
            case Restored():
                await self._store.log.restored(request.reason, by)
                return Recorded()

    @contextlib.contextmanager
    def _reading(self, source: str) -> Iterator[None]:
        self._busy[source] += 1
        try:
            yield
        finally:
            self._busy[source] -= 1

    async def _backfill(
        self, request: Backfill, on_progress: OnProgress, by: int | None
    ) -> Backfilled:
        collector = self._collector(
            request.source, "put an export of it into its directory, and it is read at once"
        )
        span = self._span(collector, request)
        fed = self._sinks_of(collector.name, request.sinks)
        for note in self._notes(span, fed):
            await on_progress(Note(note))
        backfiller = Backfiller(
            collector,
            self._topology.leased_store(f"source {collector.name}"),
            span=span,
            sinks=fed if request.sinks else (),
            clock=self._clock,
            by=by,
            on_progress=on_progress,
        )
        if request.dry_run:
            return Backfilled(await backfiller.count(concurrency=request.concurrency))
        return Backfilled(
            await backfiller.run(concurrency=request.concurrency, newest_first=request.newest_first)
        )

    async def _verify(self, request: Verify, on_progress: OnProgress, by: int | None) -> Verified:
        collector = self._collector(request.source, "there is nothing to compare with")
        await collector.checkpoint.refresh()
        span = self._span(collector, request)
        end = span.end if request.listed else min(span.end, collector.checkpoint.at)
        if span.start >= end:
            raise ConfigError(
                f"--from is after the checkpoint of {collector.name} "
                f"({collector.checkpoint.at.isoformat()}): nothing was read there yet"
            )
        sinks = self._sinks_of(collector.name)
        searchable = {}
        if request.at_sink:
            searchable = {
                name: sink
                for name in sinks
                if isinstance(sink := self._topology.sink_to_ask(name), Searchable)
            }
        verifier = Verifier(
            collector,
            self._topology.leased_store(f"source {collector.name}"),
            span=Interval(span.start, end),
            sinks=sinks,
            searchable=searchable,
            excludes=self._excludes(sinks),
            repair=request.repair,
            lists=request.listed,
            clock=self._clock,
            by=by,
            on_progress=on_progress,
        )
        return Verified(await verifier.run())

    async def _reopen(self, request: Reopen, by: int | None) -> Reopened:
        """Take gaps back: what has settled is read again, what is still to come is forgotten."""
        collector = self._collector(
            request.source, "put an export of it into its directory, and it is read at once"
        )
        if request.start >= request.end:
            raise ConfigError("--to must be later than --from")
        wanted = Interval(request.start, request.end)
        store = self._topology.leased_store(f"source {collector.name}")
        await collector.checkpoint.refresh()
        gaps = [
            ReopenedGap(max(gap.start, wanted.start), min(gap.end, wanted.end), span.gap)
            for span in await store.ledger(collector.name)
            if span.gap not in (None, REOPENED) and (gap := span.interval).overlaps(wanted)
        ]
        if not gaps:
            raise ConfigError(
                f"{collector.name} has no declared gap between {iso(wanted.start)} and "
                f"{iso(wanted.end)}; see: auditrelay coverage {collector.name}"
            )
        now = self._clock.confirmed.certain(collector.name)
        reach = collector.settings.reach
        expired = None if reach is None else now - reach
        if expired is not None and gaps[0].start >= expired:
            expired = None
        if not request.yes:
            raise ConfigError(
                f"This takes back {', '.join(map(_in_words, gaps))} of {collector.name}; the next "
                f"poll asks for it again.{_again(expired)} Pass --yes to confirm."
            )
        settled = now - collector.settings.settle
        proof = Proof(
            reopens=tuple(until(settled, [wanted])),
            retracts=tuple(holes(wanted, until(settled, [wanted]))),
            by=by,
        )
        await store.add(collector.name, Page.of(()), via="reopen", proof=proof)
        for each in gaps:
            _log.warning(
                "gap_reopened",
                source=collector.name,
                start=each.start.isoformat(),
                end=each.end.isoformat(),
                reason=each.reason,
            )
        collector.checkpoint.go_back()
        collector.polls.due.set()
        return Reopened(tuple(gaps), expired)

    async def _replay(self, request: Replay, by: int | None) -> Replayed:
        excludes = self._excludes(self._topology.config.sinks)
        excluded: set[int] = set()

        def is_excluded(letter: StoredDeadLetter) -> bool:
            exclude = excludes.get(letter.sink or "")
            if exclude is None or exclude.glob_of(letter.letter.event) is None:
                return False
            excluded.add(letter.id)
            return True

        sent: list[int] = []
        for ids in _some(request.ids):
            # An excluded one would be gone from the letters, and not be sent.
            replayed = await self._store.replay(ids, of=request.of, by=by, unless=is_excluded)
            sent += [letter.id for letter in replayed]
            for deliverer in self._topology.deliverers.values():
                deliverer.wake.set()
        return Replayed(tuple(sent), tuple(sorted(excluded)))

    def _excludes(self, sinks: Iterable[str]) -> dict[str, Exclude]:
        """Return what is excluded from each of *sinks* that does not get everything."""
        settings = self._topology.config.sinks
        return {name: Exclude(settings[name].exclude) for name in sinks if settings[name].exclude}

    async def _drop(self, request: Drop, by: int | None) -> Dropped:
        dropped: list[int] = []
        for ids in _some(request.ids):
            letters = await self._store.drop(ids, self._clock.now(), of=request.of, by=by)
            dropped += [letter.id for letter in letters]
        return Dropped(tuple(dropped))

    async def _forget(self, request: Forget, by: int | None) -> Forgotten:
        name = request.name
        if name in self._topology.config.sources or name in self._topology.config.sinks:
            raise ConfigError(
                f"{name} is still in the configuration of this instance: remove it there, then "
                "reload or restart the service"
            )
        if others := self._configured_at(name):
            # What it stores for it would be of a source that is not there any more: it is lost.
            raise ConfigError(
                f"{name} is still in the configuration of {', '.join(others)}: remove it there, "
                "then reload or restart the service there"
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
        if not request.yes and (lost := self._losses(sources.get(name), sinks.get(name))):
            raise ConfigError(f"This permanently deletes {lost} of {name}. Pass --yes to confirm.")
        await self._topology.remove_orphan(name)
        # What of it is not sealed yet could not be counted afterwards, and its uids not exported.
        await self._seal()
        await self._store.forget(name, by=by)
        return Forgotten(name)

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
        return collector.for_range(instead)

    def _sinks_of(self, source: str, wanted: Sequence[str] = ()) -> Sequence[str]:
        """Return the sinks *wanted*, or all that receive *source*; raise ConfigError for others."""
        config = self._topology.config
        fed = [
            sink
            for sink, settings in config.sinks.items()
            if settings.enabled and source in config.sources_of(sink)
        ]
        for name in wanted:
            if name not in fed:
                known = ", ".join(fed) or "none"
                raise ConfigError(
                    f"no enabled sink {name!r} receives {source}; those that do: {known}"
                )
        return wanted or fed

    def _span(self, collector: Collector, request: Backfill | Verify) -> Interval:
        settled = self._clock.confirmed.certain(collector.name) - collector.settings.settle
        start = request.start
        end = settled if request.end is None else min(request.end, settled)
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
            notice = self._topology.sink_to_ask(name).backfill_notice(
                span.start, span.end, self._clock.now()
            )
            if notice:
                notes.append(f"{name}: {notice}")
            if globs := self._topology.config.sinks[name].exclude:
                notes.append(f"{name}: what fits its exclude is not sent: {', '.join(globs)}")
        return notes


def _some(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """Yield *ids* in parts, each for one write."""
    return (ids[first : first + LETTERS] for first in range(0, len(ids), LETTERS))


def _in_words(gap: ReopenedGap) -> str:
    return f"the gap {iso(gap.start)} .. {iso(gap.end)} ({gap.reason})"


def _again(expired: datetime | None) -> str:
    """Return what becomes of time before *expired*, which the vendor does not keep any more."""
    if expired is None:
        return ""
    return f" What is before {iso(expired)}, beyond its retention, is then declared again."
