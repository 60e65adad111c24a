"""``auditrelay forget``: let go of what the state holds of a source or sink that is gone."""

from typing import Annotated, Any

import typer

from auditrelay.cli.options import Options
from auditrelay.cli.remote import run_command


def forget(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A source or sink that is not configured any more.")],
    *,
    yes: Annotated[
        bool, typer.Option("--yes", help="Also if something is lost with it for good.")
    ] = False,
) -> None:
    """Delete what the state holds of a source or sink that was taken out or renamed."""
    config = Options.of(context).load(default_level="error")
    run_command(config, {"do": "forget", "name": name, "yes": yes}, _silent)
    typer.echo(f"{name} is forgotten")


async def _silent(_: dict[str, Any]) -> None:
    """There is nothing to tell on the way."""
