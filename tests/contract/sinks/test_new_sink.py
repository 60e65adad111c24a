"""
A new sink is its module and its double: no other file changes.

The folder ``acme`` next to this file contains the two modules of a SIEM that does not exist. Child
processes add them to the real ones through their path alone.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def with_acme(*words: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m words...`` with one sink more."""
    return subprocess.run(
        [sys.executable, "-m", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(HERE / "acme")},
    )


def cells(output: str, pattern: str) -> list[str]:
    (row,) = re.findall(pattern, output, re.MULTILINE)
    return [cell.strip() for cell in re.split("[│┃]", row)[1:-1]]


def test_the_daemon_sends_to_it_and_the_demo_shows_it() -> None:
    ended = with_acme("auditrelay", "demo", "--duration", "2s")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Nothing is lost." in ended.stdout
    assert cells(ended.stdout, "^┃ vendor .*$")[-4:] == ["splunk", "datadog", "elastic", "acme"]
    _, *counts = cells(ended.stdout, "^│ acme .*$")
    made, stored, dead, lost, repeated = (int(count.replace(",", "")) for count in counts)
    assert made > 1000
    assert stored >= made
    assert (dead, lost, repeated) == (0, 0, 0)


def test_the_sandbox_serves_it() -> None:
    ended = with_acme("auditrelay.sandbox", "--help")
    assert "splunk, datadog, elastic, acme, then the vendors" in " ".join(ended.stdout.split())


def test_the_contract_is_tested_against_it() -> None:
    """Every test of a sink over HTTP includes it automatically."""
    ended = with_acme(
        *("pytest", str(HERE.relative_to(ROOT)), "tests/simulation/test_machine.py", "-q"),
        *("-k", "(acme or over_http) and not test_new", "-p", "no:cacheprovider", "-n", "0"),
    )
    assert ended.returncode == 0, ended.stdout[-3000:]
    (passed,) = re.findall(r"(\d+) passed", ended.stdout)
    assert int(passed) > 50


def test_a_sink_over_http_without_a_double_fails_the_contract(tmp_path: Path) -> None:
    """With the folder of the sink on the path, and not that of the double."""
    (tmp_path / "sitecustomize.py").write_text(
        f"import auditrelay.sinks\nauditrelay.sinks.__path__.append({str(HERE / 'acme/sinks')!r})\n"
    )
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", str(HERE / "test_contract.py"), "-q", "-n", "0"),
            *("-k", "every_sink_over_http", "-p", "no:cacheprovider"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert ended.returncode == 1
    assert "'acme'" in ended.stdout


def test_there_is_no_such_sink_otherwise() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "from auditrelay.sinks import available; print(available())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "acme" not in ended.stdout


def test_it_takes_at_most_four_files() -> None:
    assert len([*(HERE / "acme").rglob("*.py")]) <= 4
