"""The systemd units: what systemd-analyze finds, and the commands that they run."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNITS = {
    "auditrelay.service": "auditrelay.service",
    "auditrelay-backfill@.service": "auditrelay-backfill@acme-voice.service",
}
"""The unit files, and the name that each is started by."""

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd is not installed"
)


def text(unit: str) -> str:
    return (ROOT / "systemd" / unit).read_text("utf-8")


def settings(unit: str) -> list[str]:
    """Return the settings of a unit, continued lines joined."""
    joined = text(unit).replace("\\\n", "")
    return [line for line in joined.splitlines() if line and not line.startswith(("#", "["))]


@pytest.fixture(params=UNITS)
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A unit as it would be installed, with a program that exists."""
    path = tmp_path / UNITS[request.param]
    unit = text(request.param).replace("/opt/auditrelay/bin/auditrelay", sys.executable)
    assert sys.executable in unit
    path.write_text(unit)
    return path


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.process
@needs_systemd
def test_systemd_finds_nothing_in_a_unit(installed: Path) -> None:
    ended = analyze("verify", "--man=no", str(installed))
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")


@pytest.mark.process
@needs_systemd
def test_systemd_rates_the_exposure_of_a_unit_at_most_at_1_5(installed: Path) -> None:
    ended = analyze("security", "--offline=true", "--threshold=15", str(installed))
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", ended.stdout)
    assert found, ended.stderr
    assert float(found[1]) <= 1.5
    assert ended.returncode == 0


def test_the_backfill_has_the_rights_of_the_service_and_no_others() -> None:
    service, backfill = (settings(unit) for unit in UNITS)
    own = ("Description", "Wants", "After", "Type", "Exec", "Restart", "Watchdog", "WantedBy")
    shared = [line for line in service if not line.startswith((*own, "TimeoutStart"))]
    assert len(shared) > 35
    assert [line for line in shared if line not in backfill] == []
    added = [line for line in backfill if line not in shared and not line.startswith(own)]
    assert added == ["EnvironmentFile=/etc/auditrelay/backfill/%i.env", "Nice=10"]


@pytest.mark.process
@pytest.mark.parametrize(
    ("variables", "arguments"),
    [
        ({"FROM": "7d"}, ["--from", "7d"]),
        (
            {"FROM": "2026-01-01", "TO": "2026-02-01"},
            ["--from", "2026-01-01", "--to", "2026-02-01"],
        ),
        (
            {"FROM": "$(touch harm)", "TO": "7d; touch harm"},
            ["--from", "$(touch harm)", "--to", "7d; touch harm"],
        ),
    ],
)
def test_the_backfill_takes_its_options_from_its_file(
    tmp_path: Path, variables: dict[str, str], arguments: list[str]
) -> None:
    ended = backfill(tmp_path, variables)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["backfill", "acme-voice", *arguments]
    assert not (tmp_path / "harm").exists()


@pytest.mark.process
def test_the_backfill_without_from_ends_with_2_and_names_the_file(tmp_path: Path) -> None:
    ended = backfill(tmp_path, {"TO": "7d"})
    assert ended.returncode == 2
    assert "FROM" in ended.stderr
    assert "/etc/auditrelay/backfill/acme-voice.env" in ended.stderr


def backfill(folder: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the unit's command with a program that prints its arguments, one a line."""
    (line,) = [each for each in settings("auditrelay-backfill@.service") if "ExecStart=" in each]
    found = re.fullmatch(r"ExecStart=/bin/sh -c '([^']*)' sh %i", line)
    assert found, line
    program = folder / "auditrelay"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    script = found[1].replace("$$", "$").replace("/opt/auditrelay/bin/auditrelay", str(program))
    return subprocess.run(
        ["/bin/sh", "-c", script, "sh", "acme-voice"],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
