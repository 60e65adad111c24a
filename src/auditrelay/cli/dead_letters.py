"""``auditrelay dead-letters``: the events that a sink will never accept, and why."""

import asyncio
import json
from collections import Counter
from collections.abc import Collection
from typing import Annotated, Any

import msgspec
import orjson
import typer
from rich.text import Text

from auditrelay.cli.json_text import json_text
from auditrelay.cli.options import Options
from auditrelay.cli.remote import run_command
from auditrelay.cli.tables import console, table
from auditrelay.clock import Clock
from auditrelay.config.model import Config
from auditrelay.errors import ConfigError
from auditrelay.events.forms import raw
from auditrelay.service.desk import Drop, Dropped, Replay, Replayed
from auditrelay.service.state import is_there, view_of
from auditrelay.store import LetterOf, StoredDeadLetter
from auditrelay.window import iso

_PATIENCE = 60.0
"""Most seconds to wait for the outcome of a replay by a running service."""

dead_letters = typer.Typer(
    help="Events that sinks will never accept, and why.", no_args_is_help=True
)

_Sink = Annotated[
    list[str] | None, typer.Option("--sink", help="Only of this sink; may be repeated.")
]
_Source = Annotated[
    list[str] | None, typer.Option("--source", help="Only of this source; may be repeated.")
]
_Reason = Annotated[
    list[str] | None, typer.Option("--reason", help="Only with this reason; may be repeated.")
]
_Id = Annotated[list[int] | None, typer.Option("--id", help="Only this one; may be repeated.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class _Row(msgspec.Struct, frozen=True):
    """A dead letter as ``--json`` prints it; times are ISO 8601."""

    id: int
    uid: str
    native_id: str | None
    source: str
    sink: str | None
    reason: str
    status: int | None
    message: str
    attempts: int
    first_at: str
    last_at: str
    replayed: bool


class _ReplayedRow(_Row, frozen=True):
    """A dead letter that was replayed, and with what *outcome*."""

    outcome: str


@dead_letters.command("list")
def list_(
    context: typer.Context,
    *,
    sink: _Sink = None,
    source: _Source = None,
    reason: _Reason = None,
    id: _Id = None,  # noqa: A002  # the name of the option
    as_json: _Json = False,
) -> None:
    """List dead letters, oldest first."""
    rows = [
        _row(letter)
        for letter in _find(
            context,
            sinks=sink or (),
            sources=source or (),
            reasons=reason or (),
            ids=id or (),
        )
    ]
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(rows), indent=2))
        return

    columns = ("reason", "status", "attempts", "last_at", "message")
    listed = table("id", "sink", "source", others=columns)
    for row in rows:
        shown = (row.id, row.sink, row.source, row.reason, row.status, row.attempts, row.last_at)
        listed.add_row(*(Text("" if each is None else str(each)) for each in (*shown, row.message)))
    console().print(listed)


@dead_letters.command("show")
def show(
    context: typer.Context,
    id: Annotated[int, typer.Argument(help="Its id in the list.")],  # noqa: A002  # as above
) -> None:
    """Show one dead letter with its whole event, as JSON."""
    found = list(_find(context, ids=[id]))
    if not found:
        raise ConfigError(f"there is no dead letter {id}; see: auditrelay dead-letters list")

    event = orjson.loads(orjson.dumps(raw.render(found[0].letter.event)))
    typer.echo(json_text({**msgspec.to_builtins(_row(found[0])), "event": event}))


_All = Annotated[bool, typer.Option("--all", help="All dead letters.")]


