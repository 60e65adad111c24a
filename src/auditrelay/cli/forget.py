"""``auditrelay forget``: delete the state of an orphaned source or sink."""

from typing import Annotated

import typer

from auditrelay.cli.options import Options
from auditrelay.cli.remote import run_command
from auditrelay.service.desk import Forget, Forgotten


def forget(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A source or sink that is not configured any more.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Confirm permanent data loss.")] = False,
) -> None:
    """Delete the state of a source or sink that was renamed or is no longer configured."""
    options = Options.of(context)
    config = options.load(default_level="error")
    run_command(config, options.clock, Forget(name, yes), Forgotten)
    typer.echo(f"The state of {name} is deleted.")
