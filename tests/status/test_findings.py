"""What is wrong, since when, and what to do: each kind of problem, and their order."""

import shlex
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest

from auditrelay.cli import lazy
from auditrelay.config.model import SINKS
from auditrelay.settings.secrets import Secret
from auditrelay.status.findings import judge
from auditrelay.status.model import (
    AnyPeer,
    CoverageSpan,
    Credential,
    EvidenceStatus,
    Finding,
    Report,
    SinkStatus,
    SourceStatus,
    SpoolStatus,
)

P = TypeVar("P", SourceStatus, SinkStatus, AnyPeer)

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
Table = dict[str, Any]


def ago(**span: float) -> str:
    return (NOON - timedelta(**span)).isoformat()


def source(**changes: Any) -> SourceStatus:
    usual: Table = {
        "name": "voice",
        "type": "cekura",
        "enabled": True,
        "address_key": "base_url",
        "credentials": (Credential("api_key", ("${env:KEY}",)),),
        "directory": None,
        "up": True,
        "held": False,
        "since": ago(days=2),
        "paused_since": None,
        "silent": False,
        "started": ago(days=9),
        "last_fetched_timestamp": ago(seconds=95),
        "lag_seconds": 95.0,
        "poll_interval_seconds": 300.0,
        "settle_seconds": 60.0,
        "last_event_at": ago(minutes=9),
        "last_poll_at": ago(minutes=1),
        "last_error": None,
        "error_code": None,
        "gap_seconds": 0,
        "coverage": (),
        "late": (),
        "unknown_actions": 0,
        "odd_times": 0,
        "dead_letters": 0,
        "lateness": None,
        "suggested_settle": None,
        "suggested_overlap": None,
    }
    return SourceStatus(**{**usual, **changes})


def sink(**changes: Any) -> SinkStatus:
    usual: Table = {
        "name": "splunk",
        "type": "splunk_hec",
        "enabled": True,
        "address_key": "url",
        "credentials": (Credential("token", ("${file:/run/t}",)),),
        "proves": "taken",
        "sources": ("voice",),
        "up": True,
        "held": False,
        "since": ago(days=2),
        "backlog_events": 0,
        "oldest_undelivered_seconds": 0,
        "dead_letters": 0,
        "delivered_per_minute": None,
        "last_delivered_at": ago(minutes=2),
        "last_error": None,
        "error_code": None,
    }
    return SinkStatus(**{**usual, **changes})


def report(*rows: AnyPeer, fill: float = 0.01, **changes: Any) -> Report:
    usual: Table = {
        "version": "1.0",
        "at": NOON.isoformat(),
        "config": "/etc/auditrelay/config.toml",
        "sources": tuple(row for row in rows if row.kind == "source") or (source(),),
        "sinks": tuple(row for row in rows if row.kind == "sink") or (sink(),),
        "spool": SpoolStatus(round(fill * 1000), 1000),
        "stuck": (),
        "clock_ahead_seconds": {},
        "restart_command": "systemctl restart auditrelay",
        "findings": (),
    }
    return Report(**{**usual, **changes})


def span(start: str, end: str, reason: str | None) -> CoverageSpan:
    return CoverageSpan(start, end, "gap" if reason else "covered", reason, 0)


def only(found: Report) -> Finding:
    (finding,) = judge(found)
    return finding


def down(make: Callable[..., P], code: str, since: str | None, **changes: Any) -> P:
    error = f"the words of {code}"
    return make(up=False, since=since, error_code=code, last_error=error, **changes)


def held(make: Callable[..., P], code: str, **changes: Any) -> P:
    return down(make, code, ago(hours=9), held=True, **changes)


CHECK = "auditrelay -c /etc/auditrelay/config.toml check"


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert judge(report()) == []
    assert judge(report(source(lag_seconds=950), sink(backlog_events=9))) == []


def test_what_is_disabled_is_no_problem() -> None:
    gap = span(ago(hours=9), ago(hours=8), "x")
    off = held(source, "status_401", enabled=False, silent=True, lag_seconds=None, coverage=(gap,))
    assert judge(report(off, held(sink, "status_401", enabled=False))) == []


