"""axe-core, which finds what keeps people from reading a page; it is not part of the project."""

import fcntl
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
from tests.support.browser import Tab

PACKAGE: Final = "axe-core@4.14.1"
FOLDER: Final = Path(__file__).parents[2] / "build" / "axe"
LONGEST: Final = 300.0
"""Most seconds for one page: it takes two or three, on a machine that has nothing else to do."""

STANDARD: Final = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa")


def script() -> str:
    """Return the script of axe-core, from npm if it is not there; skips the test without it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:  # of the workers of a run only one gets it
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _script()


def _script() -> str:
    folder = FOLDER / "node_modules" / "axe-core"
    package = folder / "package.json"
    there = package.exists() and json.loads(package.read_text("utf-8"))["version"]
    if there != PACKAGE.partition("@")[2]:
        if shutil.which("npm") is None:
            pytest.skip("there is no npm here to get axe-core with")
        options = ("--no-save", "--ignore-scripts", "--no-audit", "--no-fund")
        got = subprocess.run(
            ["npm", "install", "--prefix", str(FOLDER), *options, PACKAGE],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if got.returncode:
            pytest.skip(f"axe-core cannot be had here: {got.stderr.strip().splitlines()[-1:]}")
    return (folder / "axe.min.js").read_text("utf-8")


async def violations(tab: Tab, axe: str) -> list[Any]:
    """Return what the script *axe* finds on the page in *tab*: each rule with its elements."""
    await tab.ask(axe)
    run = f"axe.run({{runOnly: {json.dumps(STANDARD)}, resultTypes: ['violations']}})"
    found: list[Any] = await tab.ask(
        f"{run}.then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html)]))",
        within=LONGEST,
    )
    return found
