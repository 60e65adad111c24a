"""
The metrics, by the names that dashboards rely on (docs/metrics.md).

Labels are names from the configuration and our own codes, never addresses, messages or the
contents of events.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from auditrelay import __version__

# The library would add a second series to every counter, its time of creation.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library's gap

REQUEST_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""From a peer in the same network to twice the usual ``timeout``."""

LATENESS_SECONDS = (1, 5, 15, 30, 60, 300, 900, 3600, 7200, 21600, 86400, 172800, 604800)
"""The values that ``settle``, ``overlap`` and ``resweep`` are chosen from, up to a week."""

STORE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""From a database on the same machine to the longest that a transaction may take."""

END_TO_END_SECONDS = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 21600, 86400, 2592000)
"""Fine around ``settle`` and ``poll_interval``, coarse for an outage, 30 days for a backfill."""

_OPENMETRICS = "application/openmetrics-text"


class Observations:
    """The observed values of one set of labels: the count in each bucket, and the sum."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one *value*."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def observe_micros(self, ages: Iterable[int]) -> None:
        """
        Count each of *ages*, which are in microseconds.

        It is called for every event, a batch at a time: so the few bounds are looked up among the
        ages, and not each age among the bounds.
        """
        ordered = sorted(ages)
        counted = 0
        for index, bound in enumerate(self._bounds):
            up_to = bisect_right(ordered, bound * 1_000_000)
            self.counts[index] += up_to - counted
            counted = up_to
        self.counts[-1] += len(ordered) - counted
        self.sum += sum(ordered) / 1_000_000


class Histogram(Collector):
    """
    A histogram with little cost per event.

    The library's own takes a lock for each value and searches its buckets one by one, about
    1.5 µs; this one takes a thirtieth of that in batches. Use it from one thread (the loop's).
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: tuple[str, ...],
        *,
        buckets: tuple[float, ...],
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labelnames = labelnames
        self._bounds = buckets
        self._children: dict[tuple[str, ...], Observations] = {}
        registry.register(self)

    def labels(self, *values: str, **named: str) -> Observations:
        """Return the observations with these label values, in order or by name."""
        if named:
            values = tuple(named[label] for label in self._labelnames)
        child = self._children.get(values)
        if child is None:
            if len(values) != len(self._labelnames):
                raise ValueError(f"{self._name} has the labels {', '.join(self._labelnames)}")
            child = self._children[values] = Observations(self._bounds)
        return child

    def remove_by_labels(self, labels: dict[str, str]) -> None:
        """Delete the observations whose labels include all of *labels*."""
        wanted = labels.items()
        for values in list(self._children):
            if wanted <= dict(zip(self._labelnames, values, strict=True)).items():
                del self._children[values]

    def collect(self) -> Iterator[Metric]:
        """Yield the family as the library expects it, with cumulative counts."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labelnames)
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        for values, child in list(self._children.items()):
            total, buckets = 0, []
            for bound, count in zip(bounds, child.counts, strict=True):
                total += count
                buckets.append((bound, float(total)))
            family.add_metric(values, buckets, child.sum)
        yield family


TAKEOVERS = ("free", "dead", "moved")
"""Why a unit could be taken: it was free, its holder was dead, or the keeper moved it here."""

STORE_WORK = ("write", "read", "pulse", "lease", "request")
"""
What a transaction in the shared store is for. Each is done by one thread, so that its histogram
needs no lock.
"""

RETRIES = ("busy", "lost", "refused")
"""Why a transaction is run again: others were in the way, the connection failed, or no login."""

_Labels = tuple[str, ...]

_OWN_CODES = {"reason", "code", "what", "unit", "glob"}
"""
Labels whose values are our codes, or globs of the configuration; the values of all others are names
in it.
"""

M = TypeVar("M", bound=Counter | Gauge | Histogram)


class Row(Generic[M]):
    """
    A row of the table in :class:`Metrics`: *kind*, help text and labels of one metric.

    Its name is ``auditrelay_`` and the attribute's name, with ``_total`` at the end if it is a
    counter. On an instance the attribute is the metric itself. One that is *shared* exists with a
    shared store only.
    """

    def __init__(
        self, kind: type[M], text: str, *labels: str, shared: bool = False, **options: Any
    ) -> None:
        self.kind = kind
        self.shared = shared
        self.text = text
        self.labels = labels
        self._options = options

    def __set_name__(self, owner: type, name: str) -> None:
        """Set the name to the attribute's."""
        self.name = name

    def __get__(self, metrics: object, owner: type | None = None) -> M:
        """Declare the attribute's type; an instance has the metric itself instead."""
        raise AttributeError(f"{self.name} is a metric of an instance of Metrics")

    def make(self, registry: CollectorRegistry) -> M:
        """Return the metric, registered at *registry*."""
        return self.kind(
            f"auditrelay_{self.name}", self.text, self.labels, registry=registry, **self._options
        )

    @property
    def names(self) -> frozenset[str]:
        """The labels whose values are names in the configuration."""
        return frozenset(self.labels) - _OWN_CODES

    @property
    def starts_at_zero(self) -> bool:
        """Whether a sample exists before the first event: no label has our codes as values."""
        return _OWN_CODES.isdisjoint(self.labels)