@pytest.mark.parametrize(
    ("code", "what", "do"),
    [
        (
            "status_401",
            "voice does not accept its key (401).",
            ("Put a valid key into the variable KEY (sources.voice.api_key); restart the service."),
        ),
        (
            "status_403",
            "voice does not accept its key, or denies it the right to read the audit log (403).",
            (
                "Give the key that right, or use another. Put a valid key into the "
                "variable KEY (sources.voice.api_key); restart the service."
            ),
        ),
        (
            "status_404",
            "voice does not find what is requested (404).",
            (
                "Check sources.voice.base_url and the names in [sources.voice], fix them, and "
                "reload the service."
            ),
        ),
        (
            "status_302",
            "voice redirects (302). Redirects are not followed: they would leak credentials.",
            (
                "Set sources.voice.base_url to the address that it redirects to, and reload the "
                "service."
            ),
        ),
        ("refused", "voice refuses requests.", "Do what its error message says."),
        ("status_402", "voice refuses requests (402).", "Do what its error message says."),
    ],
)
def test_a_held_source_names_the_refusal_and_the_key(code: str, what: str, do: str) -> None:
    assert only(report(held(source, code))) == Finding(
        "action_required",
        "source",
        "voice",
        what,
        since=ago(hours=9),
        effect="Nothing is lost: polling resumes where it stopped. "
        "It is retried automatically, at long intervals.",
        error=f"the words of {code}",
        do=do,
        command=CHECK,
        code="held",
    )


@pytest.mark.parametrize(
    ("references", "do"),
    [
        (
            ["${file:/run/t}"],
            "the file /run/t (sinks.splunk.token); it is read again automatically.",
        ),
        # systemd copies it when the service starts
        (["${credential:hec}"], "the credential hec (sinks.splunk.token); restart the service."),
        ([], "sinks.splunk.token; reload the service."),
    ],
)
def test_where_a_new_key_goes_depends_on_where_the_old_one_came_from(
    references: list[str], do: str
) -> None:
    credentials = (Credential("token", tuple(references)),)
    finding = only(report(held(sink, "status_401", credentials=credentials)))
    assert finding.do == f"Put a valid key into {do}"


def test_a_sink_that_never_answers_is_not_said_to_refuse() -> None:
    finding = only(report(held(sink, "unanswered")))
    assert finding.what == "splunk leaves open whether it stores events."
    assert "in between" in str(finding.do)


def test_for_a_sink_without_a_key_of_its_own_the_finding_names_a_proxy() -> None:
    finding = only(report(held(sink, "status_401", credentials=())))
    assert finding.do == "Check whether a proxy in between requires credentials of its own."


WHERE: dict[str, Table] = {
    "elasticsearch": {"urls": ["https://es.example:9200"], "api_key": Secret("a-key")},
    "splunk_hec": {"url": "https://splunk.example:8088", "token": Secret("a-token")},
    "file": {"path": "-"},
    "datadog": {"url": "https://intake.example", "api_key": Secret("a-key")},
}


@pytest.mark.parametrize(
    ("kind", "key"),
    [("elasticsearch", "urls"), ("splunk_hec", "url"), ("file", "path"), ("datadog", "url")],
)
def test_a_held_sink_names_the_key_of_its_address(kind: str, key: str) -> None:
    settings = SINKS[kind].model_validate({"type": kind, **WHERE[kind]})
    row = held(sink, "status_404", type=kind, address_key=settings.address_key, backlog_events=1)
    finding = only(report(row))
    assert f"sinks.splunk.{key} " in finding.do
    assert finding.effect.startswith("Nothing is lost: 1 event waits in the spool.")


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("connect", "cannot be reached"),
        ("tls", "has a certificate that is not trusted"),
        ("handshake", "does not speak TLS at this port, or breaks off its handshake"),
        ("unsendable", "returned a cursor that cannot be sent back"),
        ("timeout", "does not answer in time"),
        ("status_429", "is throttling us (429)"),
        ("status_503", "answers with an error (503)"),
        ("no_progress", "gives unusable answers (no progress)"),
    ],
)
def test_a_peer_that_is_down_is_recovering_and_requires_action_after_a_while(
    code: str, failure: str
) -> None:
    makes: tuple[tuple[Callable[..., AnyPeer], str], ...] = ((source, "voice"), (sink, "splunk"))
    for make, name in makes:
        fresh = only(report(down(make, code, ago(minutes=9.9))))
        assert (fresh.level, fresh.what) == ("recovering", f"{name} {failure}.")
        assert (fresh.do, fresh.command) == ("", None)
        lasting = only(report(down(make, code, ago(minutes=10))))
        assert (lasting.level, lasting.what) == ("action_required", f"{name} {failure}.")
        assert lasting.since == ago(minutes=10)
        assert lasting.command == CHECK
        unknown = only(report(down(make, code, None)))
        assert (unknown.level, unknown.since) == ("action_required", None)


