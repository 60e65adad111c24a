"""What tables on stdout look like: on a narrow terminal and in a pipe."""

import sys

import pytest

from auditrelay.cli.tables import console, table

NAME = "acme-voice-of-the-customer"
MESSAGE = "the address answers, but is not what it should be, " * 4


def shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    found = table("sink", "source", others=("state", "message"))
    found.add_row(NAME, NAME, "up", MESSAGE)
    console().print(found)
    return capsys.readouterr().out.splitlines()


def test_a_narrow_terminal_wraps_texts_but_no_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")  # no codes of colours; 80 columns
    lines = shown(capsys)
    assert max(map(len, lines)) <= 80
    assert any(line.count(NAME) == 2 for line in lines)
    assert len(lines) > 5, "the message is wrapped"


def test_in_a_pipe_a_row_is_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    (row,) = [line for line in shown(capsys) if NAME in line]
    assert MESSAGE.strip() in row
