"""``auditrelay init``: a configuration to start from."""

import os
import re
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from auditrelay import sinks, sources
from auditrelay.cli.completion import names
from auditrelay.cli.options import Options
from auditrelay.clock import Clock
from auditrelay.config.example import tables
from auditrelay.descriptions import HTTP, REST, shipped, shipped_receivers
from auditrelay.errors import ConfigError
from auditrelay.settings.wording import suggestion

_HEAD = """\
# auditrelay: a configuration to start from.
#
# Fill in what is empty, set the variables that ${env:...} names, and run `auditrelay check`.
# A secret can also come from ${file:/path} or ${credential:NAME} (systemd's LoadCredential=).
# config.example.toml explains every other key; `auditrelay schema` prints all of them.

# state_dir = "/var/lib/auditrelay"   # default: $STATE_DIRECTORY, else ~/.local/state/auditrelay

[status]
listen = "127.0.0.1:9464"             # page, health, metrics
"""
_HEAD_OF_ANSWERS = """\
# auditrelay, by `auditrelay init --interactive`.
#
# Secrets are references: the files, or variables, that ${file:...} and ${env:...} name.
# config.example.toml explains every other key; `auditrelay schema` prints all of them.

"""
_SOURCES = """
# A source is an audit log that is polled. Its name is yours; it is in metrics, logs and events.
"""
_SINKS = """
# A sink is a destination of events. It receives every source, unless `sources` selects some.
"""
_FIRST = ("cekura", "splunk_hec")
"""The source and the sink to start with; the others are commented out."""


def starter(chosen_sources: Sequence[str] = (), chosen_sinks: Sequence[str] = ()) -> str:
    """
    Return a configuration with tables made of their examples.

    They are those of the chosen types; where none is chosen, one table, and the others commented
    out. Raises ConfigError for a type that does not exist.
    """
    parts = [_HEAD]
    for title, package, chosen in (
        (_SOURCES, sources, chosen_sources),
        (_SINKS, sinks, chosen_sinks),
    ):
        parts.append(title)
        if chosen:
            written = [_to_fill_in(_example(package, name)) for name in dict.fromkeys(chosen)]
            parts.append("\n".join(written))
            continue
        examples = tables(package)
        first = next(name for name in _FIRST if name in examples)
        parts.append(_to_fill_in(examples.pop(first)))
        parts += [_commented_out(example) for example in examples.values()]
        parts.append(_more() if package is sources else _more_receivers())
    return "".join(parts)


def _more() -> str:
    """Return a comment about the sources that are described in files."""
    count = len(shipped())
    if not count:
        return ""
    return f"""
# {count} more vendors are described in files: `auditrelay description list` shows them, and
# `auditrelay init --source {shipped()[0]}` writes the table of one. Any other API can be described,
# too: docs/descriptions.md.
"""


def _more_receivers() -> str:
    """Return a comment about the sinks that are described in files."""
    names = shipped_receivers()
    if not names:
        return ""
    return f"""
# Receivers that are described in files: {", ".join(names)}.
# `auditrelay init --sink {names[0]}` writes the table of one. Any other that takes events over HTTP
# can be described, too: docs/add-your-receiver.md.
"""


def _example(package: ModuleType, chosen: str) -> str:
    """Return the example of the type *chosen*: its name, or the only one that begins so."""
    described = (*shipped(), REST) if package is sources else (*shipped_receivers(), HTTP)
    names = [*package.available(), *described]
    fitting = [chosen] if chosen in names else [name for name in names if name.startswith(chosen)]
    if len(fitting) != 1:
        kind = "source" if package is sources else "sink"
        hint = suggestion(chosen, names) or f" (known: {', '.join(fitting or names)})"
        raise ConfigError(f"--{kind} {chosen}: is not a type of {kind}{hint}")
    if fitting[0] not in described:
        example: str = import_module(f"{package.__name__}.{fitting[0]}").EXAMPLE
        return example
    return _described(fitting[0]) if package is sources else _described_sink(fitting[0])


