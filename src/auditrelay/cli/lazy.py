"""The group of all commands: it lists them from a table, and imports only the one that runs."""

import importlib
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

HELP_OPTIONS: Final = ("-h", "--help")

COMMANDS: Final = {
    "run": "Poll every source and deliver to every sink until stopped.",
    "backfill": "Read a past range; events that were forwarded before are not forwarded again.",
    "check": "Validate the configuration, then query every source and sink, harmlessly.",
    "status": "Show checkpoints, lag, backlogs, dead letters and gaps.",
    "coverage": "Show which spans of event time were read, with how many events, and every gap.",
    "verify": "Read a range again at the source, and compare it with the forwarded events.",
    "evidence": "What an auditor checks without believing this instance.",
    "sample": "Fetch the newest few events and print them; stores and sends nothing.",
    "forget": "Delete the state of a source or sink that was renamed or is no longer configured.",
    "demo": "Run everything against the built-in sandbox: no credentials, nothing left behind.",
    "init": "Write a commented configuration to start from. Never overwrites a file.",
    "schema": "Print the JSON Schema of the configuration file.",
    "description": "The audit-log APIs and receivers that are described in files.",
    "dead-letters": "Events that sinks will never accept, and why.",
    "setup": "Prepares a SIEM for the events, or the shared store.",
    "store": "Moves the state into a shared store.",
}
"""The line of each command in ``--help``: the first of its own help, here to avoid the import."""


class LazyGroup(TyperGroup):
    """A group whose commands are names and lines of help, until one of them is invoked."""

    def __init__(self, **settings: Any) -> None:
        listed = {name: TyperCommand(name, help=line) for name, line in COMMANDS.items()}
        super().__init__(**{**settings, "commands": listed})
        _hide_type_of_flags(self)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Import the command that *args* begin with; return it and the arguments after it."""
        name, listed, rest = super().resolve_command(ctx, args)
        return name, listed and command(str(listed.name)), rest


def command(name: str) -> Any:
    """Return the command *name*: the function or group of that name in the module of that name."""
    attribute = name.replace("-", "_")
    found = getattr(importlib.import_module(f"auditrelay.cli.{attribute}"), attribute)
    group = typer.Typer()
    if isinstance(found, typer.Typer):
        group.add_typer(found, name=name)
    else:
        group.command(name)(found)
    made = typer.main.get_group(group).commands[name]
    _hide_type_of_flags(made)
    return made


def _hide_type_of_flags(command: Any) -> None:
    """Show no ``<bool>`` in the help after an option that takes no value, --help included."""
    context = typer.Context(command, help_option_names=list(HELP_OPTIONS))
    for option in command.get_params(context):
        if getattr(option, "is_flag", False):
            option.metavar = ""
    for below in getattr(command, "commands", {}).values():
        _hide_type_of_flags(below)
