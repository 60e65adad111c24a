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
from auditrelay.cli import completion
from auditrelay.cli.lazy import HELP_OPTIONS, LazyGroup
from auditrelay.errors import ConfigError, RelayError, exit_status

cli = typer.Typer(
    name="auditrelay",
    cls=LazyGroup,
    help="Carries SaaS audit logs into SIEMs: every event, once, soon, with proof.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": list(HELP_OPTIONS)},
)


def _version(wanted: bool) -> None:  # noqa: FBT001  # the shape of typer's callbacks
    if wanted:
        typer.echo(f"auditrelay {__version__}")
        raise typer.Exit


@cli.callback()
def _main(
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="PATH", help="The configuration file."),
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(metavar="LEVEL", help="debug, info, warning or error; overrides the file."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Declare the options before the command; a command gets them from ``Options.of``."""
    del config, log_level, version


def main() -> None:
    """Run the command line; ``__main__`` calls it."""
    # Imported objects stay: with Python's default of 700 the collector traverses them again and
    # again, a twelfth of the start-up. The service sets its own threshold, see app.
    gc.set_threshold(50_000)
    completion.begin()
    try:
        cli()
    except RelayError as error:
        for problem in error.problems if isinstance(error, ConfigError) else (error,):
            print(f"auditrelay: {problem}", file=sys.stderr)  # noqa: T201  # errors go to stderr
        sys.exit(exit_status(error))
    except BrokenPipeError:
        # The reader of our output has closed the pipe, as `head` does: no error to report.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