class Metrics:
    """
    Every metric, each exposed before its first event. Use it from one thread.

    *sources*, *sinks* and *pairs* (source, sink) are the names in the configuration: a metric with
    no other labels starts with a sample of 0 for each of them. With *shared* there are those of a
    store that several replicas share as well, whose labels start with all of their values.
    """

    events_collected = Row(Counter, "New events read from a source into the spool.", "source")
    values_redacted = Row(
        Counter, "Values of new events that were replaced because they look like secrets.", "source"
    )
    events_duplicate = Row(
        Counter, "Events that a source returned again; not forwarded (deduplicated).", "source"
    )
    events_late = Row(Counter, "Events that only a resweep found.", "source")
    events_not_normalized = Row(
        Counter, "New events made of records that could not be read.", "source"
    )
    events_unknown = Row(Counter, "New events with an unrecognised action type.", "source")
    events_deleted_at_source = Row(
        Counter, "Forwarded events that were deleted at the source.", "source"
    )
    events_changed_at_source = Row(
        Counter, "Forwarded events that a source showed with other content later.", "source"
    )
    events_ambiguous = Row(
        Counter,
        "New events of an export file in a span already read: late, or forwarded with another uid.",
        "source",
    )
    events_delivered = Row(Counter, "Events that a sink acknowledged.", "sink", "source")
    events_excluded = Row(
        Counter, "Events that a sink was not sent, as its exclude says.", "sink", "source"
    )
    events_excluded_by_glob = Row(
        Counter, "The same, by the glob of its exclude that they fit.", "sink", "glob"
    )
    events_possible_duplicate = Row(
        Counter, "Events sent again after a request whose outcome is unknown.", "sink"
    )
    events_reduced = Row(
        Counter, "Refused events of which the sink gets a reduced copy instead.", "sink"
    )
    events_restamped = Row(
        Counter,
        "Events sent with a later timestamp, because the sink would not index their own.",
        "sink",
    )
    events_already_stored = Row(
        Counter, "Events that the sink had already stored (deduplicated).", "sink"
    )
    events_diverted = Row(
        Counter, "Events that the sink stored elsewhere, for example in a failure store.", "sink"
    )
    events_dropped = Row(
        Counter,
        "Events that the sink took, and its own pipeline dropped: they are not there.",
        "sink",
    )
    events_stored_changed = Row(
        Counter, "Events that the sink had already stored, with other content.", "sink"
    )
    sent_bytes = Row(Counter, "Bytes of events in requests to a sink, as they were sent.", "sink")
    sent_uncompressed_bytes = Row(Counter, "The same bytes before compression.", "sink")
    dead_letters_total = Row(Counter, "Events that were dead-lettered.", "sink", "reason")
    dead_letters = Row(Gauge, "Dead letters that wait for an operator.", "sink")
    source_lag_seconds = Row(Gauge, "Now minus the checkpoint.", "source")
    source_last_event_timestamp_seconds = Row(
        Gauge, "Time of the newest event seen; 0 before the first.", "source"
    )
    source_up = Row(Gauge, "1 while the last request succeeded, else 0.", "source")
    sink_up = Row(Gauge, "1 while the last request succeeded, else 0.", "sink")
    gap_seconds = Row(Counter, "Event time that was declared a gap.", "source", "reason")
    sink_backlog_events = Row(Gauge, "Events in the spool that wait for the sink.", "sink")
    sink_oldest_undelivered_seconds = Row(
        Gauge, "How long the oldest event of the backlog has waited; 0 without a backlog.", "sink"
    )
    evidence_entries = Row(Gauge, "Entries of the evidence that are sealed.")
    evidence_head_timestamp_seconds = Row(Gauge, "When the newest head was sealed; 0: never.")
    evidence_untold_heads = Row(Gauge, "The newest heads that no sink has taken.")
    evidence_broken = Row(Gauge, "1 while something in the evidence is missing or was changed.")
    spool_bytes = Row(Gauge, "Size of the spool on disk.")
    spool_max_bytes = Row(Gauge, "Size of the spool at which polling pauses.")
    request_duration_seconds = Row(
        Histogram,
        "Time of one request, by the peer's name and the status or error code.",
        "peer",
        "code",
        buckets=REQUEST_SECONDS,
    )
    requests_retried = Row(Counter, "Requests that were retried.", "peer", "reason")
    unforeseen_errors = Row(
        Counter, "Bugs in our code for a source or sink; each holds it, see the log.", "peer"
    )
    event_lateness_seconds = Row(
        Histogram,
        "Age of events that were first found after their span had been read.",
        "source",
        buckets=LATENESS_SECONDS,
    )
    end_to_end_seconds = Row(
        Histogram,
        "From when an event occurred to when a sink acknowledged it.",
        "source",
        "sink",
        buckets=END_TO_END_SECONDS,
    )
    build_info = Row(Gauge, "Always 1; the version is in the label.", "version")
    replicas = Row(Gauge, "Replicas that are alive, this one included.", shared=True)
    unit_held = Row(Gauge, "1 while this replica holds the unit, else 0.", "unit", shared=True)
    takeovers = Row(Counter, "Units that this replica has taken.", "reason", shared=True)
    fenced = Row(
        Counter, "How often this replica lost a lease to another, or was refused.", shared=True
    )
    store_rolled_back = Row(
        Counter, "How often the database had lost what it had acknowledged.", shared=True
    )
    store_up = Row(Gauge, "1 while the shared store answers, else 0.", shared=True)
    store_request_seconds = Row(
        Histogram,
        "Time of one transaction in the shared store.",
        "what",
        buckets=STORE_SECONDS,
        shared=True,
    )
    store_retried = Row(Counter, "Transactions that were run again.", "reason", shared=True)
    clock_offset_seconds = Row(
        Gauge, "How far the clock of the database is ahead of ours.", shared=True
    )
    pulse_age_seconds = Row(Gauge, "How long ago the shared store last answered.", shared=True)

    def __init__(
        self,
        version: str = __version__,
        *,
        sources: Iterable[str] = (),
        sinks: Iterable[str] = (),
        pairs: Iterable[tuple[str, str]] = (),
        shared: bool = False,
    ) -> None:
        registry = CollectorRegistry()
        # The library registers a counter by its name without _total. So the gauge
        # auditrelay_dead_letters cannot be in one registry with auditrelay_dead_letters_total.
        second = CollectorRegistry()
        self._registries = (registry, second)
        self._rows = [row for row in TABLE if shared or not row.shared]
        for row in self._rows:
            setattr(self, row.name, row.make(second if row.name == "dead_letters" else registry))
        self.build_info.labels(version).set(1)
        if shared:
            for reason in TAKEOVERS:
                self.takeovers.labels(reason)
            for reason in RETRIES:
                self.store_retried.labels(reason)
            for what in STORE_WORK:
                self.store_request_seconds.labels(what)
        self._names: dict[_Labels, set[_Labels]] = {}
        self.configure(sources=sources, sinks=sinks, pairs=pairs)

    def configure(
        self,
        *,
        sources: Iterable[str] = (),
        sinks: Iterable[str] = (),
        pairs: Iterable[tuple[str, str]] = (),
    ) -> None:
        """
        Apply the names of a configuration that was read again.

        New names start at 0. Removed names lose their samples, or an alert on a source that is no
        longer polled would never end. All others keep counting.
        """
        by_source: set[_Labels] = {(name,) for name in sources}
        by_sink: set[_Labels] = {(name,) for name in sinks}
        names: dict[_Labels, set[_Labels]] = {
            ("source",): by_source,
            ("sink",): by_sink,
            ("source", "sink"): set(pairs),
            ("peer",): by_source | by_sink,
        }
        for labels, current in names.items():
            gone = self._names.get(labels, set()) - current
            for row in self._rows:
                if row.names != set(labels):
                    continue
                metric = getattr(self, row.name)
                for values in gone:
                    metric.remove_by_labels(dict(zip(labels, values, strict=True)))
                for values in current if row.starts_at_zero else ():
                    metric.labels(**dict(zip(labels, values, strict=True)))
        self._names = names

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """
        Return all metrics and their content type, in Prometheus' text format or OpenMetrics.

        It is OpenMetrics if *accept*, the header of a request, names it, as Prometheus' does.
        """
        wanted = {each.partition(";")[0].strip().lower() for each in accept.split(",")}
        if _OPENMETRICS in wanted:
            text: bytes = openmetrics.generate_latest(self)  # type: ignore[no-untyped-call]  # as above
            return text, openmetrics.CONTENT_TYPE_LATEST
        text = b"".join(generate_latest(registry) for registry in self._registries)
        return text, CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics for OpenMetrics, in which each name is unique."""
        for registry in self._registries:
            for family in registry.collect():
                if family.name == "auditrelay_dead_letters" and family.type == "counter":
                    # Its name without _total is the gauge's, so it can have no type there.
                    samples = family.samples
                    family = Metric(f"{family.name}_total", family.documentation, "unknown")  # noqa: PLW2901  # the same, renamed
                    family.samples = samples
                yield family


TABLE: tuple[Row[Any], ...] = tuple(row for row in vars(Metrics).values() if isinstance(row, Row))
"""The rows of :class:`Metrics`, in their order there."""
