"""The metrics are all exposed from the start, in both formats."""

import re
import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from auditrelay.telemetry.metrics import END_TO_END_SECONDS, TAKEOVERS, Metrics, Observations

BOUNDS = [round(bound * 1_000_000) for bound in END_TO_END_SECONDS]

PROMISED = {
    "auditrelay_events_collected_total": {"source"},
    "auditrelay_events_duplicate_total": {"source"},
    "auditrelay_values_redacted_total": {"source"},
    "auditrelay_events_late_total": {"source"},
    "auditrelay_events_unknown_total": {"source"},
    "auditrelay_events_not_normalized_total": {"source"},
    "auditrelay_events_deleted_at_source_total": {"source"},
    "auditrelay_events_changed_at_source_total": {"source"},
    "auditrelay_events_ambiguous_total": {"source"},
    "auditrelay_events_delivered_total": {"sink", "source"},
    "auditrelay_events_excluded_total": {"sink", "source"},
    "auditrelay_events_excluded_by_glob_total": {"sink", "glob"},
    "auditrelay_sent_bytes_total": {"sink"},
    "auditrelay_sent_uncompressed_bytes_total": {"sink"},
    "auditrelay_events_possible_duplicate_total": {"sink"},
    "auditrelay_events_restamped_total": {"sink"},
    "auditrelay_events_reduced_total": {"sink"},
    "auditrelay_events_already_stored_total": {"sink"},
    "auditrelay_events_diverted_total": {"sink"},
    "auditrelay_events_dropped_total": {"sink"},
    "auditrelay_events_stored_changed_total": {"sink"},
    "auditrelay_dead_letters_total": {"sink", "reason"},
    "auditrelay_dead_letters": {"sink"},
    "auditrelay_source_lag_seconds": {"source"},
    "auditrelay_source_last_event_timestamp_seconds": {"source"},
    "auditrelay_source_up": {"source"},
    "auditrelay_sink_up": {"sink"},
    "auditrelay_gap_seconds_total": {"source", "reason"},
    "auditrelay_sink_backlog_events": {"sink"},
    "auditrelay_sink_oldest_undelivered_seconds": {"sink"},
    "auditrelay_spool_bytes": set(),
    "auditrelay_spool_max_bytes": set(),
    "auditrelay_request_duration_seconds": {"peer", "code"},
    "auditrelay_requests_retried_total": {"peer", "reason"},
    "auditrelay_unforeseen_errors_total": {"peer"},
    "auditrelay_event_lateness_seconds": {"source"},
    "auditrelay_end_to_end_seconds": {"source", "sink"},
    "auditrelay_evidence_entries": set(),
    "auditrelay_evidence_head_timestamp_seconds": set(),
    "auditrelay_evidence_untold_heads": set(),
    "auditrelay_evidence_broken": set(),
    "auditrelay_build_info": {"version"},
}


SHARED = {
    "auditrelay_replicas": set(),
    "auditrelay_unit_held": {"unit"},
    "auditrelay_takeovers_total": {"reason"},
    "auditrelay_fenced_total": set(),
    "auditrelay_store_rolled_back_total": set(),
    "auditrelay_store_up": set(),
    "auditrelay_store_request_seconds": {"what"},
    "auditrelay_store_retried_total": {"reason"},
    "auditrelay_clock_offset_seconds": set(),
    "auditrelay_pulse_age_seconds": set(),
}
"""With a store that several replicas share."""


def metrics(*, shared: bool = False) -> Metrics:
    return Metrics("1.2.3", sources=["a", "b"], sinks=["s"], pairs=[("a", "s")], shared=shared)