def test_a_gap_comes_with_the_command_that_fills_it() -> None:
    covered = span(ago(days=5), ago(days=4), None)
    one = span("2026-03-08T01:00:00.500000Z", "2026-03-08T05:00:00.500000Z", "catch_up_limit")
    finding = only(report(source(coverage=(covered, one))))
    assert finding.what == (
        "voice was not read for 4 h between Sun 8 Mar 01:00 and Sun 8 Mar 05:00."
    )
    assert finding.effect == "It was longer ago than catch_up_limit allows."
    assert finding.command == (
        "auditrelay -c /etc/auditrelay/config.toml backfill voice "
        "--from 2026-03-08T01:00:00Z --to 2026-03-08T05:00:01Z"
    )
    other = span("2026-03-09T01:00:00Z", "2026-03-09T02:00:00Z", "plan_gate")
    finding = only(report(source(coverage=(one, other))))
    assert "for 5 h, in 2 pieces, between Sun 8 Mar 01:00 and yesterday 02:00" in finding.what
    assert finding.effect.endswith("The reason: plan gate.")


def test_a_gap_that_was_taken_back_requires_no_action() -> None:
    one = span("2026-03-08T01:00:00Z", "2026-03-08T05:00:00Z", "reopened")
    finding = only(report(source(coverage=(one,))))
    assert (finding.level, finding.code) == ("recovering", "reopened")
    assert finding.what == "1 gap of voice was taken back, and not read yet."


def test_a_clock_that_differs_comes_with_the_peers_and_by_how_much() -> None:
    ahead, behind = judge(
        report(source(), clock_ahead_seconds={"voice": 7200.0, "elastic": 7201.0, "calls": -90.0})
    )
    assert ahead.code == behind.code == "clock"
    assert ahead.what == "The clock of this machine is 2 h ahead of that of voice and elastic."
    assert "blocked" in ahead.effect
    assert behind.what == "The clock of this machine is 1 min 30 s behind that of calls."
    assert "by the vendor's clock" in behind.effect


def test_times_that_cannot_be_read_come_with_the_command_that_shows_them() -> None:
    finding = only(report(source(odd_times=3)))
    assert finding.what.startswith("The times of 3 events of voice cannot be read")
    assert finding.command == ("auditrelay -c /etc/auditrelay/config.toml sample voice --count 3")


def test_a_file_that_cannot_be_read_is_a_problem_while_the_rest_is_read() -> None:
    finding = only(
        report(
            source(
                last_error="march.csv: no header",
                error_code="file_rejected",
                directory="/srv/exports",
            )
        )
    )
    assert (finding.level, finding.error) == ("action_required", "march.csv: no header")
    assert finding.what == "voice could not read an export file."
    assert finding.do == "Put the right file into /srv/exports; it is read automatically."


def test_for_a_paused_source_the_finding_names_the_spool_or_the_disk() -> None:
    paused = source(paused_since=ago(minutes=20), last_error="polling is paused: no room")
    other = source(name="calls", paused_since=ago(minutes=3))
    slow = sink(backlog_events=1200)
    full = only(report(paused, other, slow, fill=0.99))
    assert full.what == "The spool is full, so voice and calls are not polled."
    assert full.since == ago(minutes=20)
    assert full.do == (
        "Fix the sink splunk, for which 1,200 events wait, or raise spool.max_bytes and reload "
        "the service."
    )
    disk = only(report(paused))
    assert disk.what == "The disk is full, so voice is not polled."
    assert "Make room on the disk" in disk.do


