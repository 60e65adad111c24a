"""Programs in Go, built by Go's own tools, and run as child processes."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interop.receiver import HERE, Missing

_READY_TIMEOUT = 60.0


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


@contextmanager
def serving(program: Path, address: str, *words: str) -> Iterator[str]:
    """Run *program*, which listens at *address*, for the length of a ``with`` block."""
    host, _, port = address.rpartition(":")
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([str(program), *words], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + _READY_TIMEOUT
            while not _listens(host, int(port)):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    said = log.read().decode(errors="replace")[-2000:]
                    raise Missing(f"{program.name} did not start:\n{said}")
                time.sleep(0.1)
            yield f"http://{address}"
        finally:
            process.terminate()
            process.wait()


def _listens(host: str, port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex((host, port)) == 0


def free_address() -> str:
    """Return an address on loopback at which nothing listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


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