def samples(of: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    found = {}
    for family in text_string_to_metric_families(of.render()[0].decode()):
        for sample in family.samples:
            found[sample.name, frozenset(sample.labels.items())] = sample.value
    return found


def value(of: Metrics, name: str, **labels: str) -> float | None:
    return samples(of).get((f"auditrelay_{name}", frozenset(labels.items())))


def test_every_promised_metric_is_exposed_before_its_first_event() -> None:
    text = metrics().render()[0].decode()
    exposed = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
    assert exposed == set(PROMISED)
    assert "_created" not in text


def test_every_promised_metric_has_its_promised_labels() -> None:
    of = metrics()
    of.dead_letters_total.labels("s", "too_old").inc()
    of.events_excluded_by_glob.labels("s", "session.*").inc()
    of.gap_seconds.labels("a", "limit").inc()
    of.requests_retried.labels("s", "timeout").inc()
    of.request_duration_seconds.labels("s", "200").observe(0.1)
    seen: dict[str, set[str]] = {}
    for name, labels in samples(of):
        family = re.sub("_(bucket|sum|count)$", "", name)
        seen.setdefault(family, set()).update(key for key, _ in labels if key != "le")
    assert seen == PROMISED


def test_a_metric_labelled_by_configured_names_alone_starts_at_0() -> None:
    of = metrics()
    assert value(of, "events_collected_total", source="b") == 0
    assert value(of, "dead_letters", sink="s") == 0
    assert value(of, "events_delivered_total", source="a", sink="s") == 0
    assert value(of, "end_to_end_seconds_count", source="a", sink="s") == 0
    assert value(of, "events_delivered_total", source="b", sink="s") is None
    assert value(of, "build_info", version="1.2.3") == 1


def test_with_a_shared_store_there_are_more_from_the_start_and_without_one_none() -> None:
    of = metrics(shared=True)
    text = of.render()[0].decode()
    exposed = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
    assert exposed == set(PROMISED) | set(SHARED)
    of.unit_held.labels("source a").set(1)
    seen = {
        name: set(re.findall(r'[{,](\w+)="', line)) - {"le"}
        for line in text.splitlines() + of.render()[0].decode().splitlines()
        for name in SHARED
        if re.match(rf"{name}(_bucket)?[{{ ]", line)
    }
    assert seen == SHARED
    assert [value(of, "takeovers_total", reason=each) for each in TAKEOVERS] == [0, 0, 0]
    assert value(of, "store_request_seconds_count", what="write") == 0
    assert value(of, "store_retried_total", reason="lost") == 0
    of.configure(sources=["c"])
    assert value(of, "takeovers_total", reason="free") == 0  # it is no name of a configuration


PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;q=0.75,application/openmetrics-text;version=0.0.1"
    ";q=0.5,text/plain;version=0.0.4;q=0.25,*/*;q=0.1"
)
"""What Prometheus 2 sends as Accept."""


def busy() -> Metrics:
    """Return metrics with a sample of each, and with names that need escaping."""
    of = Metrics("1.2.3", sources=['a"\\\n', "b"], sinks=["s"], pairs=[('a"\\\n', "s")])
    of.dead_letters_total.labels("s", "too_old").inc(3)
    of.dead_letters.labels("s").set(2)
    of.gap_seconds.labels("b", "limit").inc(0.5)
    of.requests_retried.labels("s", "timeout").inc()
    of.request_duration_seconds.labels("s", "200").observe(0.1)
    of.event_lateness_seconds.labels("b").observe_micros([1_000_000, 10**15])
    of.source_lag_seconds.labels("b").set(1.5)
    return of


def test_a_scraper_that_accepts_openmetrics_gets_the_same_values_under_the_same_names() -> None:
    text, content_type = busy().render(PROMETHEUS)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert text.endswith(b"# EOF\n")
    assert text.count(b"# EOF") == 1
    # This parser refuses what the format forbids.
    strict = list(openmetrics_families(text.decode()))  # type: ignore[no-untyped-call]  # its gap
    names = [family.name for family in strict]
    assert len(names) == len(set(names)) == len(PROMISED)
    found = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in strict
        for sample in family.samples
    }
    assert found == samples(busy())


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "text/plain",
        "text/html, application/xhtml+xml, */*;q=0.8",
        "text/plain;version=x",
    ],
)
def test_any_other_scraper_gets_prometheus_text(accept: str) -> None:
    text, content_type = busy().render(accept)
    assert content_type.startswith("text/plain; version=0.0.4")
    assert b"# EOF" not in text
    assert b"# TYPE auditrelay_dead_letters_total counter\n" in text
    assert b"# TYPE auditrelay_dead_letters gauge\n" in text