def test_a_spool_that_fills_names_the_slowest_sink_before_it_is_full() -> None:
    slow, slower = sink(backlog_events=5), sink(name="elastic", backlog_events=7)
    assert judge(report(slow, slower, fill=0.8)) == []
    finding = only(report(slow, slower, fill=0.81))
    assert (finding.level, finding.what) == ("action_required", "The spool is 81% full.")
    assert "the sink elastic, for which 7 events wait" in finding.do


def test_dead_letters_come_with_the_command_that_lists_them() -> None:
    finding = only(report(sink(dead_letters=1)))
    assert finding.what == "splunk will never accept 1 event as it is."
    assert finding.command == (
        "auditrelay -c /etc/auditrelay/config.toml dead-letters list --sink splunk"
    )
    assert "3 events as they are" in only(report(sink(dead_letters=3))).what


def test_rows_that_cannot_be_parsed_come_with_the_command_that_lists_them() -> None:
    finding = only(report(source(dead_letters=2)))
    assert finding.what == "2 rows of voice could not be parsed."
    assert finding.command is not None
    assert finding.command.endswith(" dead-letters list --source voice")


def test_a_silent_source_is_silent_since_its_last_event() -> None:
    finding = only(report(source(silent=True, last_event_at=ago(days=2))))
    assert finding.since == ago(days=2)
    assert finding.command is not None
    assert finding.command.endswith(" sample voice --count 3")


def test_a_backlog_requires_action_only_while_nothing_is_delivered() -> None:
    waiting = {"backlog_events": 12, "oldest_undelivered_seconds": 600}
    moving = only(report(sink(**waiting)))
    assert (moving.level, moving.since) == ("recovering", ago(seconds=600))
    stopped = only(report(sink(**waiting, last_delivered_at=ago(minutes=11))))
    assert (stopped.level, stopped.command) == ("action_required", CHECK)
    assert judge(report(sink(backlog_events=12, oldest_undelivered_seconds=599))) == []


def test_what_waits_to_be_sent_with_others_is_no_backlog_yet() -> None:
    waiting = {"backlog_events": 12, "linger_seconds": 1800, "last_delivered_at": ago(minutes=31)}
    assert judge(report(sink(oldest_undelivered_seconds=2399, **waiting))) == []
    finding = only(report(sink(oldest_undelivered_seconds=2400, **waiting)))
    assert (finding.code, finding.level) == ("backlogs", "recovering")


@pytest.mark.parametrize(
    ("gone", "why"),
    [({"orphaned": True}, "is not in the configuration any more"), ({}, "is disabled")],
)
def test_events_for_an_orphaned_or_disabled_sink_are_a_problem(gone: Table, why: str) -> None:
    finding = only(report(sink(enabled=False, backlog_events=2, **gone)))
    assert finding.what == f"2 events wait for splunk, which {why}."


def test_a_source_that_catches_up_requires_no_action() -> None:
    finding = only(report(source(lag_seconds=961)))
    assert (finding.level, finding.command) == ("recovering", None)
    assert finding.what == "voice is catching up: it is read up to 16 min 1 s ago."
    assert judge(report(source(lag_seconds=9e6, directory="/srv/exports"))) == []


def test_a_peer_that_has_not_answered_since_the_start_requires_no_action() -> None:
    findings = judge(report(source(up=False, lag_seconds=None), sink(up=False)))
    assert [(finding.level, finding.what) for finding in findings] == [
        ("recovering", "voice has not finished a poll since the start."),
        ("recovering", "splunk has not answered since the start."),
    ]


