"""``auditrelay verify``: compare a past range with its source, event by event."""

import json
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from auditrelay.cli.options import Options
from auditrelay.cli.remote import run_command
from auditrelay.cli.times import parse_time
from auditrelay.clock import Clock
from auditrelay.collect.verify import MISSING_AT_SINK, UNPROVED, Missing, Shown, VerifyReport
from auditrelay.config.model import Config
from auditrelay.errors import ConfigError, RelayError
from auditrelay.service.desk import Progress, Verified, Verify
from auditrelay.sources import UNREADABLE

_SHOWN = 20
"""How many missing events are listed for people; --json lists all."""


def verify(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="The name of a source in the configuration.")],
    *,
    since: Annotated[
        str, typer.Option("--from", metavar="T", help="2026-03-01T00:00:00Z, 2026-03-01, or 36h.")
    ],
    until: Annotated[
        str | None, typer.Option("--to", metavar="T", help="Default: the checkpoint.")
    ] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Forward the missing events.")] = False,
    at_sink: Annotated[
        bool,
        typer.Option("--at-sink", help="Search Elasticsearch itself for each event."),
    ] = False,
    listed: Annotated[
        Path | None,
        typer.Option(
            "--list", metavar="FILE", help="Write what the source shows, for evidence check."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Read a range again at the source, and compare it with the forwarded events."""
    options = Options.of(context)
    config = options.load(default_level="error")
    now = options.clock.now()
    request = Verify(
        source=source,
        start=parse_time("--from", since, now),
        end=None if until is None else parse_time("--to", until, now),
        repair=repair,
        at_sink=at_sink,
        listed=listed is not None,
    )
    if listed is not None:
        if repair or at_sink or as_json:
            raise ConfigError("--list goes alone: leave --repair, --at-sink and --json out")
        _list(config, options.clock, request, listed)
        return
    verified, undelivered = run_command(config, options.clock, request, Verified)
    report = verified.report
    if as_json:
        values = msgspec.to_builtins(report)
        if undelivered is not None:
            values["undelivered"] = undelivered
        typer.echo(json.dumps(values, indent=2))
    else:
        _print(report)
    for each in undelivered or ():
        typer.echo(f"auditrelay: not delivered yet: {each}", err=True)
    unrepaired = len(report.missing) - report.repaired
    unreported = not repair and any(each.event is None for each in report.changed)
    unreadable = any(part.reason == UNREADABLE for part in report.not_shown)
    missing = unrepaired > 0 if repair else bool(report.missing)
    if missing or unreported or unreadable or undelivered:
        raise typer.Exit(1)


def _list(config: Config, clock: Clock, request: Verify, path: Path) -> None:
    """Write time, uid and digest of what the source shows, a line each, behind one of the range."""
    count = 0

    async def write(progress: Progress) -> None:
        nonlocal count
        if isinstance(progress, Shown):
            if not file.tell():
                head = {"source": request.source, "from": progress.start, "to": progress.end}
                file.write(json.dumps(head) + "\n")
            for time, uid, raw in progress.events:
                file.write(json.dumps({"time": time, "uid": uid, "raw_sha256": raw}) + "\n")
            count += len(progress.events)

    try:
        with path.open("x", encoding="ascii") as file:
            verified, _ = run_command(config, clock, request, Verified, write)
    except FileExistsError:
        raise ConfigError(f"--list {path}: exists already; not overwritten") from None
    except OSError as error:
        raise RelayError(f"--list {path}: cannot be written: {error.strerror or error}") from error
    except RelayError:
        path.unlink()
        raise
    report = verified.report
    typer.echo(f"{report.source} from {report.start} to {report.end}: {count} events: {path}")
    for part in report.not_shown:
        typer.echo(f"  not shown by the source: {part.start} .. {part.end}, {part.reason}")
    if report.not_shown:
        raise typer.Exit(1)


def _print(report: VerifyReport) -> None:
    typer.echo(f"{report.source} from {report.start} to {report.end}")
    if report.axis == "recorded":
        typer.echo(
            f"  {report.checked:,} events recorded in that time at the source; "
            f"{report.forwarded:,} that happened in it were forwarded"
        )
    else:
        typer.echo(f"  {report.checked:,} events at the source, {report.forwarded:,} forwarded")
    for sink, statuses in report.sinks.items():
        counts = ", ".join(f"{count:,} {_words(status)}" for status, count in statuses.items())
        typer.echo(f"  {sink}: {counts or 'nothing'}")
    for part in report.not_shown:
        typer.echo(f"  not shown by the source: {part.start} .. {part.end}, {part.reason}")
    if report.deleted_at_source:
        typer.echo(
            f"  {len(report.deleted_at_source):,} forwarded events were deleted at the source"
        )
    if any(UNPROVED in statuses for statuses in report.sinks.values()):
        typer.echo(
            "  UNPROVED: known, and the evidence does not say that they were accepted: uids were "
            "edited in the state; see auditrelay coverage --check"
        )
    _print_changed(report)
    missing = report.missing
    if not missing:
        typer.echo("  nothing is missing")
        return
    typer.echo(f"  MISSING: {len(missing):,}, {report.repaired:,} of them forwarded now")
    for each in missing[:_SHOWN]:
        typer.echo(
            f"    {each.occurred_at} {each.native_id or each.uid} "
            f"({_not_in(each)}"
            f"{'' if each.gap is None else ', in a gap: ' + each.gap})"
        )
    if len(missing) > _SHOWN:
        typer.echo(f"    and {len(missing) - _SHOWN:,} more, see --json")


def _print_changed(report: VerifyReport) -> None:
    if report.changed:
        reported = sum(each.event is not None for each in report.changed)
        typer.echo(
            f"  CHANGED at the source: {len(report.changed):,}, {reported:,} of them forwarded as "
            "auditrelay.record_changed"
        )
    for each in report.changed[:_SHOWN]:
        fields = "former record not kept" if each.fields is None else ", ".join(each.fields)
        typer.echo(f"    {each.occurred_at} {each.native_id or each.uid} ({fields})")
    if len(report.changed) > _SHOWN:
        typer.echo(f"    and {len(report.changed) - _SHOWN:,} more, see --json")
    if report.not_compared:
        typer.echo(f"  {report.not_compared:,} more have changed too often to be compared any more")


def _not_in(missing: Missing) -> str:
    sinks = ", ".join(missing.sinks)
    return f"not in {sinks}" if sinks else "not read; no sink gets it, as their exclude says"


def _words(status: str) -> str:
    return "missing at the sink" if status == MISSING_AT_SINK else status.replace("_", " ")
