"""What is wrong with the replicas on a shared store, and with that. Pure; see ``findings``."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Final

import msgspec
from msgspec import UNSET

from auditrelay.status.model import Finding, ReplicaStatus, Report
from auditrelay.status.reading import age, command, peers
from auditrelay.store.leases import KEEPER
from auditrelay.store.parts import part_of, peer_of
from auditrelay.telemetry import humanize

STORE_PATIENCE: Final = timedelta(minutes=1)
"""For how long the shared store may be away, or a unit without replica, as in a failover."""

CLOCK_OFF: Final = 30.0
"""Seconds between the clock of a replica and that of the database that are a problem."""

SLOW_PULSE: Final = 2.0
"""Seconds of a pulse that are a problem: a fifth of what a beat keeps a replica alive."""


OLD_ROWS: Final = 20_000
"""Old versions of rows in a small table that are a problem: vacuum leaves a few thousand."""


def alive(report: Report) -> list[ReplicaStatus]:
    """Return the live replicas; none without a shared store."""
    return [each for each in report.replicas or () if each.alive]


def _is_away(report: Report) -> bool:
    return report.store is not UNSET and not report.store.up


def store_away(report: Report) -> Iterator[Finding]:
    """Yield that the shared store does not answer."""
    if report.store is UNSET or report.store.up:
        return
    since = report.store.away_since
    lasting = age(report, since) >= STORE_PATIENCE
    yield Finding(
        "action_required" if lasting else "recovering",
        "instance",
        "store",
        "The shared store does not answer.",
        since=since,
        effect="Nothing is read or delivered meanwhile, and nothing is lost. What is shown here is "
        "of the moment before.",
        do="Look whether the database runs, and at the network to it." if lasting else "",
        command=command(report, "check") if lasting else None,
    )


def no_replicas(report: Report) -> Iterator[Finding]:
    """Yield that no replica runs: for a command, as a running one would be among them."""
    if report.replicas is not UNSET and report.store is UNSET and not alive(report):
        yield Finding(
            "action_required",
            "instance",
            "replicas",
            "No replica runs.",
            since=_latest(report.unheld or {}),
            effect="Nothing is read or delivered meanwhile, and nothing is lost.",
            do="Start the service.",
        )


def _latest(since: Mapping[str, str | None]) -> str | None:
    return max((each for each in since.values() if each is not None), default=None)


def unheld(report: Report) -> Iterator[Finding]:
    """Yield what no replica holds."""
    living = alive(report)
    if not living or _is_away(report):
        return
    enabled = {f"{row.kind} {row.name}": row for row in peers(report) if row.enabled}
    for unit, since in (report.unheld or {}).items():
        row = enabled.get(peer_of(unit))
        if row is None and unit != KEEPER:
            continue
        part = part_of(unit)
        of = "" if part is None else f"part {part} of "
        reasons = [f"{each.name}: {each.unable[unit]}" for each in living if unit in each.unable]
        found = Finding(
            "recovering",
            "instance" if row is None else row.kind,
            unit if row is None else row.name,
            f"No replica holds {of}{'the keeper' if row is None else row.name}.",
            since=since,
            effect="It is taken within seconds by a replica that can serve it.",
        )
        if age(report, since) >= STORE_PATIENCE:
            found = msgspec.structs.replace(
                found,
                level="action_required",
                effect="Nothing is lost: it goes on where it stopped.",
                do=f"Remove what keeps the replicas from serving it ({'; '.join(reasons)})."
                if reasons
                else "Start a replica that has it in its configuration, and may serve it by its "
                "key replicas.",
            )
        yield found


def unable(report: Report) -> Iterator[Finding]:
    """Yield what one replica cannot serve, and another does."""
    enabled = {f"{row.kind} {row.name}" for row in peers(report) if row.enabled}
    for replica in alive(report):
        for unit, why in replica.unable.items():
            if peer_of(unit) in enabled and unit not in (report.unheld or {}):
                # About the replica: the source or sink is well.
                yield Finding(
                    "recovering",
                    "instance",
                    f"{unit} on {replica.name}",
                    f"The replica {replica.name} cannot serve {unit.partition(' ')[2]}: {why}.",
                    effect="Another replica does.",
                )


def disagreement(report: Report) -> Iterator[Finding]:
    """Yield on the settings of what the replicas do not agree."""
    if report.store is UNSET:
        return
    for unit, since in report.store.disagreements.items():
        kind, _, name = unit.partition(" ")
        yield Finding(
            "action_required",
            "instance",
            unit,
            f"The replicas do not agree on the settings of [{kind}s.{name}].",
            since=since,
            effect="Those of the replica that holds it count, so a takeover changes them.",
            do="Give all replicas the same configuration, and reload the service.",
        )


def store_clock(report: Report) -> Iterator[Finding]:
    """Yield the replicas whose clock is not that of the database."""
    for replica in alive(report):
        off = replica.clock_offset_seconds
        if abs(off) > CLOCK_OFF:
            yield Finding(
                "action_required",
                "instance",
                f"clock of {replica.name}",
                f"The clock of the replica {replica.name} is {humanize.span(abs(off))} "
                f"{'behind' if off > 0 else 'ahead of'} that of the database.",
                effect="Nothing is lost. It does not serve a source for which that is more than "
                "its settle and a minute.",
                do="Fix the clock of that machine (NTP); if it is right, that of the database is "
                "wrong.",
            )


def store_slow(report: Report) -> Iterator[Finding]:
    """Yield the replicas that the shared store lets wait."""
    for replica in alive(report):
        took = replica.round_trip_seconds
        if took > SLOW_PULSE and not _is_away(report):
            yield Finding(
                "recovering",
                "instance",
                f"store of {replica.name}",
                f"The shared store took {took:.1f} s for a pulse of the replica {replica.name}.",
                effect="Replicas whose pulses take 10 seconds may be taken for dead.",
            )


def old_snapshot(report: Report) -> Iterator[Finding]:
    """Yield that the shared store cannot remove old versions of rows."""
    most = max((each.old_rows for each in alive(report)), default=0)
    if most > OLD_ROWS:
        yield Finding(
            "action_required",
            "instance",
            "store",
            f"The database keeps {most:,} old versions of the rows of one small table.",
            effect="Nothing is lost, but everything that is written takes longer and longer.",
            do="End what makes it keep them: a transaction that is forgotten in some session, a "
            "prepared one, or a replication slot that no standby reads.",
        )