def test_a_stuck_loop_is_the_worst() -> None:
    everything = report(
        held(source, "status_401"),
        down(source, "connect", ago(minutes=1), name="calls"),
        held(sink, "status_403", dead_letters=2),
        sink(name="elastic", backlog_events=3, oldest_undelivered_seconds=4000),
        fill=0.9,
        stuck=("elastic",),
    )
    findings = judge(everything)
    assert [(finding.level, finding.name, finding.what.split()[0]) for finding in findings] == [
        ("action_required", "elastic", "The"),
        ("action_required", "voice", "voice"),
        ("action_required", "splunk", "splunk"),
        ("action_required", "spool", "The"),
        ("action_required", "splunk", "splunk"),
        ("recovering", "calls", "calls"),
        ("recovering", "elastic", "elastic"),
    ]


@pytest.mark.parametrize("command", ["systemctl restart auditrelay", None])
def test_a_stuck_loop_comes_with_the_restart_command_if_it_is_supervised(
    command: str | None,
) -> None:
    finding = only(report(stuck=("elastic",), restart_command=command))
    assert finding.what == ("The loop of elastic is busy and has made no progress for 20 minutes.")
    assert finding.command == command


def test_commands_are_safe_to_paste_and_exist() -> None:
    name = "a'; reboot #"
    gap = span(ago(hours=9), ago(hours=8), "x")
    rows = (
        source(name=name, silent=True, coverage=(gap,)),
        held(sink, "status_401", dead_letters=1),
    )
    commands = [
        shlex.split(finding.command)
        for finding in judge(report(*rows, config="/etc/my relay.toml"))
        if finding.command
    ]
    assert [words[3] for words in commands] == ["check", "backfill", "dead-letters", "sample"]
    known = {name: lazy.command(name) for name in lazy.COMMANDS}
    for program, option, path, command, *rest in commands:
        assert (program, option, path) == ("auditrelay", "-c", "/etc/my relay.toml")
        assert command in known
        if hasattr(known[command], "commands"):
            known_below = known[command].commands
            assert rest[0] in known_below
            options = known_below[rest[0]].params
        else:
            options = known[command].params
        given = {word for word in rest if word.startswith("--")}
        assert given <= {name for option in options for name in option.opts}
    assert ["sample", name, "--count", "3"] in [words[3:] for words in commands]
    assert only(report(held(source, "status_401"), config=None)).command == "auditrelay check"


def test_records_that_changed_in_form_name_their_fields_for_two_days() -> None:
    finding = only(
        report(source(form_changed_at=ago(hours=1), form_changed_fields=("region", "tier")))
    )
    assert (finding.level, finding.code) == ("action_required", "changed_form")
    assert "in region and tier" in finding.what
    unnamed = only(report(source(form_changed_at=ago(hours=1))))
    assert "former records are not in the spool any more" in unnamed.effect
    assert judge(report(source(form_changed_at=ago(days=3)))) == []


def test_evidence_that_does_not_fit_the_state_is_found_until_it_is_explained() -> None:
    broken = EvidenceStatus(broken="entry 7 is missing", broken_since=ago(hours=1))
    found = only(report(evidence=broken))
    assert (found.level, found.code, found.name) == (
        "action_required",
        "evidence_broken",
        "evidence",
    )
    assert (found.error, found.since) == ("entry 7 is missing", ago(hours=1))
    assert "auditrelay evidence restored --reason TEXT" in (found.do or "")
    assert (found.command or "").endswith("coverage --check")


@pytest.mark.parametrize(
    ("hours", "since", "what"),
    [
        (3, "failing_since", "The evidence cannot be sealed, so no new head reaches the SIEM."),
        (2.9, "failing_since", None),
        (3, "untold_since", "No sink has taken the last 4 heads of the evidence."),
        (2.9, "untold_since", None),
    ],
)
def test_heads_that_do_not_leave_are_found_after_three_hours(
    hours: float, since: str, what: str | None
) -> None:
    of: Table = {"failing": "disk is full"} if since == "failing_since" else {"untold_heads": 4}
    evidence = EvidenceStatus(**{since: ago(hours=hours), **of})
    found = judge(report(evidence=evidence))
    assert [(each.code, each.what) for each in found] == ([("evidence", what)] if what else [])
    assert all(each.error == of.get("failing") for each in found)
