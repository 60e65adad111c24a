"""The reference of the command line, made of the commands themselves."""

from collections.abc import Iterator
from typing import Any, Final

from auditrelay.cli import lazy

_HEAD: Final = """\
# Command line

Every command with its arguments and options, as `auditrelay COMMAND --help` shows them.
[Commands](commands.md) says what each is good for, [exit status](operations.md#exit-status) how
they end.

Before any command: `-c PATH` names the configuration, `--log-level LEVEL` says how much is logged.
"""


def options() -> str:
    """Return the page of every command with its arguments and options."""
    lines = [_HEAD]
    for path, command in _commands({name: lazy.command(name) for name in lazy.COMMANDS}):
        usage = " ".join([path, *_usage(command)])
        lines += ["", f"## `{path}`", "", _text(command.help), "", "```text", usage, "```"]
        rows = [_row(each) for each in command.params if not each.hidden]
        if rows:
            lines += ["", "| argument or option | meaning |", "| --- | --- |", *rows]
    return "\n".join([*lines, ""])


def _commands(members: dict[str, Any], path: str = "auditrelay") -> Iterator[tuple[str, Any]]:
    for name, command in members.items():
        if hasattr(command, "commands"):
            yield from _commands(command.commands, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _usage(command: Any) -> Iterator[str]:
    for each in command.params:
        if each.param_type_name == "argument":
            yield each.name.upper() if each.required else f"[{each.name.upper()}]"
    yield from (f"{_option(each)}" for each in command.params if _is_option(each) and each.required)
    yield "[OPTIONS]"


def _is_option(each: Any) -> bool:
    return bool(each.param_type_name == "option")


def _option(each: Any) -> str:
    names = ", ".join([*each.opts, *each.secondary_opts])
    if each.is_flag or each.count:
        return names
    return f"{names} {each.metavar or each.name.upper()}"


def _row(each: Any) -> str:
    name = _option(each) if _is_option(each) else each.metavar or each.name.upper()
    notes = [_text(each.help)]
    if each.required and _is_option(each):
        notes.append("Required.")
    if each.multiple:
        notes.append("Repeatable.")
    if each.default not in (None, False, ()) and "efault" not in notes[0]:
        shown = getattr(each.default, "value", each.default)
        notes.append(f"Default: `{shown}`.")
    return f"| `{name.replace('|', chr(92) + '|')}` | {' '.join(notes)} |"


def _text(text: str) -> str:
    """Return a help text as Markdown shows it: as it stands, in one line."""
    line = " ".join(text.split())
    for mark in ("\\", "|", "*", "<", "[", "$"):
        line = line.replace(mark, f"\\{mark}")
    return line
