"""
A server's program in a temporary folder, both of which end with the tests, however they end.

PostgreSQL and pgbouncer refuse root: where the tests run as root they run as ``postgres``.
"""

import contextlib
import os
import pwd
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

HOST, OWNER = "127.0.0.1", "postgres"

PATIENCE = 60.0  # seconds; a start takes 0.1 and an initdb 1, on a machine with nothing else to do
_PAUSE = 0.01
_PORTS = range(20_000, 32_000)  # below those of outgoing connections, which could take it meanwhile

_GUARD = """
cat >/dev/null
if pid=$(head -n 1 "$1/$2" 2>/dev/null) && [ -n "$pid" ]; then
  kill -"$3" "$pid"
  left=100
  while kill -0 "$pid" && [ $left -gt 0 ]; do sleep 0.05; left=$((left - 1)); done
  kill -KILL "$pid"
fi 2>/dev/null
rm -rf "$1"
"""
"""It waits for the end of its input: the tests have closed it, or ended, be it by kill -9."""


def living(pids: Sequence[int]) -> list[int]:
    """Return those of *pids* that have not ended; one that is defunct has."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,stat=", "-p", ",".join(map(str, pids))],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.split() for line in listed.stdout.splitlines()]
    return [int(pid) for pid, state in lines if not state.startswith("Z")]


def free_ports() -> Iterator[int]:
    """Yield ports at random: a server that finds one taken goes on with the next."""
    while True:
        yield random.choice(_PORTS)


class Guarded:
    """
    A folder, and the program that runs in it.

    The program writes its process id into the file *lock* of the folder, and *end* is the signal
    that ends it at once.
    """

    def __init__(self, name: str, *, lock: str, end: signal.Signals) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        self.port = 0
        """Where it serves; it stays the same from the first start on."""
        self.process: subprocess.Popen[bytes] | None = None
        """The program, if it runs."""
        self.guard = subprocess.Popen(
            [
                "/bin/sh",
                "-c",
                _GUARD,
                "guard",
                str(self.folder),
                lock,
                end.name.removeprefix("SIG"),
            ],
            stdin=subprocess.PIPE,
            cwd="/",
            start_new_session=True,  # Control-C is for the tests
        )
        self._end = end
        self.own(self.folder)

    def own(self, path: Path) -> None:
        """Give *path* to the user that the program runs as."""
        if os.geteuid() == 0:
            shutil.chown(path, OWNER)

    def run(self, command: Sequence[str]) -> None:
        """Run *command* in the folder; it must succeed."""
        ran = subprocess.run(
            command, capture_output=True, text=True, check=False, **self._surroundings()
        )
        assert ran.returncode == 0, ran.stderr

    def start(self, command: Callable[[int], Sequence[str]], serves: Callable[[int], bool]) -> None:
        """
        Start the *command* for a port, and wait until the process id *serves*.

        At the first start the port is any that is free.
        """
        deadline = time.monotonic() + PATIENCE
        for port in [self.port] * 50 if self.port else free_ports():
            if self._started(command(port), serves, deadline):
                self.port = port
                return
            if self.port:
                time.sleep(0.1)  # another process may give it back
        raise AssertionError(f"port {self.port} is taken: {self.log()}")

    def _started(
        self, command: Sequence[str], serves: Callable[[int], bool], deadline: float
    ) -> bool:
        """Start *command*, and return False if its port is taken."""
        end = len(self.log())
        with (self.folder / "log").open("ab") as log:
            self.process = process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._surroundings(),
            )
        while not serves(process.pid):
            if process.poll() is not None:
                self.process = None
                said = self.log()[end:]
                assert "Address already in use" in said, said
                return False
            assert time.monotonic() < deadline, f"it does not serve: {self.log()[end:]}"
            time.sleep(_PAUSE)
        return True

    def _surroundings(self) -> dict[str, Any]:
        environ = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        owner: dict[str, Any] = {}
        if os.geteuid() == 0:
            group = pwd.getpwnam(OWNER).pw_gid
            owner = {"user": OWNER, "group": group, "extra_groups": []}
        return {"cwd": self.folder, "env": environ, **owner}

    def stop(self, number: signal.Signals) -> None:
        """Stop the program, if it runs, with the signal *number*, and wait for its end."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(PATIENCE)
            self.process = None

    def log(self) -> str:
        """Return what the program has written."""
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "log").read_text("utf-8", "replace")
        return ""

    def close(self) -> None:
        """End the program at once and remove the folder."""
        self.stop(self._end)
        assert self.guard.stdin is not None
        self.guard.stdin.close()
        self.guard.wait(PATIENCE)
