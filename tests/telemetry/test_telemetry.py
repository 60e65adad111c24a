"""Metrics that are all there from the start, log lines that are safe, secrets that stay inside."""

import base64
import html
import io
import json
import logging
import os
import re
import shutil
import subprocess
import urllib.parse
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from auditrelay.settings.secrets import Resolved, Secret
from auditrelay.telemetry import logs as telemetry
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import Scrubber

PROMISED = {
    "auditrelay_events_collected_total": {"source"},
    "auditrelay_events_duplicate_total": {"source"},
    "auditrelay_events_late_total": {"source"},
    "auditrelay_events_unknown_total": {"source"},
    "auditrelay_events_vanished_total": {"source"},
    "auditrelay_events_ambiguous_total": {"source"},
    "auditrelay_events_delivered_total": {"sink", "source"},
    "auditrelay_events_possible_duplicate_total": {"sink"},
    "auditrelay_events_restamped_total": {"sink"},
    "auditrelay_events_already_stored_total": {"sink"},
    "auditrelay_events_diverted_total": {"sink"},
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
    "auditrelay_event_lateness_seconds": {"source"},
    "auditrelay_end_to_end_seconds": {"source", "sink"},
    "auditrelay_build_info": {"version"},
}


def metrics() -> Metrics:
    return Metrics("1.2.3", sources=["a", "b"], sinks=["s"], pairs=[("a", "s")])


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
    of.gap_seconds.labels("a", "limit").inc()
    of.requests_retried.labels("s", "timeout").inc()
    of.request_duration_seconds.labels("s", "200").observe(0.1)
    seen: dict[str, set[str]] = {}
    for name, labels in samples(of):
        family = re.sub("_(bucket|sum|count)$", "", name)
        seen.setdefault(family, set()).update(key for key, _ in labels if key != "le")
    assert seen == PROMISED


def test_what_is_labelled_by_configured_names_alone_starts_at_nought() -> None:
    of = metrics()
    assert value(of, "events_collected_total", source="b") == 0
    assert value(of, "dead_letters", sink="s") == 0
    assert value(of, "events_delivered_total", source="a", sink="s") == 0
    assert value(of, "end_to_end_seconds_count", source="a", sink="s") == 0
    assert value(of, "events_delivered_total", source="b", sink="s") is None
    assert value(of, "build_info", version="1.2.3") == 1


PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;q=0.75,application/openmetrics-text;version=0.0.1"
    ";q=0.5,text/plain;version=0.0.4;q=0.25,*/*;q=0.1"
)
"""What Prometheus 2 sends as Accept."""


def busy() -> Metrics:
    """Return metrics with a sample of everything, and with names that need escaping."""
    of = Metrics("1.2.3", sources=['a"\\\n', "b"], sinks=["s"], pairs=[('a"\\\n', "s")])
    of.dead_letters_total.labels("s", "too_old").inc(3)
    of.dead_letters.labels("s").set(2)
    of.gap_seconds.labels("b", "limit").inc(0.5)
    of.requests_retried.labels("s", "timeout").inc()
    of.request_duration_seconds.labels("s", "200").observe(0.1)
    of.event_lateness_seconds.labels("b").observe_all([1, 1e9])
    of.source_lag_seconds.labels("b").set(1.5)
    return of


def test_who_asks_for_openmetrics_gets_it_with_the_same_values_under_the_same_names() -> None:
    text, content_type = busy().render(PROMETHEUS)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert text.endswith(b"# EOF\n")
    assert text.count(b"# EOF") == 1
    # It refuses what the format forbids.
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
def test_who_asks_for_anything_else_gets_prometheus_text(accept: str) -> None:
    text, content_type = busy().render(accept)
    assert content_type.startswith("text/plain; version=0.0.4")
    assert b"# EOF" not in text
    assert b"# TYPE auditrelay_dead_letters_total counter\n" in text
    assert b"# TYPE auditrelay_dead_letters gauge\n" in text


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_wrong_with_the_exposition() -> None:
    said = subprocess.run(
        ["promtool", "check", "metrics"], input=busy().render()[0], capture_output=True, check=False
    )
    assert (said.returncode, said.stdout + said.stderr) == (0, b"")