@dead_letters.command("replay")
def replay(
    context: typer.Context,
    *,
    sink: _Sink = None,
    source: _Source = None,
    reason: _Reason = None,
    id: _Id = None,  # noqa: A002  # the name of the option
    everything: _All = False,
    as_json: _Json = False,
) -> None:
    """Send dead letters again, each to its own sink, and print the outcome."""
    options = Options.of(context)
    config, found = _selected(options, sink, source, reason, id, everything=everything)
    ids = tuple(each.id for each in found)
    replayed, undelivered = run_command(config, options.clock, Replay(ids, _of(found)), Replayed)
    outcomes = asyncio.run(_outcomes(config, options.clock, found, replayed.excluded))
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(outcomes), indent=2))
    else:
        counts = Counter(row.outcome for row in outcomes)
        for outcome, count in counts.items():
            typer.echo(f"{count:,} {outcome.replace('_', ' ')}")
        for row in outcomes:
            if row.outcome == "refused_again":
                typer.echo(f"  {row.id} {row.sink}: {row.message}")
            if row.outcome == "excluded":
                typer.echo(
                    f"  {row.id} {row.sink}: its exclude leaves it out; take the glob out of the "
                    "configuration, or drop the letter"
                )
        if not outcomes:
            typer.echo("no dead letter matches")
    for each in undelivered or ():
        typer.echo(f"auditrelay: {each}", err=True)
    if any(row.outcome not in ("delivered", "forwarded") for row in outcomes):
        raise typer.Exit(1)


@dead_letters.command("drop")
def drop(
    context: typer.Context,
    *,
    sink: _Sink = None,
    source: _Source = None,
    reason: _Reason = None,
    id: _Id = None,  # noqa: A002  # the name of the option
    everything: _All = False,
    as_json: _Json = False,
) -> None:
    """Discard dead letters. The events are deleted; a record that they existed is kept."""
    options = Options.of(context)
    config, found = _selected(options, sink, source, reason, id, everything=everything)
    ids = tuple(each.id for each in found)
    dropped, _ = run_command(config, options.clock, Drop(ids, _of(found)), Dropped)
    if as_json:
        typer.echo(json.dumps(dropped.ids))
    else:
        typer.echo(f"{len(dropped.ids):,} dropped")
        if skipped := len(found) - len(dropped.ids):
            typer.echo(f"{skipped:,} skipped: already being replayed, or gone")


def _selected(
    options: Options,
    sinks: list[str] | None,
    sources: list[str] | None,
    reasons: list[str] | None,
    ids: list[int] | None,
    *,
    everything: bool,
) -> tuple[Config, list[StoredDeadLetter]]:
    """Return the configuration and the dead letters of the filters, of which one is required."""
    if everything == bool(sinks or sources or reasons or ids):
        raise ConfigError(
            "select dead letters with --sink, --source, --reason or --id, or with --all"
        )
    config = options.load(default_level="error")
    filters = {
        "sinks": sinks or (),
        "sources": sources or (),
        "reasons": reasons or (),
        "ids": ids or (),
    }
    return config, _read(config, **filters)


async def _outcomes(
    config: Config, clock: Clock, sent: list[StoredDeadLetter], excluded: Collection[int]
) -> list[_ReplayedRow]:
    """
    Return the outcome of each of *sent*, once it is known or _PATIENCE has passed.

    Those *excluded* were not sent.
    """
    began = clock.monotonic()
    ids = [each.id for each in sent]
    while True:
        left = {each.id: each for each in _read(config, ids=ids)} if ids else {}
        waiting = any(each.replayed for each in left.values())
        if not waiting or clock.monotonic() - began > _PATIENCE:
            break
        await clock.sleep(0.2)
    outcomes = []
    for each in sent:
        after = left.get(each.id)
        if each.id in excluded:
            outcome = "excluded"
        elif after is None:
            outcome = "delivered" if each.sink is not None else "forwarded"
        else:
            outcome = "replaying" if after.replayed else "refused_again"
        row = msgspec.structs.asdict(_row(after or each))
        outcomes.append(_ReplayedRow(**row, outcome=outcome))
    return outcomes


def _of(found: list[StoredDeadLetter]) -> dict[int, LetterOf]:
    return {each.id: each.of for each in found}


def _find(context: typer.Context, **filters: Any) -> list[StoredDeadLetter]:
    return _read(Options.of(context).load(default_level="warning"), **filters)


def _read(config: Config, **filters: Any) -> list[StoredDeadLetter]:
    if not is_there(config):
        return []
    with view_of(config) as view:
        return view.dead_letters(**filters)


def _row(stored: StoredDeadLetter) -> _Row:
    letter = stored.letter
    return _Row(
        stored.id,
        letter.event.uid,
        letter.event.native_id,
        stored.source,
        stored.sink,
        letter.reason,
        letter.status,
        letter.message,
        letter.attempts,
        iso(letter.first_at),
        iso(letter.last_at),
        stored.replayed,
    )
