"""The metrics, by the names that dashboards rely on."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    generate_latest,
)
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from auditrelay import __version__

REQUEST_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""From a peer in the same network to twice the usual ``timeout``."""


LATENESS_SECONDS = (1, 5, 15, 30, 60, 300, 900, 3600, 7200, 21600, 86400, 172800, 604800)
"""The values that ``settle``, ``overlap`` and ``resweep`` are chosen from, up to a week."""


END_TO_END_SECONDS = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 21600, 86400, 2592000)
"""Fine around ``settle`` and ``poll_interval``, coarse for an outage, 30 days for a backfill."""


_OPENMETRICS = "application/openmetrics-text"


class Observations:
    """The observed values of one set of labels: how many lie in each bucket, and their sum."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one *value*."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def observe_all(self, values: Iterable[float]) -> None:
        """Count each of *values*: a batch at a time, because this is done for every event."""
        bounds, counts, total = self._bounds, self.counts, 0.0
        for value in values:
            counts[bisect_left(bounds, value)] += 1
            total += value
        self.sum += total


class Histogram(Collector):
    """
    A histogram that costs little an event.

    The library's own takes a lock for each value and searches its buckets one by one, about
    1.5 µs; this takes a tenth of it in batches. It must be fed from one thread (the loop's).
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
        """Forget the observations whose labels hold all of *labels*."""
        wanted = labels.items()
        for values in list(self._children):
            if wanted <= dict(zip(self._labelnames, values, strict=True)).items():
                del self._children[values]

    def collect(self) -> Iterator[Metric]:
        """Yield the whole as the library wants it, counts added up from the lowest bucket."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labelnames)
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        for values, child in list(self._children.items()):
            total, buckets = 0, []
            for bound, count in zip(bounds, child.counts, strict=True):
                total += count
                buckets.append((bound, float(total)))
            family.add_metric(values, buckets, child.sum)
        yield family


_Labels = tuple[str, ...]


_Metric = Counter | Gauge | Histogram


class Metrics:
    """
    Every metric, on a registry of its own, each exposed before its first event.

    The attributes are named as the metrics are, without ``auditrelay_`` and ``_total`` (but for
    ``dead_letters_total``, which stands beside the gauge ``dead_letters``). *sources*, *sinks* and
    *pairs* (source, sink) are the names in the configuration: what is labelled by them alone
    starts with a sample of nought. Feed it from one thread.
    """

    def __init__(
        self,
        version: str = __version__,
        *,
        sources: Iterable[str] = (),
        sinks: Iterable[str] = (),
        pairs: Iterable[tuple[str, str]] = (),
    ) -> None:
        registry = CollectorRegistry()
        # The library takes a counter's name without _total for the counter's own. So the gauge
        # auditrelay_dead_letters cannot be in one registry with auditrelay_dead_letters_total.
        second = CollectorRegistry()
        self._registries = (registry, second)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"auditrelay_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"auditrelay_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"auditrelay_{name}", text, labels, buckets=buckets, registry=registry)

        self.events_collected = counter(
            "events_collected", "New events read from a source into the spool.", "source"
        )
        self.events_duplicate = counter(
            "events_duplicate", "Events that a source showed again; not forwarded.", "source"
        )
        self.events_late = counter("events_late", "Events that only a second look found.", "source")
        self.events_unknown = counter(
            "events_unknown", "New events of a type that stands in no table.", "source"
        )
        self.events_vanished = counter(
            "events_vanished", "Forwarded events that a source does not show any more.", "source"
        )
        self.events_ambiguous = counter(
            "events_ambiguous",
            "New events of an export in a span that was read before: late, or known otherwise.",
            "source",
        )
        self.events_delivered = counter(
            "events_delivered", "Events that a sink acknowledged.", "sink", "source"
        )
        self.events_possible_duplicate = counter(
            "events_possible_duplicate",
            "Events sent again after a request whose outcome is unknown.",
            "sink",
        )
        self.events_restamped = counter(
            "events_restamped",
            "Events sent with another time than their own, which the sink would not index.",
            "sink",
        )
        self.events_already_stored = counter(
            "events_already_stored",
            "Events that the sink recognised: it had them from before.",
            "sink",
        )
        self.events_diverted = counter(
            "events_diverted",
            "Events that the sink took, and put elsewhere than they were sent to.",
            "sink",
        )
        self.dead_letters_total = counter(
            "dead_letters", "Events put aside as dead letters.", "sink", "reason"
        )
        self.dead_letters = Gauge(
            "auditrelay_dead_letters",
            "Dead letters that wait for an operator.",
            ("sink",),
            registry=second,
        )
        self.source_lag_seconds = gauge("source_lag_seconds", "Now minus the checkpoint.", "source")
        self.source_last_event_timestamp_seconds = gauge(
            "source_last_event_timestamp_seconds",
            "Time of the newest event seen; 0 before the first.",
            "source",
        )
        self.source_up = gauge("source_up", "1 while the last request succeeded, else 0.", "source")
        self.sink_up = gauge("sink_up", "1 while the last request succeeded, else 0.", "sink")
        self.gap_seconds = counter(
            "gap_seconds", "Event time that was declared as not read.", "source", "reason"
        )
        self.sink_backlog_events = gauge(
            "sink_backlog_events", "Events in the spool that the sink has yet to take.", "sink"
        )
        self.sink_oldest_undelivered_seconds = gauge(
            "sink_oldest_undelivered_seconds",
            "How long the oldest of the backlog has waited; 0 without a backlog.",
            "sink",
        )
        self.spool_bytes = gauge("spool_bytes", "Bytes that the spool takes on disk.")
        self.spool_max_bytes = gauge("spool_max_bytes", "Bytes at which polling waits.")
        self.request_duration_seconds = histogram(
            "request_duration_seconds",
            "Time of one request, by the peer's name and the status or error code.",
            "peer",
            "code",
            buckets=REQUEST_SECONDS,
        )
        self.requests_retried = counter(
            "requests_retried", "Requests that had to be made again.", "peer", "reason"
        )
        self.event_lateness_seconds = histogram(
            "event_lateness_seconds",
            "Age of events that were found after their span had been read.",
            "source",
            buckets=LATENESS_SECONDS,
        )
        self.end_to_end_seconds = histogram(
            "end_to_end_seconds",
            "From when an event occurred to when a sink acknowledged it.",
            "source",
            "sink",
            buckets=END_TO_END_SECONDS,
        )
        self.build_info = gauge("build_info", "Always 1; the version is in the label.", "version")
        self.build_info.labels(version).set(1)

        # By the names that label them: those that start at nought, and those that also carry a
        # code of our own and so start with their first event.
        self._labelled: dict[_Labels, tuple[tuple[_Metric, ...], tuple[_Metric, ...]]] = {
            ("source",): (
                (
                    self.events_collected,
                    self.events_duplicate,
                    self.events_late,
                    self.events_unknown,
                    self.events_vanished,
                    self.events_ambiguous,
                    self.source_lag_seconds,
                    self.source_last_event_timestamp_seconds,
                    self.source_up,
                    self.event_lateness_seconds,
                ),
                (self.gap_seconds,),
            ),
            ("sink",): (
                (
                    self.events_possible_duplicate,
                    self.events_restamped,
                    self.events_already_stored,
                    self.events_diverted,
                    self.dead_letters,
                    self.sink_up,
                    self.sink_backlog_events,
                    self.sink_oldest_undelivered_seconds,
                ),
                (self.dead_letters_total,),
            ),
            ("source", "sink"): ((self.events_delivered, self.end_to_end_seconds), ()),
            ("peer",): ((), (self.request_duration_seconds, self.requests_retried)),
        }
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
        Take the names of a configuration that was read again.

        New names start at nought. Names that are gone lose their samples, or an alert on a source
        that nobody polls any more would never end. What stays keeps counting.
        """
        by_source: set[_Labels] = {(name,) for name in sources}
        by_sink: set[_Labels] = {(name,) for name in sinks}
        names: dict[_Labels, set[_Labels]] = {
            ("source",): by_source,
            ("sink",): by_sink,
            ("source", "sink"): set(pairs),
            ("peer",): by_source | by_sink,
        }
        for labels, (at_nought, later) in self._labelled.items():
            for gone in self._names.get(labels, set()) - names[labels]:
                for metric in (*at_nought, *later):
                    metric.remove_by_labels(dict(zip(labels, gone, strict=True)))
            for values in names[labels]:
                for metric in at_nought:
                    metric.labels(**dict(zip(labels, values, strict=True)))
        self._names = names

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """
        Return all metrics and their content type: OpenMetrics, or Prometheus' text format.

        OpenMetrics if *accept*, the header of a request, names it, as Prometheus does.
        """
        wanted = {each.partition(";")[0].strip().lower() for each in accept.split(",")}
        if _OPENMETRICS in wanted:
            text: bytes = openmetrics.generate_latest(self)  # type: ignore[no-untyped-call]  # as above
            return text, openmetrics.CONTENT_TYPE_LATEST
        text = b"".join(generate_latest(registry) for registry in self._registries)
        return text, CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics for OpenMetrics, which allows each name once."""
        for registry in self._registries:
            for family in registry.collect():
                if family.name == "auditrelay_dead_letters" and family.type == "counter":
                    # Its name without _total is that of the gauge: so it is of no type there.
                    samples = family.samples
                    family = Metric(f"{family.name}_total", family.documentation, "unknown")  # noqa: PLW2901  # the same, renamed
                    family.samples = samples
                yield family