def test_a_histogram_counts_each_value_up_to_its_bound() -> None:
    of = metrics()
    child = of.end_to_end_seconds.labels("a", "s")
    child.observe(1)
    child.observe_all([1.5, 2.5, 10**9])
    labels = {"source": "a", "sink": "s"}
    assert value(of, "end_to_end_seconds_bucket", **labels, le="1.0") == 1
    assert value(of, "end_to_end_seconds_bucket", **labels, le="2.5") == 3
    assert value(of, "end_to_end_seconds_bucket", **labels, le="2592000.0") == 3
    assert value(of, "end_to_end_seconds_bucket", **labels, le="+Inf") == 4
    assert value(of, "end_to_end_seconds_count", **labels) == 4
    assert value(of, "end_to_end_seconds_sum", **labels) == 10**9 + 5


def test_a_histogram_refuses_labels_that_it_does_not_have() -> None:
    with pytest.raises(ValueError, match="has the labels source, sink"):
        metrics().end_to_end_seconds.labels("a")


def test_two_sets_of_metrics_do_not_know_each_other() -> None:
    one, two = metrics(), metrics()
    one.events_collected.labels("a").inc(5)
    assert value(two, "events_collected_total", source="a") == 0


def test_names_that_left_the_configuration_leave_the_metrics_and_others_keep_counting() -> None:
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


# --- the scrubber ------------------------------------------------------------------------------

SECRET = 'sk/live+1"\\ &<é'.replace("é", "=")


def scrubber(*secrets: str) -> Scrubber:
    made = Scrubber()
    made.learn(*map(Secret, secrets))
    return made


@pytest.mark.parametrize(
    "spell",
    [
        str,
        repr,
        json.dumps,
        html.escape,
        urllib.parse.quote,
        urllib.parse.quote_plus,
        lambda text: urllib.parse.quote(text, safe=""),
        lambda text: urllib.parse.quote(text, safe="").lower(),
        lambda text: json.dumps(text).replace("/", "\\/"),
        lambda text: text.replace("<", "\\u003c").replace("&", "\\u0026"),
        str.upper,
    ],
)
def test_a_secret_is_hidden_however_it_is_spelled(spell: Callable[[str], str]) -> None:
    said = scrubber(SECRET).scrub(f"peer said: {spell(SECRET)} is wrong")
    assert "***" in said
    assert "live" not in said.lower()
    assert said.startswith("peer said: ")
    assert said.endswith(" is wrong")


@given(
    secret=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=6, max_size=60),
    before=st.binary(max_size=7),
    after=st.binary(max_size=7),
    encode=st.sampled_from([base64.b64encode, base64.urlsafe_b64encode]),
    quoted=st.booleans(),
)
def test_a_secret_is_hidden_inside_of_any_base64(
    secret: str,
    before: bytes,
    after: bytes,
    encode: Callable[[bytes], bytes],
    *,
    quoted: bool,
) -> None:
    text = encode(before + secret.encode() + after).decode()
    said = scrubber(secret).scrub(urllib.parse.quote(text, safe="") if quoted else text)
    assert said.endswith("***")
    # What is left decodes to what stood before the secret, and to nothing of it.
    left = urllib.parse.unquote(said.removesuffix("***"))
    assert len(left) * 6 <= len(before) * 8


def test_the_password_of_basic_authentication_is_hidden() -> None:
    header = base64.b64encode(b"elastic:correct horse battery").decode()
    said = scrubber("correct horse battery").scrub(f"got Authorization: Basic {header}, refused")
    assert said.startswith("got Authorization: Basic ")
    assert said.endswith("***, refused")


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=6, max_size=40))
def test_no_secret_is_found_after_scrubbing(secret: str) -> None:
    said = scrubber(secret).scrub(f"a {secret} b{secret}c")
    assert secret not in said.replace("***", " ")


