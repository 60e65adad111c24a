"""
What is wrong, since when, and what to do: from the report alone, worst first. Pure.

Each kind of problem is one function that yields findings; ``judge`` sorts them. A finding that
recovers automatically says so; one that requires action names the key or the command.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Final

import msgspec

from auditrelay.errors import PeerBug, Unanswered
from auditrelay.status import replica_findings
from auditrelay.status.model import AnyPeer, Finding, Report, SinkStatus, SourceStatus
from auditrelay.status.reading import age, at, command, enabled, is_unheld, peers
from auditrelay.store import REOPENED
from auditrelay.telemetry import humanize
from auditrelay.window import iso

PATIENCE: Final = timedelta(minutes=10)
"""How long a peer may be unreachable, or an event wait, before that requires action."""

MISSED_POLLS: Final = 3
"""A checkpoint older than so many poll intervals is behind."""

NEARLY_FULL: Final = 0.8
"""The share of ``spool.max_bytes`` above which the spool is a problem."""

UNTOLD: Final = timedelta(hours=3)
"""How long a head may be without a sink that has taken it."""

CHANGED_FORM_SHOWN: Final = timedelta(days=2)
"""How long records that changed in form are a finding; resweeps see old ones for a day."""

STUCK: Final = timedelta(minutes=20)
"""
How long a loop may be busy without progress, in addition to what it may wait for its peer.