@pytest.mark.process
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_wrong_with_the_exposition() -> None:
    ended = subprocess.run(
        ["promtool", "check", "metrics"], input=busy().render()[0], capture_output=True, check=False
    )
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, b"")


def test_a_histogram_counts_each_value_up_to_its_bound() -> None:
    of = metrics()
    child = of.end_to_end_seconds.labels("a", "s")
    child.observe(1)
    child.observe_micros([1_500_000, 2_500_000, 10**15])
    labels = {"source": "a", "sink": "s"}
    assert value(of, "end_to_end_seconds_bucket", **labels, le="1.0") == 1
    assert value(of, "end_to_end_seconds_bucket", **labels, le="2.5") == 3
    assert value(of, "end_to_end_seconds_bucket", **labels, le="2592000.0") == 3
    assert value(of, "end_to_end_seconds_bucket", **labels, le="+Inf") == 4
    assert value(of, "end_to_end_seconds_count", **labels) == 4
    assert value(of, "end_to_end_seconds_sum", **labels) == 10**9 + 5


@given(st.lists(st.integers(-(10**7), 4 * 10**12) | st.sampled_from(BOUNDS), max_size=50))
def test_a_histogram_counts_a_batch_as_it_would_count_its_values_one_by_one(
    ages: list[int],
) -> None:
    one_by_one, batch = (Observations(END_TO_END_SECONDS) for _ in range(2))
    for age in ages:
        one_by_one.observe(age / 1_000_000)
    for half in (ages[::2], ages[1::2]):
        batch.observe_micros(half)
    assert batch.counts == one_by_one.counts
    assert batch.sum == pytest.approx(one_by_one.sum)


def test_a_histogram_refuses_labels_that_it_does_not_have() -> None:
    with pytest.raises(ValueError, match="has the labels source, sink"):
        metrics().end_to_end_seconds.labels("a")


def test_two_sets_of_metrics_are_independent() -> None:
    one, two = metrics(), metrics()
    one.events_collected.labels("a").inc(5)
    assert value(two, "events_collected_total", source="a") == 0


def test_names_removed_from_the_configuration_lose_their_samples_and_others_keep_counting() -> None:
    of = Metrics(sources=["a", "b"], sinks=["s", "t"], pairs=[("a", "s"), ("b", "t")])
    of.events_collected.labels("a").inc(5)
    of.gap_seconds.labels("b", "limit").inc()
    of.dead_letters_total.labels("t", "too_old").inc()
    of.request_duration_seconds.labels("t", "200").observe(1)
    of.request_duration_seconds.labels("s", "200").observe(1)
    of.configure(sources=["a", "c"], sinks=["s"], pairs=[("a", "s"), ("c", "s")])
    names = {item for _, labels in samples(of) for item in labels}
    assert not names & {("source", "b"), ("sink", "t"), ("peer", "t")}
    assert ("peer", "s") in names
    assert value(of, "events_collected_total", source="a") == 5
    assert value(of, "events_collected_total", source="c") == 0


def test_a_gauge_can_be_a_function() -> None:
    of = metrics()
    of.source_lag_seconds.labels("a").set_function(lambda: 42)
    assert value(of, "source_lag_seconds", source="a") == 42


@pytest.mark.process
def test_no_counter_has_a_second_series_whatever_else_is_imported() -> None:
    code = (
        "from auditrelay.telemetry.metrics import Metrics;"
        "print(Metrics(sources=['a'], sinks=['b']).render()[0].decode())"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "auditrelay_events_collected_total" in shown.stdout
    assert "_created" not in shown.stdout
