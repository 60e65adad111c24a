"""
A new vendor is a source, a table of events and a double: no other file changes.

The folder ``acme`` next to this file contains the three modules of a vendor that does not exist.
Child processes add them to the real ones through their path alone.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

HERE = Path(__file__).parent


def with_acme(*words: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m words...`` with one vendor more."""
    return subprocess.run(
        [sys.executable, "-m", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=HERE.parents[2],
        env={**os.environ, "PYTHONPATH": str(HERE / "acme")},
    )


def test_the_daemon_reads_it_and_the_demo_shows_it() -> None:
    ended = with_acme("auditrelay", "demo", "--duration", "2s")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Nothing is lost." in ended.stdout
    (row,) = re.findall(r"^│ acme .*$", ended.stdout, re.MULTILINE)
    made, requests, _, *stored = (int(cell.replace(",", "")) for cell in row.split("│")[2:-1])
    assert made > 100
    assert requests > 1
    assert sum(stored) >= 3 * made - 1, "at most one is a dead letter"


def test_the_contract_is_tested_against_it() -> None:
    """Every test of this folder includes it automatically; only a few do not apply to it."""
    folder = str(HERE.relative_to(HERE.parents[2]))
    ended = with_acme("pytest", folder, "-q", "-k", "acme", "-p", "no:cacheprovider", "-n", "0")
    assert ended.returncode == 0, ended.stdout[-3000:]
    (passed,) = re.findall(r"(\d+) passed", ended.stdout)
    assert int(passed) > 200


def test_there_is_no_such_vendor_otherwise() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "from auditrelay.sources import available; print(available())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "acme" not in ended.stdout