The service is restarted when a loop is stuck, so a peer that is merely slow must not count as it.
"""


PULSES: Final = "pulses"
"""The loop of the pulses, among those that can be stuck."""


def judge(report: Report) -> list[Finding]:
    """Return the problems in *report*, worst first."""
    findings = [
        msgspec.structs.replace(finding, code=code)
        for code, found in (
            ("store_away", replica_findings.store_away(report)),
            ("no_replicas", replica_findings.no_replicas(report)),
            ("unheld", replica_findings.unheld(report)),
            ("stuck", _stuck(report)),
            ("paused", _paused(report)),
            ("held", _held(report, report.sources)),
            ("held", _held(report, report.sinks)),
            ("filling", _filling(report)),
            ("down", _down(report, report.sources)),
            ("down", _down(report, report.sinks)),
            ("clock", _clock(report)),
            ("store_clock", replica_findings.store_clock(report)),
            ("disagreement", replica_findings.disagreement(report)),
            ("evidence_broken", _evidence_broken(report)),
            ("evidence", _evidence(report)),
            ("gaps", _gaps(report)),
            ("reopened", _reopened(report)),
            ("bad_files", _bad_files(report)),
            ("dead_letters", _dead_letters(report)),
            ("bad_records", _bad_records(report)),
            ("odd_times", _odd_times(report)),
            ("silent", _silent(report)),
            ("backlogs", _backlogs(report)),
            ("orphaned", _orphaned(report)),
            ("changed_form", _changed_form(report)),
            ("store_slow", replica_findings.store_slow(report)),
            ("old_snapshot", replica_findings.old_snapshot(report)),
            ("unable", replica_findings.unable(report)),
            ("behind", _behind(report)),
            ("starting", _starting(report)),
        )
        for finding in found
    ]
    return sorted(findings, key=lambda finding: finding.level != "action_required")


# -- the instance ----------------------------------------------------------------------------------


def _stuck(report: Report) -> Iterator[Finding]:
    others = (name for each in replica_findings.alive(report) for name in each.stuck)
    for name in dict.fromkeys((*report.stuck, *others)):
        if name == PULSES:
            yield Finding(
                "action_required",
                "instance",
                name,
                "A replica has stopped its pulses, though the shared store is not waited for.",
                effect="Others take over what it held.",
                do="Restart the service, and report this with the log: it is a bug in auditrelay.",
                command=report.restart_command,
            )
            continue
        yield Finding(
            "action_required",
            "instance",
            name,
            f"The loop of {name} is busy and has made no progress for "
            f"{STUCK // timedelta(minutes=1)} minutes.",
            effect="Nothing is lost, but it neither reads nor delivers.",
            do="Restart the service, and report this with the log: it is a bug in auditrelay.",
            command=report.restart_command,
        )


def _clock(report: Report) -> Iterator[Finding]:
    for ahead in (True, False):
        by = {
            name: abs(seconds)
            for name, seconds in report.clock_ahead_seconds.items()
            if (seconds > 0) is ahead
        }
        if not by:
            continue
        names = humanize.join(list(by))
        yield Finding(
            "action_required",
            "instance",
            "clock",
            f"The clock of this machine is {humanize.span(max(by.values()))} "
            f"{'ahead of' if ahead else 'behind'} that of {names}.",
            effect="Nothing is lost: only time that is past by two clocks counts as read, and "
            f"nothing is pruned or declared as a gap before. {_SKEWED[ahead]}",
            do="Fix the clock of this machine (NTP); if it is right, that of the peer is wrong.",
        )


def _evidence_broken(report: Report) -> Iterator[Finding]:
    evidence = report.evidence
    if evidence.broken is None:
        return
    yield Finding(
        "action_required",
        "instance",
        "evidence",
        "The state is not the one that the heads of the evidence in the SIEM are about.",
        since=evidence.broken_since,
        effect="Collecting and delivering go on, and the evidence in a log with a new name.",
        error=evidence.broken,
        do="Find out whether it was restored or changed: keep a copy of the state, and compare "
        "(coverage --check, evidence check). Then say what happened: "
        "auditrelay evidence restored --reason TEXT.",
        command=command(report, "coverage", "--check"),
    )


def _evidence(report: Report) -> Iterator[Finding]:
    evidence = report.evidence
    if evidence.failing is not None and age(report, evidence.failing_since) >= UNTOLD:
        yield Finding(
            "action_required",
            "instance",
            "evidence",
            "The evidence cannot be sealed, so no new head reaches the SIEM.",
            since=evidence.failing_since,
            effect="Collecting and delivering go on; what was done waits to be sealed.",
            error=evidence.failing,
            do="If the disk is full, make room on it. Else the state was changed or damaged: see "
            "what does not fit.",
            command=command(report, "coverage", "--check"),
        )
    elif evidence.untold_since is not None and age(report, evidence.untold_since) >= UNTOLD:
        heads = humanize.count(evidence.untold_heads, "head")
        yield Finding(
            "action_required",
            "instance",
            "evidence",
            f"No sink has taken the last {heads} of the evidence.",
            since=evidence.untold_since,
            effect="They wait in the spool. What was done since is not proved outside of this "
            "machine yet.",
            do="Fix a sink: one that takes them is enough.",
            command=command(report, "status"),
        )


_SKEWED: Final = {
    True: "A source whose clock is behind ours by more than its settle and a minute is blocked.",
    False: "Events are read by the vendor's clock, and times in the log are wrong.",
}


def _paused(report: Report) -> Iterator[Finding]:
    paused = [row for row in enabled(report.sources) if _is_paused(row)]
    if not paused:
        return
    spool = report.spool
    names = humanize.join([row.name for row in paused])
    if spool.share > NEARLY_FULL:
        what = f"The spool is full, so {names} {_is(paused)} not polled."
        do = f"{_fix_slowest(report)}, or raise spool.max_bytes and reload the service."
    else:
        what = f"The disk is full, so {names} {_is(paused)} not polled."
        do = "Make room on the disk of state_dir; polling then resumes automatically."
    yield Finding(
        "action_required",
        "spool",
        "spool",
        what,
        since=min(row.paused_since for row in paused if row.paused_since),
        effect="Nothing is dropped: delivery goes on, and polling catches up later.",
        error=paused[0].last_error,
        do=do,
        command=command(report, "status"),
    )


def _filling(report: Report) -> Iterator[Finding]:
    spool = report.spool
    paused = any(_is_paused(row) for row in enabled(report.sources))
    if spool.share > NEARLY_FULL and not paused:
        yield Finding(
            "action_required",
            "spool",
            "spool",
            f"The spool is {spool.share:.0%} full.",
            effect="When it is full, polling pauses until there is room. Nothing is dropped.",
            do=f"{_fix_slowest(report)}, or raise spool.max_bytes and reload the service.",
            command=command(report, "status"),
        )


def _fix_slowest(report: Report) -> str:
    waiting = [row for row in report.sinks if row.backlog_events]
    if not waiting:
        return "Wait until delivered events are pruned"
    slowest = max(waiting, key=lambda row: row.backlog_events)
    return (
        f"Fix the sink {slowest.name}, for which "
        f"{humanize.count(slowest.backlog_events, 'event')} {_wait(slowest)}"
    )


# -- sources and sinks alike -----------------------------------------------------------------------

_RELOAD: Final = "reload the service"
_RESTART: Final = "restart the service"
_NOT_FOLLOWED: Final = "Redirects are not followed: they would leak credentials."


def _held(report: Report, rows: Iterable[AnyPeer]) -> Iterator[Finding]:
    for row in enabled(rows):
        if not row.held:
            continue
        name, status = row.name, _status(row.error_code)
        what, do = _refusal(row, status)
        yield Finding(
            "action_required",
            row.kind,
            name,
            what,
            since=row.since,
            effect=f"{_kept(row)} It is retried automatically, at long intervals.",
            error=row.last_error,
            do=do,
            command=command(report, "check"),
        )


_NO_REFUSALS: Final = {
    PeerBug.reason: (
        "auditrelay has a bug in its code for {}. The other sources and sinks go on.",
        "Report it with its traceback, the log event peer_bug_caught.",
    ),
    Unanswered.reason: (
        "{} leaves open whether it stores events.",
        (
            "Look at what lies in between: its time-outs, and what it lets through. To try at once "
            "afterwards, restart the service."
        ),
    ),
}
"""What holds a peer that has refused nothing, and what to do about it, by the error's code."""


