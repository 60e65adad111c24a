"""Programs in Go, built by Go's own tools from the versions that are named here."""

import os
import shutil
import subprocess
from pathlib import Path

from interop.receiver import HERE, Missing


def build(name: str, package: str, *then: str) -> Path:
    """
    Install *package* into ``interop/NAME/target``, and return the path of the program there.

    With *then* that program is only a tool: it is run with these arguments in ``interop/NAME``, and
    the program is the one called *name* that it makes. Raises Missing if there is no Go, or if a
    step fails.
    """
    target = HERE / name / "target"
    tool = target / package.partition("@")[0].rpartition("/")[2]
    program = target / name if then else tool
    if program.exists():
        return program
    if shutil.which("go") is None:
        raise Missing("there is no go on the PATH: install Go, 1.24 or newer")
    target.mkdir(parents=True, exist_ok=True)
    _run(name, "go", "install", package)
    if then:
        _run(name, str(tool), *then)
    return program


def _run(name: str, *words: str) -> None:
    folder = HERE / name
    done = subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, "GOBIN": str(folder / "target")},
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        said = done.stdout.decode(errors="replace")[-2000:]
        raise Missing(f"{' '.join(words)} in interop/{name} failed:\n{said}")