def test_a_short_secret_is_hidden_only_where_it_stands_alone() -> None:
    made = scrubber("in")
    assert made.scrub("token=in was in 'in' inside of information") == (
        "token=*** was *** '***' inside of information"
    )


def test_ordinary_text_is_left_as_it_is() -> None:
    text = "HTTP 400: field 'time' is malformed (index 7), see https://docs.example.com/a?b=c"
    assert scrubber(SECRET, "hunter22").scrub(text) == text


def test_a_secret_on_the_edge_of_the_cut_does_not_show_its_first_part() -> None:
    secret = "abcdefghijklmnopqrstuvwxyz"
    made = scrubber(secret)
    for at in range(40):
        assert "abc" not in made.scrub("." * at + secret * 30 + "." * 9, 60)


def test_text_is_cut_and_says_so() -> None:
    assert scrubber().scrub("x" * 501) == "x" * 499 + "…"
    assert scrubber().scrub("x" * 500) == "x" * 500
    assert len(scrubber(SECRET).scrub("\n" * 10**6)) == 500


def test_control_characters_become_visible() -> None:
    said = scrubber().scrub("a\r\nb\x1b[31m\x00\u202e\u2028\ud800")
    assert said == "a\\r\\nb\\x1b[31m\\x00\\u202e\\u2028\\ud800"


def test_a_secret_that_was_read_again_is_hidden_as_well_as_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("first-key-1")
    secret = Secret(Resolved(f"${{file:{file}}}", {}))
    made = Scrubber()
    made.learn(secret)
    assert made.scrub("first-key-1") == "***"
    file.write_text("second-key-2")
    assert secret.reload()
    assert made.scrub("first-key-1 second-key-2") == "*** ***"