def _refusal(row: AnyPeer, status: int | None) -> tuple[str, str]:
    """Return what a refusal with *status* means, and what to do about it."""
    name, table = row.name, f"{row.kind}s.{row.name}"
    if row.error_code in _NO_REFUSALS:
        what, do = _NO_REFUSALS[row.error_code]
        return what.format(name), do
    if status == 401:
        return f"{name} does not accept its key (401).", _renew(row, table)
    if status == 403:
        right = "read the audit log" if row.kind == "source" else "store events there"
        return (
            f"{name} does not accept its key, or denies it the right to {right} (403).",
            f"Give the key that right, or use another. {_renew(row, table)}",
        )
    address = row.address_key
    if status == 404:
        names = f"{table}.{address} and the names in [{table}]"
        return (
            f"{name} does not find what is requested (404).",
            f"Check {names}, fix them, and reload the service.",
        )
    if status is not None and 300 <= status < 400:
        return (
            f"{name} redirects ({status}). {_NOT_FOLLOWED}",
            f"Set {table}.{address} to the address that it redirects to, and reload the service.",
        )
    with_status = "" if status is None else f" ({status})"
    return f"{name} refuses requests{with_status}.", "Do what its error message says."


def _renew(row: AnyPeer, table: str) -> str:
    """Return where the key of *row* comes from, and so where a new one goes."""
    wanted, then = [], "it is read again automatically"
    for credential in row.credentials or ():
        where = f"{table}.{credential.key}"
        if not credential.references:
            wanted.append(where)
            then = _RELOAD if then != _RESTART else then
        for reference in credential.references:
            kind, _, name = reference.strip("${}").partition(":")
            if kind != "file":  # the process has its own copy, made when it started
                then = _RESTART
            wanted.append(
                {
                    "file": f"the file {name} ({where})",
                    "env": f"the variable {name} ({where})",
                    "credential": f"the credential {name} ({where})",
                }.get(kind, where)
            )
    if not wanted:
        return "Check whether a proxy in between requires credentials of its own."
    return f"Put a valid key into {' or '.join(wanted)}; {then}."


_FAILURES: Final = {
    "connect": "cannot be reached",
    "tls": "has a certificate that is not trusted",
    "handshake": "does not speak TLS at this port, or breaks off its handshake",
    "unsendable": "returned a cursor that cannot be sent back",
    "timeout": "does not answer in time",
    "reset": "breaks the connection",
    "bad_reply": "answers in another format than its own, perhaps through a proxy",
    "reply_too_large": "answers more than the limit; lower page_size or batch_bytes",
    "status_429": "is throttling us (429)",
    "unreadable": "fails at a span of time, and everything else is read",
}


def _down(report: Report, rows: Iterable[AnyPeer]) -> Iterator[Finding]:
    for row in enabled(rows):
        if row.up or row.held or row.last_error is None or _is_paused(row):
            continue
        code, name = row.error_code or "", row.name
        status = _status(code)
        if code in _FAILURES:
            failure = _FAILURES[code]
        elif status is not None:
            failure = f"answers with an error ({status})"
        else:
            failure = f"gives unusable answers ({code.replace('_', ' ') or 'unknown'})"
        lasting = age(report, row.since) >= PATIENCE
        yield Finding(
            "action_required" if lasting else "recovering",
            row.kind,
            name,
            f"{name} {failure}.",
            since=row.since,
            effect=f"{_kept(row)} It is retried automatically.",
            error=row.last_error,
            do=f"Check {name} and the network to it." if lasting else "",
            command=command(report, "check") if lasting else None,
        )


def _kept(row: AnyPeer) -> str:
    """Return that nothing is lost, and what is waiting."""
    if isinstance(row, SourceStatus):
        return "Nothing is lost: polling resumes where it stopped."
    if not row.backlog_events:
        return "Nothing is lost, and nothing waits for it."
    backlog = humanize.count(row.backlog_events, "event")
    return f"Nothing is lost: {backlog} {_wait(row)} in the spool."


