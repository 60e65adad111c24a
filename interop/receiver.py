"""
A third-party server, built with Maven from the folder of its name and run as a child process.

The build puts classes and libraries into the folder's ``target``, so the second run starts at once.
A server prints its address when it is ready, and exits when its standard input closes.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Self

HERE = Path(__file__).parent
_READY_TIMEOUT = 180.0
"""Timeout in seconds until a server is ready; a busy machine starts Java slowly."""


class Missing(Exception):
    """A prerequisite of a receiver is missing on this machine; the text says what to install."""


def build(name: str) -> Path:
    """
    Build the receiver *name* and return where its ``target`` folder is.

    Raises Missing if there is no Java or Maven, or if the build fails.
    """
    for program, package in (("java", "a JDK, 17 or newer"), ("mvn", "Maven, 3.8 or newer")):
        if shutil.which(program) is None:
            raise Missing(f"there is no {program} on the PATH: install {package}")
    words = ["mvn", "--quiet", "--batch-mode", "package"]
    done = subprocess.run(
        words, cwd=HERE / name, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        said = done.stdout.decode(errors="replace")[-2000:]
        raise Missing(f"{' '.join(words)} in interop/{name} failed:\n{said}")
    return HERE / name / "target"


class Receiver:
    """
    The server *name* for the length of a ``with`` block.

    :attr:`url` is its address, :attr:`identity` its superuser, if it has users.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._folder = tempfile.TemporaryDirectory(prefix=f"interop-{name}-")
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.identity: dict[str, str] = {}

    def __enter__(self) -> Self:
        target = build(self._name)
        folder = Path(self._folder.name)
        log = folder / "log"
        home = folder / "home"
        home.mkdir()
        classes = os.pathsep.join([str(target / "classes"), str(target / "lib" / "*")])
        words = ["java", "-Xmx768m", "-cp", classes, "Receiver", str(home), str(target / "plugins")]
        with log.open("wb") as errors:
            process = self._process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        assert process.stdout is not None
        said = _first_line(process.stdout)
        if said:
            self.identity = json.loads(said)
            self.url = self.identity.pop("url")
        else:
            errors_said = log.read_text("utf-8", errors="replace")[-3000:]
            self.__exit__(None, None, None)
            raise Missing(f"{self._name} did not start:\n{errors_said}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
        self._folder.cleanup()


def _first_line(stream: IO[bytes]) -> str:
    """Return the first line, or an empty text if the server exits or times out."""
    found: list[str] = []
    reading = threading.Thread(
        target=lambda: found.append(stream.readline().decode().strip()), daemon=True
    )
    reading.start()
    reading.join(_READY_TIMEOUT)
    if not found:
        print(f"no address within {_READY_TIMEOUT:.0f} s", file=sys.stderr)
    return found[0] if found else ""
