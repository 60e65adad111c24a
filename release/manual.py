"""
Print the man page of the command that ``auditrelay`` is, made of its own help.

It is run by the Python and with the packages that the page is for:

    PYTHONPATH=/usr/lib/auditrelay/lib/python3.11/site-packages python3 release/manual.py 2026-11-27
"""

import re
import sys
from collections.abc import Iterator
from typing import Any

import typer

import auditrelay
from auditrelay import cli, config
from auditrelay.cli import lazy


def page(date: str) -> str:
    """Return the page, dated *date*, in the macros of man(7)."""
    top = typer.main.get_command(cli.cli)
    lines = [
        f'.TH AUDITRELAY 1 "{date}" "auditrelay {auditrelay.__version__}" "User Commands"',
        ".SH NAME",
        f"auditrelay \\- {_plain(str(top.help).rstrip('.'))}",
        ".SH SYNOPSIS",
        ".B auditrelay",
        "[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGS\\fR]...",
        ".SH OPTIONS",
        *_options(top, "auditrelay"),
        ".SH COMMANDS",
        *(line for name in lazy.COMMANDS for line in _command(lazy.command(name), name)),
        ".SH EXIT STATUS",
        _plain(" ".join((cli.__doc__ or "").split("\n\n")[1].split())),
        ".SH FILES",
        *(
            f".TP\n.I {_plain(str(path))}\nThe configuration, unless another one is named."
            for path in config.DEFAULT_PATHS
        ),
    ]
    return "\n".join(lines) + "\n"


def _command(command: Any, name: str) -> Iterator[str]:
    """Yield the section of *command*, then those of the commands below it."""
    below = getattr(command, "commands", {})
    if not below:
        context = typer.Context(command, info_name=name)
        usage = " ".join(each.strip("{}") for each in command.collect_usage_pieces(context))
        yield f".SS {_plain(f'{name} {usage}')}"
        for paragraph in re.split(r"\n\s*\n", (command.help or "").strip()):
            yield f".PP\n{_plain(' '.join(paragraph.split()))}"
        yield from _options(command, name)
    for under, each in below.items():
        yield from _command(each, f"{name} {under}")


def _options(command: Any, name: str) -> Iterator[str]:
    context = typer.Context(command, info_name=name, help_option_names=list(lazy.HELP_OPTIONS))
    for parameter in command.get_params(context):
        if record := parameter.get_help_record(context):
            written, said = record
            yield f".TP\n.B {_plain(written)}\n{_plain(' '.join(said.split()))}"


def _plain(text: str) -> str:
    """Return *text* so that roff prints it as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    sys.stdout.write(page(sys.argv[1]))