def _starting(report: Report) -> Iterator[Finding]:
    for row in enabled(peers(report)):
        if (
            row.held_by is not None
            and not row.up
            and not row.held
            and row.last_error is None
            and not _is_paused(row)
            and not is_unheld(report, row)
        ):
            missing = "finished a poll" if row.kind == "source" else "answered"
            what = f"{row.name} has not {missing} since the start."
            yield Finding("recovering", row.kind, row.name, what)


# -- sources ---------------------------------------------------------------------------------------


def _gaps(report: Report) -> Iterator[Finding]:
    for row in enabled(report.sources):
        gaps = [span for span in row.coverage if span.state == "gap" and span.reason != REOPENED]
        if not gaps:
            continue
        start, end = min(gap.start for gap in gaps), max(gap.end for gap in gaps)
        length = sum((at(gap.end) - at(gap.start)).total_seconds() for gap in gaps)
        now = at(report.at)
        spots = "" if len(gaps) == 1 else f", in {len(gaps)} pieces,"
        yield Finding(
            "action_required",
            "source",
            row.name,
            f"{row.name} was not read for {humanize.span(length)}{spots} between "
            f"{humanize.timestamp(at(start), now)} and {humanize.timestamp(at(end), now)}.",
            effect=_reasons({gap.reason for gap in gaps if gap.reason}),
            do="If the vendor still shows that time, fill the gap.",
            command=command(
                report,
                "backfill",
                row.name,
                "--from",
                _whole_seconds(start),
                "--to",
                _whole_seconds(end, up=True),
            ),
        )


def _reopened(report: Report) -> Iterator[Finding]:
    for row in enabled(report.sources):
        gaps = [span for span in row.coverage if span.reason == REOPENED]
        if gaps:
            yield Finding(
                "recovering",
                "source",
                row.name,
                f"{humanize.count(len(gaps), 'gap')} of {row.name} "
                f"{'was' if len(gaps) == 1 else 'were'} taken back, and not read yet.",
                effect="The next poll asks for it again.",
            )


def _reasons(reasons: Iterable[str]) -> str:
    known = {
        "catch_up_limit": "It was longer ago than catch_up_limit allows.",
        "retention": "The vendor keeps nothing that old.",
        "unreadable": "Every attempt to read it failed for an hour.",
    }
    return " ".join(
        known.get(reason, f"The reason: {reason.replace('_', ' ')}.") for reason in sorted(reasons)
    )


def _bad_files(report: Report) -> Iterator[Finding]:
    for row in enabled(report.sources):
        if row.error_code == "file_rejected":
            yield Finding(
                "action_required",
                "source",
                row.name,
                f"{row.name} could not read an export file.",
                effect="That file was skipped; the others were read.",
                error=row.last_error,
                do=f"Put the right file into {row.directory}; it is read automatically.",
            )


def _odd_times(report: Report) -> Iterator[Finding]:
    for row in enabled(report.sources):
        if row.odd_times:
            yield Finding(
                "action_required",
                "source",
                row.name,
                f"The times of {humanize.count(row.odd_times, 'event')} of {row.name} cannot be "
                "read, or are of before 2000 or after tomorrow.",
                effect="They are delivered: one whose time cannot be read has that at which it was "
                "fetched (auditrelay.time_quality, auditrelay.warnings).",
                do="Look at the records: if their time is elsewhere and the source has time_path, "
                "set it; else tell the vendor.",
                command=command(report, "sample", row.name, "--count", "3"),
            )


def _silent(report: Report) -> Iterator[Finding]:
    for row in enabled(report.sources):
        if row.silent:
            yield Finding(
                "action_required",
                "source",
                row.name,
                f"{row.name} has shown nothing new for longer than its max_silence.",
                since=row.last_event_at,
                do="Compare with the vendor's dashboard: is it quiet, or does the key see too "
                "little? This shows the newest events that the key sees.",
                command=command(report, "sample", row.name, "--count", "3"),
            )


def _changed_form(report: Report) -> Iterator[Finding]:
    for row in enabled(report.sources):
        since = row.form_changed_at or None
        if since is None or age(report, since) > CHANGED_FORM_SHOWN:
            continue
        fields = humanize.join(list(row.form_changed_fields or ()))
        which = f", in {fields}" if fields else ""
        unnamed = "" if fields else " The former records are not in the spool any more to compare."
        yield Finding(
            "action_required",
            "source",
            row.name,
            f"{row.name} shows many events that were forwarded with other content now{which}.",
            since=since,
            effect="Most likely the vendor has changed the form of its records. The new form is "
            f"accepted, and what was forwarded stays as it was.{unnamed}",
            do="Ask the vendor whether it has. If not, its audit log was altered: compare the "
            "range with the SIEM.",
        )


