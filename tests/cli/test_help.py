"""What ``auditrelay --help`` says, and what each command says of itself."""

import subprocess
import sys

import pytest

from auditrelay.cli.lazy import COMMANDS, command


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_listed_with_the_first_line_of_its_own_help(name: str) -> None:
    assert COMMANDS[name] == command(name).help.splitlines()[0]


def test_every_command_is_listed_in_the_help() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "auditrelay", "--help"], capture_output=True, text=True, check=True
    )
    words = " ".join(ended.stdout.replace("│", " ").split())
    for name, line in COMMANDS.items():
        assert f" {name} {line} " in words
