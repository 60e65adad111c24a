"""``auditrelay backfill``: read a past range of a source, through the service or without it."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from auditrelay.cli.options import Options
from auditrelay.cli.remote import run_command
from auditrelay.cli.times import parse_time
from auditrelay.clock import Clock
from auditrelay.collect.backfill import BackfillProgress
from auditrelay.config.model import Config
from auditrelay.service.desk import Backfill, Backfilled, Note, OnProgress, Progress
from auditrelay.telemetry import humanize


def backfill(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="The name of a source in the configuration.")],
    *,
    since: Annotated[
        str, typer.Option("--from", metavar="T", help="2026-03-01T00:00:00Z, 2026-03-01, or 36h.")
    ],
    until: Annotated[
        str | None, typer.Option("--to", metavar="T", help="Default: now minus settle.")
    ] = None,
    sink: Annotated[
        list[str] | None,
        typer.Option(
            help="Send only to this sink, including events it already received. May be repeated."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count the events that the source shows.")
    ] = False,
    newest_first: Annotated[
        bool, typer.Option("--newest-first", help="Start at the end of the range.")
    ] = False,
    concurrency: Annotated[
        int, typer.Option(min=1, max=32, help="How many slices are read concurrently.")
    ] = 4,
) -> None:
    """Read a past range; events that were forwarded before are not forwarded again."""
    at_terminal = sys.stderr.isatty()
    options = Options.of(context)
    config = options.load(default_level="error" if at_terminal else "info")
    now = options.clock.now()
    request = Backfill(
        source=source,
        start=parse_time("--from", since, now),
        end=None if until is None else parse_time("--to", until, now),
        sinks=tuple(sink or ()),
        dry_run=dry_run,
        newest_first=newest_first,
        concurrency=concurrency,
    )
    if at_terminal:
        result, undelivered = _run_with_bar(config, options.clock, request)
    else:
        result, undelivered = run_command(
            config, options.clock, request, Backfilled, _print_progress
        )
    _report(source, result.total, undelivered or (), dry_run=dry_run)


async def _print_progress(progress: Progress) -> None:
    match progress:
        case Note(text):
            typer.echo(f"note: {text}", err=True)
        case BackfillProgress():
            share = progress.done_seconds / progress.total_seconds
            typer.echo(
                f"{share:.0%} read, {progress.events:,} events, {progress.new:,} new", err=True
            )


def _run_with_bar(
    config: Config, clock: Clock, request: Backfill
) -> tuple[Backfilled, list[str] | None]:
    columns = (
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[events]:,} events, {task.fields[new]:,} new"),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None, events=0, new=0, rate=0.0)
        return run_command(config, clock, request, Backfilled, _updating(bar, task))


def _updating(bar: Bar, task: TaskID) -> OnProgress:
    async def on_progress(progress: Progress) -> None:
        match progress:
            case Note(text):
                bar.console.print(f"note: {text}", markup=False)
            case BackfillProgress():
                elapsed = bar.tasks[task].elapsed or 0.0
                bar.update(
                    task,
                    total=progress.total_seconds,
                    completed=progress.done_seconds,
                    events=progress.events,
                    new=progress.new,
                    rate=progress.events / elapsed if elapsed else 0.0,
                )

    return on_progress


def _report(
    source: str, total: BackfillProgress, undelivered: Sequence[str], *, dry_run: bool
) -> None:
    span = humanize.span(total.total_seconds)
    if dry_run:
        typer.echo(
            f"{source} shows {total.events:,} events in {span}; {total.new:,} of them "
            "were never forwarded. Nothing was changed."
        )
        return
    resumed = " (resumed where an earlier run stopped)" if total.resumed else ""
    typer.echo(f"{source}: {span} read{resumed}, {total.events:,} events, {total.new:,} forwarded")
    if total.gaps:
        typer.echo(
            f"{total.gaps} spans could not be read and are declared as gaps; see: "
            f"auditrelay coverage {source}",
            err=True,
        )
    for each in undelivered:
        typer.echo(f"auditrelay: not delivered yet: {each}", err=True)
    if total.gaps or undelivered:
        raise typer.Exit(1)