def _behind(report: Report) -> Iterator[Finding]:
    for row in enabled(report.sources):
        if row.directory is not None:
            continue  # it is as current as its files, which others export
        lag, interval, settle = row.lag_seconds, row.poll_interval_seconds, row.settle_seconds
        if lag is None or interval is None or settle is None:
            continue
        if row.up and lag > MISSED_POLLS * interval + settle and not _is_paused(row):
            yield Finding(
                "recovering",
                "source",
                row.name,
                f"{row.name} is catching up: it is read up to {humanize.span(lag)} ago.",
                effect="Every poll continues from there.",
            )


# -- sinks -----------------------------------------------------------------------------------------


def _dead_letters(report: Report) -> Iterator[Finding]:
    for row in report.sinks:
        dead = row.dead_letters
        if dead:
            them = "it is" if dead == 1 else "they are"
            yield Finding(
                "action_required",
                "sink",
                row.name,
                f"{row.name} will never accept {humanize.count(dead, 'event')} as {them}.",
                effect=f"{'It is' if dead == 1 else 'They are'} in the dead letters, with reason; "
                "the other events are not delayed.",
                do="See the reason, and fix the cause. Then dead-letters replay sends "
                f"{'it' if dead == 1 else 'them'} again; dead-letters drop discards "
                f"{'it' if dead == 1 else 'them'}.",
                command=command(report, "dead-letters", "list", "--sink", row.name),
            )


def _bad_records(report: Report) -> Iterator[Finding]:
    for row in report.sources:
        if dead := row.dead_letters:
            yield Finding(
                "action_required",
                "source",
                row.name,
                f"{humanize.count(dead, 'row')} of {row.name} could not be parsed.",
                effect="They were not forwarded; the other rows of their files were.",
                do="See which, by file and line. dead-letters replay forwards them as they are; "
                "dead-letters drop discards them.",
                command=command(report, "dead-letters", "list", "--source", row.name),
            )


def _backlogs(report: Report) -> Iterator[Finding]:
    for row in enabled(report.sinks):
        oldest = timedelta(seconds=row.oldest_undelivered_seconds)
        meant = timedelta(seconds=row.linger_seconds or 0)
        # What no replica holds is up no more, and has the backlog that it had.
        if not (row.up or row.held_by is None) or oldest < PATIENCE + meant:
            continue
        moves = age(report, row.last_delivered_at) < PATIENCE + meant
        backlog = humanize.count(row.backlog_events, "event")
        yield Finding(
            "recovering" if moves else "action_required",
            "sink",
            row.name,
            f"{row.name} is behind: {backlog} {_wait(row)} for it.",
            since=(at(report.at) - oldest).isoformat(),
            effect="Nothing is lost: they wait in the spool"
            f"{', and it is delivering them' if moves else ''}.",
            do="If the backlog does not shrink, raise concurrency or batch_events in "
            f"[sinks.{row.name}], or find out why the sink is slow.",
            command=None if moves else command(report, "check"),
        )


def _orphaned(report: Report) -> Iterator[Finding]:
    for row in report.sinks:
        if not row.enabled and row.backlog_events:
            why = "is not in the configuration any more" if row.orphaned else "is disabled"
            backlog = humanize.count(row.backlog_events, "event")
            yield Finding(
                "action_required",
                "sink",
                row.name,
                f"{backlog} {_wait(row)} for {row.name}, which {why}.",
                effect="They are kept, and take room in the spool.",
                do=f"Put [sinks.{row.name}] back or enable it, and reload the service.",
            )


# -- words -----------------------------------------------------------------------------------------


def _is_paused(row: AnyPeer) -> bool:
    return isinstance(row, SourceStatus) and row.paused_since is not None


def _status(code: str | None) -> int | None:
    number = (code or "").removeprefix("status_")
    return int(number) if number.isdigit() else None


def _whole_seconds(time: str, *, up: bool = False) -> str:
    """Return *time* in whole seconds, so that it can be typed; rounded *up*, or down."""
    moment = at(time)
    if up and moment.microsecond:
        moment += timedelta(seconds=1)
    return iso(moment.replace(microsecond=0))


def _is(rows: Sequence[SourceStatus]) -> str:
    return "is" if len(rows) == 1 else "are"


def _wait(row: SinkStatus) -> str:
    return "waits" if row.backlog_events == 1 else "wait"
