"""``auditrelay dead-letters``: what a sink would never accept, and why."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from auditrelay.cli.given import Given
from auditrelay.errors import ConfigError

if TYPE_CHECKING:  # see given
    from auditrelay.store import StoredDeadLetter

dead_letters = typer.Typer(
    help="What sinks would never accept, and why.", no_args_is_help=True, rich_markup_mode=None
)

_Sink = Annotated[list[str] | None, typer.Option("--sink", help="Only of this sink; repeatable.")]
_Source = Annotated[list[str] | None, typer.Option("--source", help="Only of this source.")]
_Reason = Annotated[list[str] | None, typer.Option("--reason", help="Only for this reason.")]
_Id = Annotated[list[int] | None, typer.Option("--id", help="Only this one; repeatable.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


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
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console  # noqa: PLC0415  # only for people
    from rich.table import Table  # noqa: PLC0415  # as above
    from rich.text import Text  # noqa: PLC0415  # as above

    columns = ("id", "sink", "source", "reason", "status", "attempts", "last_at", "message")
    table = Table(*columns)
    for row in rows:
        table.add_row(*(Text("" if row[key] is None else str(row[key])) for key in columns))
    Console().print(table)


@dead_letters.command("show")
def show(
    context: typer.Context,
    id: Annotated[int, typer.Argument(help="Its number in the list.")],  # noqa: A002  # as above
) -> None:
    """Show one dead letter with its whole event, as JSON."""
    found = list(_find(context, ids=[id]))
    if not found:
        raise ConfigError(f"there is no dead letter {id}; see: auditrelay dead-letters list")
    from auditrelay.events import raw  # noqa: PLC0415  # see given

    event = orjson.loads(orjson.dumps(raw.render(found[0].letter.event)))
    typer.echo(json.dumps({**_row(found[0]), "event": event}, indent=2, ensure_ascii=False))


def _find(context: typer.Context, **filters: Any) -> "list[StoredDeadLetter]":
    from auditrelay.store.files import DATABASE  # noqa: PLC0415  # see given
    from auditrelay.store.sqlite import StateView  # noqa: PLC0415  # as above

    given: Given = context.obj
    config = given.load(default_level="warning")
    if not (config.state_dir / DATABASE).exists():
        return []
    with StateView(config.state_dir) as view:
        return view.dead_letters(**filters)


def _row(stored: "StoredDeadLetter") -> dict[str, Any]:
    letter = stored.letter
    return {
        "id": stored.id,
        "uid": letter.event.uid,
        "native_id": letter.event.native_id,
        "source": stored.source,
        "sink": stored.sink,
        "reason": letter.reason,
        "status": letter.status,
        "message": letter.message,
        "attempts": letter.attempts,
        "first_at": letter.first_at.isoformat().replace("+00:00", "Z"),
        "last_at": letter.last_at.isoformat().replace("+00:00", "Z"),
    }
