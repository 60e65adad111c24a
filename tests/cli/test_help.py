"""The help of ``auditrelay`` and of each command."""

from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from auditrelay.cli import cli
from auditrelay.cli.lazy import COMMANDS, command


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_listed_with_the_first_line_of_its_own_help(name: str) -> None:
    assert COMMANDS[name] == command(name).help.splitlines()[0]


def below(found: Any, *words: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command that *found* is, or is a group of."""
    yield words
    for name, each in getattr(found, "commands", {}).items():
        yield from below(each, *words, name)


EVERY = [words for name in COMMANDS for words in below(command(name), name)]


@pytest.mark.parametrize("words", [(), *EVERY], ids=" ".join)
def test_no_help_shows_a_type_for_what_takes_no_value(words: tuple[str, ...]) -> None:
    ended = CliRunner().invoke(cli, [*words, "--help"])
    assert ended.exit_code == 0
    assert "--help" in ended.stdout
    assert "<bool>" not in ended.stdout


def test_every_command_is_listed_in_the_help() -> None:
    ended = CliRunner().invoke(cli, ["--help"])
    words = " ".join(ended.stdout.replace("│", " ").split())
    for name, line in COMMANDS.items():
        assert f" {name} {line} " in words
