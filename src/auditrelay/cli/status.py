"""``auditrelay status``: the state of everything, with a running service or without one."""

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import chain
from typing import Annotated

import msgspec
import typer
from msgspec import UNSET
from rich.table import Table
from rich.text import Text

from auditrelay.cli.options import Options
from auditrelay.cli.tables import console, table
from auditrelay.config.model import Config
from auditrelay.service.state import is_there, situation_of, view_of
from auditrelay.status.model import (
    AnyPeer,
    Finding,
    ReplicaStatus,
    Report,
    SinkStatus,
    SourceStatus,
)
from auditrelay.status.report import report
from auditrelay.telemetry import humanize

_CLOCK = len("04:44:22Z")
"""How narrow a column of times may become: the date is then above the time of day."""


def status(
    context: typer.Context,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show checkpoints, lag, backlogs, dead letters and gaps."""
    options = Options.of(context)
    state = current(options.load(default_level="warning"), options.clock.now())
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(state), indent=2))
        return
    _print(state)


def current(config: Config, now: datetime) -> Report:
    """Return the report on ``state_dir``; a state that does not exist yet is an empty one."""
    if not is_there(config):
        return report(config, (), (), spool_bytes=0, now=now)
    with view_of(config) as view:
        return report(
            config,
            view.sources(),
            view.sinks(),
            spool_bytes=view.spool_bytes(),
            evidence=view.evidence(),
            now=now,
            situation=situation_of(config),
        )


def _print(state: Report) -> None:
    out = console()
    if state.replicas is not UNSET:
        out.print(_replicas(state.replicas))
    out.print(_sources(state.sources))
    for source in state.sources:
        if source.lateness is not None:
            out.print(f"{source.name}: {source.lateness}{_advice(source)}", markup=False)
    out.print(_sinks(state.sinks))
    if any(sink.freshness for sink in state.sinks):
        out.print(_freshness(state.sinks))
    # A column of a table would leave a message a word a line.
    peers: list[AnyPeer] = [*state.sources, *state.sinks]
    for line in chain(_left_out(state.sinks), _last_errors(peers)):
        out.print(Text(line), soft_wrap=True)
    spool = state.spool
    out.print(f"spool: {spool.bytes:,} of {spool.max_bytes:,} bytes")
    evidence = state.evidence
    if evidence.sealed_at is not None:
        out.print(f"evidence: {evidence.entries:,} entries, sealed {_time(evidence.sealed_at)}")
    for finding in state.findings:
        out.print(Text("\n".join(_lines(finding))), soft_wrap=True)


def _sources(sources: Iterable[SourceStatus]) -> Table:
    rows = table("source", others=("state",))
    rows.add_column("read up to", min_width=_CLOCK)
    rows.add_column("lag")
    rows.add_column("last event", min_width=_CLOCK)
    rows.add_column("not read")
    rows.add_column("unknown types", justify="right")
    for source in sources:
        rows.add_row(
            source.name,
            _state(source),
            _time(source.last_fetched_timestamp) or "never",
            _span(source.lag_seconds),
            _time(source.last_event_at) or "none yet",
            _span(source.gap_seconds),
            f"{source.unknown_actions:,}",
        )
    return rows


def _sinks(sinks: Iterable[SinkStatus]) -> Table:
    rows = table("sink", others=("state", "backlog", "oldest waiting", "dead letters"))
    for sink in sinks:
        rows.add_row(
            sink.name,
            _state(sink),
            f"{sink.backlog_events:,}",
            _span(sink.oldest_undelivered_seconds),
            f"{sink.dead_letters:,}",
        )
    return rows


def _freshness(sinks: Iterable[SinkStatus]) -> Table:
    rows = table("events of", "at sink", others=("half within", "99 % within"))
    rows.add_column("events", justify="right")
    rows.add_column("in the hour to", min_width=_CLOCK)
    for sink in sinks:
        for each in sink.freshness:
            rows.add_row(
                each.source,
                sink.name,
                _span(each.p50_seconds),
                _span(each.p99_seconds),
                f"{each.events:,}",
                _time(each.last_at),
            )
    return rows


def _left_out(sinks: Iterable[SinkStatus]) -> Iterator[str]:
    for sink in sinks:
        if sink.exclude:
            yield f"{sink.name} is not sent: {', '.join(sink.exclude)}"


def _last_errors(peers: Iterable[AnyPeer]) -> Iterator[str]:
    for peer in peers:
        if peer.last_error:
            yield f"last error of {peer.name}: {peer.last_error}"


def _replicas(replicas: Iterable[ReplicaStatus]) -> Table:
    rows = table("replica", others=("state", "version", "since", "holds"))
    for replica in replicas:
        rows.add_row(
            replica.name,
            "STUCK" if replica.alive and replica.stuck else "alive" if replica.alive else "DEAD",
            replica.version,
            _time(replica.since),
            ", ".join(replica.units) or "nothing",
        )
    return rows


def _lines(finding: Finding) -> Iterator[str]:
    """Yield what is wrong, its effect and what to do, as on the status page; a line each."""
    since = finding.since
    when = "" if since is None else f" (since {_time(since)})"
    level = "ACTION REQUIRED" if finding.level == "action_required" else "RECOVERING"
    yield f"{level}: {finding.what}{when}"
    yield from (f"    {sentence}" for sentence in (finding.effect, finding.do) if sentence)
    if finding.command:
        yield f"    $ {finding.command}"


def _advice(row: SourceStatus) -> str:
    return (
        f" To have caught nearly all of them at once: settle {row.suggested_settle}, "
        f"overlap {row.suggested_overlap}."
        if row.lateness and "came later" in row.lateness
        else ""
    )


def _state(row: AnyPeer) -> str:
    if row.orphaned:
        return "not configured"
    if not row.enabled:
        return "disabled"
    if row.held_by is None:
        return "HELD BY NO REPLICA"
    if row.held:
        return "BLOCKED, action required"
    if isinstance(row, SourceStatus) and row.silent:
        return "SILENT"
    return "up" if row.up else "not up"


def _time(iso: str | None) -> str:
    return "" if iso is None else datetime.fromisoformat(iso).strftime("%m-%d %H:%M:%SZ")


def _span(seconds: float | None) -> str:
    return "" if seconds is None else humanize.span(seconds)
