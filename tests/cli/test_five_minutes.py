"""The commands of docs/five-minutes.md that need no credentials, as they stand there."""

import asyncio
import contextlib
import json
import os
import re
import socket
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "five-minutes.md"
PORTS = 8
"""Of the doubles: three intakes, and the five vendors that have a module."""


def consecutive_ports() -> int:
    """Return the first of as many consecutive ports as the doubles take, free just now."""
    for first in range(20_000, 30_000, PORTS):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in range(first, first + PORTS):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise AssertionError("no ports are free")


@pytest.mark.process
async def test_without_credentials_every_event_is_in_the_file_and_in_the_siem(
    tmp_path: Path,
) -> None:
    section = PAGE.read_text("utf-8").partition("\n## Without credentials first\n")[2]
    found = re.search(r"^```sh\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert found is not None
    first = consecutive_ports()
    script = re.sub(r"\b88(\d\d)\b", lambda port: str(first + int(port[1]) - 1), found[1])
    assert script != found[1]
    environ = {name: value for name, value in os.environ.items() if "AUDITRELAY" not in name}
    process = await asyncio.create_subprocess_exec(
        *("bash", "-e", "-c", f"{script}wait\n"),
        cwd=tmp_path,
        env={
            **environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "AUDITRELAY_STATUS__LISTEN": "127.0.0.1:0",
        },
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(120):
        printed = (await process.communicate())[0].decode()
    assert process.returncode == 0, printed
    folder = tmp_path / "try-auditrelay"
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    of_vendor = [event for event in events if event["event"]["module"] == "cekura"]
    assert len(of_vendor) == 20
    assert "warning: " not in printed
    assert (folder / "auditrelay.toml").stat().st_mode & 0o077 == 0
    started, ended = map(json.loads, (folder / "sandbox.jsonl").read_text().splitlines())
    assert started["splunk"]["token"] in (folder / "auditrelay.toml").read_text()
    assert ended["stored"]["splunk"]["events"] == 20
