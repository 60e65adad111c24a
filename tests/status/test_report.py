"""The report: what it says of each source and sink, also of orphaned ones."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from msgspec import UNSET
from tests.support.stages import ENVIRON, SETTINGS

from auditrelay.config import load
from auditrelay.config.model import Config
from auditrelay.status.model import SpoolStatus
from auditrelay.status.report import GAPS_SHOWN, SHOWN, report
from auditrelay.store import SinkState, SourceState, Span
from auditrelay.store.conditions import SinkCondition, SourceCondition
from auditrelay.window import Interval

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


def configured(folder: Path) -> Config:
    path = folder / "auditrelay.toml"
    path.write_text(SETTINGS.format(folder=folder, room="1GiB"))
    return load(path, {"HOME": str(folder), **ENVIRON})


def state(name: str, *ledger: Span, started: datetime = NOW - 90 * DAY) -> SourceState:
    return SourceState(
        name, started, ledger, (), (), waiting=0, dead_letters=2, condition=SourceCondition()
    )


def test_what_is_only_in_the_store_is_orphaned_and_listed_last(tmp_path: Path) -> None:
    config = configured(tmp_path)
    sinks = [SinkState("a-former", 5, 7, NOW - MINUTE, 3, SinkCondition(up=True))]
    shown = report(config, [state("a-former")], sinks, spool_bytes=9, now=NOW)
    for rows, members in ((shown.sources, config.sources), (shown.sinks, config.sinks)):
        assert [row.name for row in rows] == [*members, "a-former"]
        assert [row.enabled for row in rows] == [True] * len(members) + [False]
        assert [row.orphaned is not UNSET for row in rows] == [False] * len(members) + [True]
    orphan = shown.sinks[-1]
    assert (orphan.backlog_events, orphan.oldest_undelivered_seconds) == (7, 60)
    assert (orphan.type, orphan.sources, orphan.dead_letters) == (None, (), 3)
    assert shown.spool == SpoolStatus(9, 1 << 30)


def test_a_source_that_has_not_begun_has_no_checkpoint(tmp_path: Path) -> None:
    row = report(configured(tmp_path), (), (), spool_bytes=0, now=NOW).sources[0]
    assert (row.started, row.last_fetched_timestamp, row.lag_seconds) == (None,) * 3
    assert (row.coverage, row.gap_seconds, row.up) == ((), 0, False)


def test_the_lag_is_measured_from_the_end_of_the_unbroken_coverage(tmp_path: Path) -> None:
    start = NOW - 90 * DAY
    ledger = (
        Span(Interval(start, NOW - 30 * MINUTE)),
        Span(Interval(NOW - 20 * MINUTE, NOW - 10 * MINUTE)),
    )
    sources = [state("acme-voice", *ledger)]
    row = report(configured(tmp_path), sources, (), spool_bytes=0, now=NOW).sources[0]
    assert row.lag_seconds == 1800
    assert row.last_fetched_timestamp == "2026-03-10T11:30:00Z"


def test_gaps_are_listed_longer_than_coverage_and_all_are_counted(tmp_path: Path) -> None:
    def spans(gap: str | None, *ends: datetime) -> list[Span]:
        return [Span(Interval(end - MINUTE, end), gap) for end in ends]

    ledger = [
        *spans("plan_range", NOW - GAPS_SHOWN, NOW - GAPS_SHOWN + MINUTE),
        *spans(None, NOW - SHOWN, NOW - SHOWN + MINUTE),
    ]
    sources = [state("acme-voice", *ledger)]
    row = report(configured(tmp_path), sources, (), spool_bytes=0, now=NOW).sources[0]
    assert [(span.state, span.reason) for span in row.coverage] == [
        ("gap", "plan_range"),
        ("covered", None),
    ]
    assert row.gap_seconds == 120


def test_the_key_for_pseudonyms_is_no_credential(tmp_path: Path) -> None:
    path = tmp_path / "auditrelay.toml"
    pseudonyms = (
        'pseudonymize = ["actor.email"]\npseudonym_key = "sixteen-letters-x"\n[sinks.splunk]'
    )
    path.write_text(
        SETTINGS.format(folder=tmp_path, room="1GiB").replace("[sinks.splunk]", pseudonyms)
    )
    config = load(path, {"HOME": str(tmp_path), **ENVIRON})
    shown = report(config, (), (), spool_bytes=0, now=datetime.now(UTC))
    assert [each.key for each in shown.sources[2].credentials or ()] == ["api_key"]
