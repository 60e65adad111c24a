"""``auditrelay init``: a configuration to start from."""

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from auditrelay import sinks, sources
from auditrelay.config.example import tables
from auditrelay.errors import ConfigError

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
_SOURCES = """
# A source is an audit log that is polled. Its name is yours; it is in metrics, logs and events.
"""
_SINKS = """
# A sink is a destination of events. It receives every source, unless `sources` selects some.
"""
_FIRST = ("cekura", "splunk_hec")
"""The source and the sink to start with; the others are commented out."""


def starter() -> str:
    """Return a configuration with a table for each type of source and sink, made of its example."""
    parts = [_HEAD]
    for title, package in ((_SOURCES, sources), (_SINKS, sinks)):
        examples = tables(package)
        first = next(name for name in _FIRST if name in examples)
        parts += [title, _to_fill_in(examples.pop(first))]
        parts += [_commented_out(example) for example in examples.values()]
    return "".join(parts)


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
_VALUE = re.compile(r'(?<!^type )= "[^$"]*"$')
"""A value of the example's own, and no reference to a secret."""


def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("auditrelay.toml"),
) -> None:
    """Write a commented configuration to start from. Never overwrites a file."""
    try:
        # One step: no other process can create the file in between, or read it with another mode.
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise ConfigError(f"{path}: exists already; not overwritten") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(file, "w", encoding="utf-8") as stream:
            stream.write(starter())
    except OSError as error:
        path.unlink()
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
    typer.echo(f"Wrote {path}. Fill in what is empty, then run: auditrelay -c {path} check")
