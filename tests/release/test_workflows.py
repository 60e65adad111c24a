"""The workflows as actionlint reads them, which is built by Go, where that is."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from release import ROOT

ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"


@pytest.fixture(scope="module")
def actionlint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """actionlint's program: the one in PATH, or one that is built."""
    if found := shutil.which("actionlint"):
        return found
    if (go := shutil.which("go")) is None:
        pytest.skip("actionlint is not installed, and there is no Go to build it")
    folder = tmp_path_factory.mktemp("go")
    try:
        subprocess.run(
            [go, "install", ACTIONLINT],
            env={**os.environ, "GOBIN": str(folder)},
            capture_output=True,
            check=True,
            timeout=120,
        )
    except subprocess.SubprocessError as error:
        pytest.skip(f"actionlint cannot be built here: {error}")
    return str(folder / "actionlint")


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.name
)
def test_actionlint_finds_nothing_in_a_workflow(actionlint: str, path: Path) -> None:
    ended = subprocess.run(
        [actionlint, "-no-color", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")
