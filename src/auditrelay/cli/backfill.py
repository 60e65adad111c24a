"""``auditrelay backfill``: read a past range of a source, beside the service or without it."""

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
from auditrelay.cli.times import moment
from auditrelay.collect.progress import OnProgress
from auditrelay.telemetry import humanize


def backfill(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="The name of a source in the configuration.")],
    *,
    since: Annotated[
        str, typer.Option("--from", metavar="T", help="2026-03-01T00:00:00Z, 2026-03-01, or 36h.")
    ],
    until: Annotated[
        str | None, typer.Option("--to", metavar="T", help="Default: what has settled by now.")
    ] = None,
    sink: Annotated[
        list[str] | None,
        typer.Option(help="Only into this sink, which gets all of it again; repeatable."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what the source shows.")
    ] = False,
    newest_first: Annotated[
        bool, typer.Option("--newest-first", help="Begin at the end of the range.")
    ] = False,
    concurrency: Annotated[
        int, typer.Option(min=1, max=32, help="How many slices are read at once.")
    ] = 4,
) -> None:
    """Read a past range; what was forwarded before is not forwarded again."""
    at_terminal = sys.stderr.isatty()
    config = Options.of(context).load(default_level="error" if at_terminal else "info")
    now = datetime.now(UTC)
    request = {
        "do": "backfill",
        "source": source,
        "start": moment("--from", since, now).isoformat(),
        "end": None if until is None else moment("--to", until, now).isoformat(),
        "sinks": sink or [],
        "dry_run": dry_run,
        "newest_first": newest_first,
        "concurrency": concurrency,
    }
    result = _with_bar(config, request) if at_terminal else run_command(config, request, _line)
    _report(source, result, dry_run=dry_run)


async def _line(told: dict[str, Any]) -> None:
    if "note" in told:
        typer.echo(f"note: {told['note']}", err=True)
        return
    share = told["done_seconds"] / told["total_seconds"]
    typer.echo(f"{share:.0%} read, {told['events']:,} events, {told['new']:,} new", err=True)


def _with_bar(config: Any, request: dict[str, Any]) -> dict[str, Any]:
    columns = (
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[events]:,} events, {task.fields[new]:,} new"),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None, events=0, new=0, rate=0.0)
        return run_command(config, request, _on(bar, task))


def _on(bar: Progress, task: TaskID) -> OnProgress:
    async def on_progress(told: dict[str, Any]) -> None:
        if "note" in told:
            bar.console.print(f"note: {told['note']}", markup=False)
            return
        elapsed = bar.tasks[task].elapsed or 0.0
        bar.update(
            task,
            total=told["total_seconds"],
            completed=told["done_seconds"],
            events=told["events"],
            new=told["new"],
            rate=told["events"] / elapsed if elapsed else 0.0,
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
    resumed = " (going on from where an earlier run stopped)" if result["resumed"] else ""
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
