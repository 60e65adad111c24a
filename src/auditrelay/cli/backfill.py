"""``auditrelay backfill``: read a past range of a source, through the service or without it."""

import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from auditrelay.cli.options import Options
from auditrelay.cli.remote import run_command
from auditrelay.cli.times import parse_time
from auditrelay.collect.on_progress import OnProgress
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
    config = Options.of(context).load(default_level="error" if at_terminal else "info")
    now = datetime.now(UTC)
    request = {
        "do": "backfill",
        "source": source,
        "start": parse_time("--from", since, now).isoformat(),
        "end": None if until is None else parse_time("--to", until, now).isoformat(),
        "sinks": sink or [],
        "dry_run": dry_run,
        "newest_first": newest_first,
        "concurrency": concurrency,
    }
    if at_terminal:
        result = _run_with_bar(config, request)
    else:
        result = run_command(config, request, _print_progress)
    _report(source, result, dry_run=dry_run)


async def _print_progress(progress: dict[str, Any]) -> None:
    if "note" in progress:
        typer.echo(f"note: {progress['note']}", err=True)
        return
    share = progress["done_seconds"] / progress["total_seconds"]
    typer.echo(
        f"{share:.0%} read, {progress['events']:,} events, {progress['new']:,} new", err=True
    )


def _run_with_bar(config: Any, request: dict[str, Any]) -> dict[str, Any]:
    columns = (
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[events]:,} events, {task.fields[new]:,} new"),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None, events=0, new=0, rate=0.0)
        return run_command(config, request, _updating(bar, task))


def _updating(bar: Progress, task: TaskID) -> OnProgress:
    async def on_progress(progress: dict[str, Any]) -> None:
        if "note" in progress:
            bar.console.print(f"note: {progress['note']}", markup=False)
            return
        elapsed = bar.tasks[task].elapsed or 0.0
        bar.update(
            task,
            total=progress["total_seconds"],
            completed=progress["done_seconds"],
            events=progress["events"],
            new=progress["new"],
            rate=progress["events"] / elapsed if elapsed else 0.0,
        )

    return on_progress


def _report(source: str, result: dict[str, Any], *, dry_run: bool) -> None:
    span = humanize.span(result["total_seconds"])
    if dry_run:
        typer.echo(
            f"{source} shows {result['events']:,} events in {span}; {result['new']:,} of them "
            "were never forwarded. Nothing was changed."
        )
        return
    resumed = " (resumed where an earlier run stopped)" if result["resumed"] else ""
    typer.echo(
        f"{source}: {span} read{resumed}, {result['events']:,} events, {result['new']:,} forwarded"
    )
    if result["gaps"]:
        typer.echo(
            f"{result['gaps']} spans could not be read and are declared as gaps; see: "
            f"auditrelay coverage {source}",
            err=True,
        )
    for each in result.get("undelivered", ()):
        typer.echo(f"auditrelay: not delivered yet: {each}", err=True)
    if result["gaps"] or result.get("undelivered"):
        raise typer.Exit(1)