def _described_sink(name: str) -> str:
    from auditrelay.descriptions.receiver.example import (  # noqa: PLC0415  # as below
        HTTP_EXAMPLE,
        example,
    )
    from auditrelay.descriptions.receiver.load import named  # noqa: PLC0415  # as below

    return HTTP_EXAMPLE if name == HTTP else example(name, named(name))


def _described(name: str) -> str:
    from auditrelay.descriptions.example import (  # noqa: PLC0415  # needs the whole language
        REST_EXAMPLE,
        example,
    )
    from auditrelay.descriptions.load import named  # noqa: PLC0415  # likewise

    return REST_EXAMPLE if name == REST else example(name, named(name))


def _to_fill_in(example: str) -> str:
    """Return the keys of *example* that are set, with their comments; empty is what must be set."""
    lines: list[str] = []
    comments: list[str] = []
    for line in example.splitlines():
        if line.startswith("# ") and not _DEFAULT.match(line):
            comments.append(line)
            continue
        if line and not _DEFAULT.match(line):
            lines += [*comments, _VALUE.sub('= ""', line)]
        comments = []
    return "\n".join([*lines, ""])


def _commented_out(example: str) -> str:
    """Return the keys of *example* that are set, commented out."""
    lines = (line for line in example.splitlines() if line and not line.startswith("#"))
    return "\n".join(["", *(f"# {line}" for line in lines), ""])


_DEFAULT = re.compile(r"# [a-z_]+ = ")
"""The start of a key that is commented out, with its default."""
_VALUE = re.compile(r'(?<!^type )(?<!^feed )= "[^$"]*"$')
"""A value of the example's own, and no reference to a secret."""


def _ask(clock: Clock, path: Path, *chosen: Sequence[str]) -> None:
    # Most need none of what it needs.
    from auditrelay.cli.first_run import Kind, ask_and_write, require_terminal  # noqa: PLC0415

    if any(chosen):
        raise ConfigError("--interactive asks for the types: leave --source and --sink out")
    require_terminal()
    kinds = [
        Kind("source", [*sources.available(), *shipped(), REST], partial(_example, sources)),
        Kind("sink", [*sinks.available(), *shipped_receivers(), HTTP], partial(_example, sinks)),
    ]
    head = _HEAD_OF_ANSWERS + _HEAD.partition("\n\n")[2]
    ask_and_write(path, kinds, head, clock)


def init(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("auditrelay.toml"),
    source: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TYPE",
            help="With a table of this type of source alone; repeatable.",
            autocompletion=names(lambda: [*sources.available(), *shipped(), REST]),
        ),
    ] = None,
    sink: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TYPE",
            help="With a table of this type of sink alone; repeatable.",
            autocompletion=names(lambda: [*sinks.available(), *shipped_receivers(), HTTP]),
        ),
    ] = None,
    interactive: Annotated[
        bool,
        typer.Option(
            "--interactive", help="Ask for everything, write it, check it, show a sample event."
        ),
    ] = False,
) -> None:
    """Write a commented configuration to start from. Never overwrites a file."""
    if interactive:
        _ask(Options.of(context).clock, path, source or (), sink or ())
    else:
        write(path, source or (), sink or ())


def write(path: Path, chosen_sources: Sequence[str] = (), chosen_sinks: Sequence[str] = ()) -> None:
    """Write the starter to *path*, where there must be no file. Raises ConfigError."""
    content = starter(chosen_sources, chosen_sinks)
    try:
        # One step: no other process can create the file in between, or read it with another mode.
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise ConfigError(f"{path}: exists already; not overwritten") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(file, "w", encoding="utf-8") as stream:
            stream.write(content)
    except OSError as error:
        path.unlink()
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
    typer.echo(f"Wrote {path}. Fill in what is empty, then run: auditrelay -c {path} check")
