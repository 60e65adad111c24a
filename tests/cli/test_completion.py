"""A shell that asks is offered the names of vendors, sources and sinks."""

import subprocess
import sys
from pathlib import Path

import pytest

from auditrelay.cli import cli, completion


def offered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str
) -> list[str]:
    """Return what bash gets for the last word of *line*."""
    monkeypatch.setenv(completion.VARIABLE, "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    completion.begin()
    with pytest.raises(SystemExit) as ended:
        cli(prog_name="auditrelay")
    assert ended.value.code == 0
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("auditrelay init --source ok", ["okta"]),
        ("auditrelay init --source ce", ["cekura", "cencori"]),
        ("auditrelay init --source re", ["rest"]),
        ("auditrelay init --sink sp", ["splunk_hec"]),
        ("auditrelay demo --vendor goo", ["google_workspace"]),
        ("auditrelay demo --vendor bl", ["bland"]),
        ("auditrelay description show one", ["onelogin", "onepassword"]),
        ("auditrelay description test ent", ["entra"]),
        ("auditrelay desc", ["description"]),
        ("auditrelay description show ./crm", []),  # then bash offers files
    ],
)
def test_names_that_begin_so_are_offered(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str,
    names: list[str],
) -> None:
    assert offered(monkeypatch, capsys, line) == names


@pytest.mark.process
def test_bash_asks_as_the_readme_says(tmp_path: Path) -> None:
    (tmp_path / "auditrelay").write_text(f'#!/bin/sh\nexec {sys.executable} -c "{PROGRAM}"\n')
    (tmp_path / "auditrelay").chmod(0o700)
    ended = subprocess.run(
        ["bash", "--norc", "-c", BASH],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ended.stdout.split() == ["okta"]


PROGRAM = "import sys; sys.argv[0] = 'auditrelay'; from auditrelay.cli import main; main()"

BASH = """
eval "$(_AUDITRELAY_COMPLETE=source_bash auditrelay)"
COMP_WORDS=(auditrelay init --source ok) COMP_CWORD=3
_auditrelay_completion auditrelay ok --source
echo "${COMPREPLY[@]}"
"""
