"""What is wrong with replicas and with the store that they share."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.situations import NOW, held, replica, situation
from tests.support.stages import ENVIRON, SETTINGS

from auditrelay.config import load
from auditrelay.config.model import Config
from auditrelay.status.findings import PULSES, judge
from auditrelay.status.model import Finding, Report, StoreStatus
from auditrelay.status.report import report
from auditrelay.store import SinkState, SourceState
from auditrelay.store.conditions import SinkCondition, SourceCondition
from auditrelay.store.leases import KEEPER
from auditrelay.store.parts import sink_units
from auditrelay.store.replicas import LeaseRow, Replica, Served

UNITS = [
    *(f"source acme-{name}" for name in ("voice", "calls", "access")),
    *(f"sink {name}" for name in ("splunk", "datadog", "elastic")),
    KEEPER,
]
WELL = StoreStatus(up=True, away_since=None, disagreements={})


@pytest.fixture
def config(tmp_path: Path) -> Config:
    path = tmp_path / "auditrelay.toml"
    path.touch(mode=0o600)
    path.write_text(SETTINGS.format(folder=tmp_path, room="1GiB"))
    return load(path, {"HOME": str(tmp_path), **ENVIRON})


def reported(
    config: Config,
    *replicas: Replica,
    leases: list[LeaseRow] | None = None,
    store: StoreStatus | None = WELL,
    **changes: Any,
) -> Report:
    """Return the report of a state in which all is well but for what is given."""
    sources = [
        SourceState(name, NOW - timedelta(minutes=1), (), (), (), 0, 0, SourceCondition(up=True))
        for name in config.sources
    ]
    sinks = [SinkState(name, 0, 0, None, 0, SinkCondition(up=True)) for name in config.sinks]
    leases = [held(unit, "a") for unit in UNITS] if leases is None else leases
    seen = situation([*replicas], *leases)
    return report(
        config, sources, sinks, spool_bytes=0, now=NOW, situation=seen, store=store, **changes
    )


def others(leases: LeaseRow) -> list[LeaseRow]:
    """Return leases of "a" for all units but that one."""
    return [leases, *(held(unit, "a") for unit in UNITS if unit != leases.unit)]


def found(of: Report) -> list[tuple[str, str, str]]:
    return [(each.code, each.level, each.name) for each in of.findings]


def only(of: Report) -> Finding:
    (finding,) = of.findings
    return finding


def test_nothing_is_wrong_with_replicas_that_hold_everything(config: Config) -> None:
    assert found(reported(config, replica("a"), replica("b"))) == []


def test_a_unit_without_replica_recovers_by_itself_for_a_minute(config: Config) -> None:
    for seconds, level in ((59, "recovering"), (60, "action_required")):
        since = NOW - timedelta(seconds=seconds)
        free = others(held("sink splunk", None, since))
        finding = only(reported(config, replica("a"), leases=free))
        assert (finding.code, finding.level, finding.name) == ("unheld", level, "splunk")
        assert finding.what == "No replica holds splunk."
        assert finding.since == since.isoformat().replace("+00:00", "Z")
    assert "Start a replica" in finding.do


def test_what_no_replica_holds_is_shown_as_not_up_and_nothing_else_about_it(
    config: Config,
) -> None:
    of = reported(config, replica("a"), leases=others(held("source acme-voice", None)))
    (row,) = (row for row in of.sources if row.name == "acme-voice")
    assert not row.up
    assert found(of) == [("unheld", "recovering", "acme-voice")]


def test_a_part_of_a_sink_that_no_replica_holds_is_named(config: Config) -> None:
    parts = sink_units("splunk", 2)
    serving = replica("a", serves={unit: Served("") for unit in parts})
    held_parts = [held(unit, "a") for unit in (*UNITS, *parts) if unit != "sink splunk"]
    assert found(reported(config, serving, leases=held_parts)) == []
    old = [*held_parts, held("sink splunk", None)]
    assert found(reported(config, serving, leases=old)) == [], "it is in two parts now"
    lost = [each for each in old if each.unit != parts[1]]
    lost.append(held(parts[1], None, NOW - timedelta(hours=1)))
    finding = only(reported(config, serving, leases=lost))
    assert (finding.code, finding.level, finding.name) == ("unheld", "action_required", "splunk")
    assert finding.what == "No replica holds part 1/2 of splunk."


def test_a_part_that_cannot_begin_on_one_replica_is_shown_there(config: Config) -> None:
    parts = sink_units("splunk", 2)
    serving = replica("a", serves={unit: Served("") for unit in parts})
    other = replica("b", info={"unable": {parts[0]: "it has a bug"}})
    leases = [held(unit, "a") for unit in (*UNITS, *parts) if unit != "sink splunk"]
    finding = only(reported(config, serving, other, leases=leases))
    assert finding.what == "The replica b cannot serve splunk 0/2: it has a bug."


def test_a_state_without_keeper(config: Config) -> None:
    long_ago = NOW - timedelta(hours=1)
    finding = only(reported(config, replica("a"), leases=others(held(KEEPER, None, long_ago))))
    assert (finding.code, finding.kind, finding.level) == ("unheld", "instance", "action_required")


def test_a_unit_of_another_configuration_is_not_ours_to_find(config: Config) -> None:
    leases = [held("source theirs", None), *(held(unit, "a") for unit in UNITS)]
    assert found(reported(config, replica("a"), leases=leases)) == []


def test_why_no_replica_can_hold_it_is_what_has_to_be_removed(config: Config) -> None:
    why = {"unable": {"source acme-voice": "its directory /x is not there"}}
    free = others(held("source acme-voice", None, NOW - timedelta(hours=1)))
    finding = only(reported(config, replica("a", info=why), leases=free))
    assert finding.code == "unheld"
    assert "a: its directory /x is not there" in finding.do


def test_what_one_replica_cannot_serve_and_another_holds_needs_no_action(config: Config) -> None:
    why = {"unable": {"source acme-voice": "its directory /x is not there"}}
    finding = only(reported(config, replica("a"), replica("b", info=why)))
    assert (finding.code, finding.level, finding.kind) == ("unable", "recovering", "instance")
    assert finding.what == ("The replica b cannot serve acme-voice: its directory /x is not there.")


def test_a_command_sees_that_no_replica_runs(config: Config) -> None:
    died = replica("a", expires_in=-600.0)
    finding = only(reported(config, died, store=None))
    assert (finding.code, finding.level) == ("no_replicas", "action_required")
    assert finding.since == "2026-03-10T11:50:00Z"


def test_a_store_that_is_away_is_the_one_thing_to_look_at(config: Config) -> None:
    for seconds, level in ((59, "recovering"), (60, "action_required")):
        away = StoreStatus(
            up=False,
            away_since=(NOW - timedelta(seconds=seconds)).isoformat(),
            disagreements={},
        )
        # What was seen last may be of the middle of a takeover.
        for seen in (replica("a", expires_in=-30.0), replica("b")):
            of = reported(config, seen, store=away)
            assert found(of) == [("store_away", level, "store")]


def test_a_clock_more_than_30_seconds_off_is_found_on_any_replica(config: Config) -> None:
    for offset, words in ((30.5, "30 s behind"), (-31.0, "31 s ahead of")):
        finding = only(reported(config, replica("a"), replica("b", info={"offset": offset})))
        assert finding.code == "store_clock"
        assert finding.what == f"The clock of the replica b is {words} that of the database."
    assert found(reported(config, replica("a", info={"offset": -30.0}))) == []


def test_a_slow_pulse_is_found_on_any_replica(config: Config) -> None:
    assert found(reported(config, replica("a", info={"round_trip": 2.0}))) == []
    finding = only(reported(config, replica("a"), replica("b", info={"round_trip": 2.1})))
    assert (finding.code, finding.level) == ("store_slow", "recovering")


def test_old_versions_of_rows_that_cannot_be_removed_are_found(config: Config) -> None:
    keeper, other = replica("a", info={"old_rows": 20_000}), replica("b")
    assert found(reported(config, keeper, other)) == []
    finding = only(reported(config, replica("a", info={"old_rows": 20_001}), other))
    assert (finding.code, finding.level) == ("old_snapshot", "action_required")
    assert "20,001 old versions" in finding.what
    dead = replica("a", info={"old_rows": 20_001}, expires_in=-1.0)
    assert "old_snapshot" not in {code for code, *_ in found(reported(config, dead, other))}


def test_replicas_that_do_not_agree_on_a_unit(config: Config) -> None:
    since = (NOW - timedelta(minutes=20)).isoformat()
    disputed = StoreStatus(up=True, away_since=None, disagreements={"source acme-voice": since})
    finding = only(reported(config, replica("a"), store=disputed))
    assert (finding.code, finding.since) == ("disagreement", since)
    assert "[sources.acme-voice]" in finding.what


def test_what_is_stuck_on_another_replica_is_found_here(config: Config) -> None:
    other = replica("b", info={"stuck": ["splunk", PULSES]})
    of = reported(config, replica("a"), other, stuck=["splunk"])
    assert found(of) == [
        ("stuck", "action_required", "splunk"),
        ("stuck", "action_required", PULSES),
    ]
    dead = replica("b", info={"stuck": ["splunk"]}, expires_in=-1.0)
    assert found(reported(config, replica("a"), dead)) == []


def test_without_a_shared_store_there_are_no_replicas_to_judge(config: Config) -> None:
    of = report(config, (), (), spool_bytes=0, now=NOW)
    assert not {each.code for each in judge(of)} & {"no_replicas", "unheld", "store_away"}