# --- the log -----------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class FullDisk(io.StringIO):
    def write(self, _text: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Everything that is logged, as JSON; the hidden secret is ``hunter2222``."""
    monkeypatch.setattr(telemetry, "scrubber", scrubber("hunter2222"))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    root.handlers = []
    telemetry.setup("info", "json", stream)
    yield stream
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    root.handlers, root.level = handlers, level


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_time_level_event_and_fields(log: io.StringIO) -> None:
    telemetry.log.info("window_collected", source="a", pages=3)
    (line,) = lines(log)
    assert list(line) == ["timestamp", "level", "event", "source", "pages"]
    assert line["level"] == "info"
    assert line["event"] == "window_collected"
    assert line["timestamp"].endswith("Z")
    assert datetime.fromisoformat(line["timestamp"]).tzinfo == UTC


def test_lines_below_the_level_are_left_out(log: io.StringIO) -> None:
    telemetry.log.debug("batch_delivered")
    telemetry.setup("debug", "json", log)
    telemetry.log.debug("batch_delivered")
    telemetry.setup("error", "json", log)
    telemetry.log.warning("request_retried")
    assert [line["event"] for line in lines(log)] == ["batch_delivered"]


def test_no_secret_leaves_in_a_log_line(log: io.StringIO) -> None:
    telemetry.log.info(
        "e",
        a="hunter2222",
        b={"hunter2222": ["x hunter2222", ("hunter2222",)]},
        c=ValueError("hunter2222"),
        d=b"hunter2222",
        e={"hunter2222"},
    )
    try:
        int("hunter2222")
    except ValueError:
        telemetry.log.exception("crashed")
    logging.getLogger("uvicorn").error("got %s", "hunter2222")
    assert "hunter2222" not in log.getvalue()
    assert len(lines(log)) == 3


def test_nobody_can_forge_a_line(log: io.StringIO) -> None:
    forged = 'x"}\n{"level":"error","event":"forged"}\r\x1b[2J\u2028'
    telemetry.log.info("e", message=forged)
    telemetry.log.info(forged)
    logging.getLogger("x").warning(forged)
    assert len(lines(log)) == 3
    assert all("\n" not in str(line) and "\x1b" not in str(line) for line in lines(log))
    assert not any(line["event"] == "forged" for line in lines(log))


def test_nobody_can_forge_a_line_on_a_terminal(log: io.StringIO) -> None:
    terminal = Terminal()
    telemetry.setup("info", "auto", terminal)
    telemetry.log.info("e", message="a\nb\x1b[2Jc")
    assert "a\\nb\\x1b[2Jc" in terminal.getvalue()
    assert terminal.getvalue().count("\n") == 1


def test_auto_is_json_unless_it_is_a_terminal(
    log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal, file = Terminal(), io.StringIO()
    telemetry.setup("info", "auto", terminal)
    telemetry.log.info("started", sources=2)
    telemetry.setup("info", "auto", file)
    telemetry.log.info("started", sources=2)
    assert re.search(r"\[info +\] started +sources=2\n", terminal.getvalue())
    assert json.loads(file.getvalue())["sources"] == 2


def test_the_journal_is_told_how_grave_a_line_is_and_nobody_else(
    log: io.StringIO, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "stderr"
    with path.open("w+") as stream:
        status = os.fstat(stream.fileno())
        for journal in (f"{status.st_dev}:{status.st_ino}", "8:12345"):
            monkeypatch.setenv("JOURNAL_STREAM", journal)
            telemetry.setup("debug", "auto", stream)
            for level in ("debug", "info", "warning", "error"):
                telemetry.log.log(getattr(logging, level.upper()), "started")
    lines = path.read_text().splitlines()
    assert [line.partition("{")[0] for line in lines] == ["<7>", "<6>", "<4>", "<3>", *[""] * 4]
    assert {json.loads(line[line.index("{") :])["event"] for line in lines} == {"started"}


def test_libraries_are_heard_from_warning_on_and_httpx_shows_no_address(log: io.StringIO) -> None:
    telemetry.setup("debug", "json", log)
    logging.getLogger("httpx").info('HTTP Request: GET https://h/?token=x "HTTP/1.1 200 OK"')
    logging.getLogger("apscheduler").debug("looking for jobs")
    logging.getLogger("uvicorn.access").info("GET /?token=x")
    logging.getLogger("apscheduler").warning("run of job %s missed", "poll")
    logging.getLogger("odd").log(35, "between %d", "levels")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("deprecated", stacklevel=1)
    told = [(line["level"], line["event"], line["logger"]) for line in lines(log)]
    assert told == [
        ("warning", "library_message", "apscheduler"),
        ("warning", "library_message", "odd"),
        ("warning", "library_message", "py.warnings"),
    ]
    assert lines(log)[0]["message"] == "run of job poll missed"


def test_an_exception_of_a_library_comes_with_its_traceback(log: io.StringIO) -> None:
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        logging.getLogger("asyncio").exception("task failed")
    (line,) = lines(log)
    assert "test_telemetry.py" in line["exception"]
    assert line["exception"].endswith("ZeroDivisionError: division by zero")


def test_whatever_a_field_holds_becomes_json(log: io.StringIO) -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    deep: list[Any] = []
    deep.append(deep)
    telemetry.log.info(
        "e", at=noon, wait=timedelta(seconds=1.5), huge=2**70, path=Path("/x"), none=None, deep=deep
    )
    (line,) = lines(log)
    assert line["at"] == "2026-03-01T12:00:00Z"
    assert line["wait"] == 1.5
    assert line["huge"] == str(2**70)
    assert line["path"] == "/x"
    assert line["none"] is None


def test_a_long_text_is_cut(log: io.StringIO) -> None:
    telemetry.log.info("e", text="x" * 10**6)
    assert len(lines(log)[0]["text"]) == telemetry.LONGEST


def test_a_full_disk_behind_the_log_does_not_stop_anything(log: io.StringIO) -> None:
    telemetry.setup("info", "json", FullDisk())
    telemetry.log.error("event_dead_lettered")
