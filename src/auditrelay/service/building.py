"""Build what works for a source or a sink, from its settings."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from auditrelay.clock import Clock
from auditrelay.collect.collector import Collector
from auditrelay.collect.file_collector import FileCollector
from auditrelay.collect.source_loop import SourceLoop
from auditrelay.config.model import Config
from auditrelay.deliver.deliverer import Deliverer
from auditrelay.errors import PeerBug
from auditrelay.service.store import Store
from auditrelay.sinks import Sink
from auditrelay.store.parts import name_of, part_of
from auditrelay.supervisor import Unmade
from auditrelay.supervisor.sinks import make_sink
from auditrelay.supervisor.sources import make_file_source, make_source
from auditrelay.telemetry.metrics import Metrics


class Builder:
    """
    Builds collectors and deliverers.

    For a run that has an end, *attempts* bounds the attempts at one request of a sink, and
    *patience* how long a page waits for room in the spool. *on_batch* is called after each batch.

    With *strict* a bug in the code for a peer is a PeerBug; without, the peer is there, and each of
    its tries raises it. Raises ConfigError if a part cannot be built.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        clock: Clock,
        attempts: int | None,
        patience: timedelta | None,
        on_batch: Callable[[], None],
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._attempts = attempts
        self._patience = patience
        self._on_batch = on_batch
        self._asked: dict[str, Sink] = {}

    def collector(
        self,
        config: Config,
        name: str,
        store: Store,
        *,
        announce: Callable[[], None],
        strict: bool,
    ) -> SourceLoop:
        """Return the collector of the source *name*; *announce* is called when it has stored."""
        settings = config.sources[name]
        parts: dict[str, Any] = {
            "store": store,
            "metrics": self._metrics,
            "clock": self._clock,
            "announce": announce,
            "patience": self._patience,
        }
        reads_files = settings.export_directory is not None
        source: Any
        normalizer: Any
        try:
            if reads_files:
                source, normalizer = make_file_source(name, settings, self._metrics, self._clock)
            else:
                source, normalizer = make_source(
                    name, settings, self._metrics, self._clock, config.state_dir
                )
        except PeerBug as bug:
            if strict:
                raise
            source = normalizer = Unmade(bug)
        collector = FileCollector if reads_files else Collector
        return collector(name, settings, source, normalizer=normalizer, **parts)

    def deliverer(
        self,
        config: Config,
        unit: str,
        store: Store,
        *,
        may_send: Callable[[], bool],
        strict: bool,
    ) -> tuple[Sink, Deliverer]:
        """
        Return the sink of *unit*, whose requests begin only if it *may_send*, and what uses it.

        If *unit* is a part of the sink, it has its share of the requests in flight.
        """
        name = name_of(unit)
        settings = config.sinks[name]
        if (part := part_of(unit)) is not None:
            share = part.share(settings.concurrency)
            settings = settings.model_copy(update={"concurrency": share})
        sink: Any
        try:
            sink = make_sink(name, settings, self._metrics, self._clock, may_send)
        except PeerBug as bug:
            if strict:
                raise
            sink = Unmade(bug)
        return sink, Deliverer(
            name,
            settings,
            sink,
            store=store,
            metrics=self._metrics,
            clock=self._clock,
            attempts=self._attempts,
            on_batch=self._on_batch,
        )

    def sink_to_ask(self, config: Config, name: str) -> Sink:
        """Return the sink *name*, to which nothing is sent: it is only to be asked something."""
        if name not in self._asked:
            self._asked[name] = make_sink(name, config.sinks[name], self._metrics, self._clock)
        return self._asked[name]

    async def close(self) -> None:
        """Close the sinks that were only asked."""
        for sink in self._asked.values():
            await sink.close()
