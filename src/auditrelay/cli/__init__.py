"""
The commands: one thin module each, that reads the settings, calls one function, and prints.

Results go to stdout, logs and errors to stderr. Exit status: 0 all well, 1 some work failed, 2
wrong usage or configuration, 3 the state is locked by another instance or cannot be used.
"""

import gc
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from auditrelay import __version__
from auditrelay.cli.backfill import backfill
from auditrelay.cli.check import check
from auditrelay.cli.coverage import coverage
from auditrelay.cli.dead_letters import dead_letters
from auditrelay.cli.demo import demo
from auditrelay.cli.forget import forget
from auditrelay.cli.init import init
from auditrelay.cli.options import Given
from auditrelay.cli.run import run
from auditrelay.cli.sample import sample
from auditrelay.cli.schema import schema
from auditrelay.cli.setup import setup
from auditrelay.cli.status import status
from auditrelay.cli.verify import verify
from auditrelay.errors import ConfigError, RelayError, StateError

cli = typer.Typer(
    name="auditrelay",
    help="Carries SaaS audit logs into SIEMs: every event, once, soon, with proof.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:  # noqa: FBT001  # the shape of typer's callbacks
    if wanted:
        typer.echo(f"auditrelay {__version__}")
        raise typer.Exit


@cli.callback()
def _main(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="PATH", help="The configuration file."),
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(metavar="LEVEL", help="debug, info, warning or error; over the file's."),
    ] = None,
    version: Annotated[  # noqa: ARG001  # the callback does the work
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    context.obj = Given(config, log_level)


for _command in (
    run,
    backfill,
    check,
    status,
    coverage,
    verify,
    sample,
    forget,
    demo,
    init,
    schema,
):
    cli.command()(_command)
cli.add_typer(dead_letters, name="dead-letters")
cli.add_typer(setup, name="setup")


def main() -> None:
    """Run the command line; the entry point of the ``auditrelay`` script."""
    # What is imported stays: at Python's own 700 the collector goes through it again and again,
    # a twelfth of the start. The service has its own figure, see app.
    gc.set_threshold(50_000)
    try:
        cli()
    except ConfigError as error:
        for problem in error.problems:
            print(f"auditrelay: {problem}", file=sys.stderr)  # noqa: T201  # this is its place
        sys.exit(2)
    except RelayError as error:
        print(f"auditrelay: {error}", file=sys.stderr)  # noqa: T201  # as above
        sys.exit(3 if isinstance(error, StateError) else 1)
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
