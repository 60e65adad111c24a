"""
Follow a page of ``docs`` as a reader would: its blocks of commands, one by one, in one shell.

Nothing of a command is changed. That its products are the sandbox's doubles is in the environment,
which overrides the configuration (AUDITRELAY_...), and in the reader's ``.curlrc``. What the page
asks for with ``read`` is typed in. A block under the comment ``in a terminal of its own`` runs
beside the others; when it has done what the test waits for, they go on, and it gets Ctrl-C at the
end.
"""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.daemon import eventually

ROOT: Final = Path(__file__).parents[2]
_BLOCK: Final = re.compile(
    r"^(<!-- in a terminal of its own -->\n)?```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
_ASKED: Final = re.compile(r'^read -rsp "[^"]+" (\w+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Followed:
    """The exit status of a tutorial's shell, and all that was printed."""

    status: int
    printed: str


def blocks(page: Path) -> list[tuple[bool, str]]:
    """Return the commands of *page*, and of each block whether it has a terminal of its own."""
    return [(bool(own), text) for own, text in _BLOCK.findall(page.read_text("utf-8"))]


def script(page: Path) -> str:
    """Return the shell script of all blocks of *page*."""
    parts = ["set -eu -o pipefail"]
    for own, text in blocks(page):
        if own:
            parts += [f"{{ exec {text.strip()}; }} &", "beside=$!", "touch started"]
            parts.append("until [ -e go ]; do kill -0 $beside; sleep 0.1; done")
        else:
            parts.append(text)
    return "\n".join([*parts, "kill -INT $beside", "wait $beside", ""])


async def follow(
    page: Path,
    home: Path,
    *,
    environ: Mapping[str, str],
    typed: Mapping[str, str],
    beside: Callable[[], Awaitable[None]],
) -> Followed:
    """Run all commands of *page* in the checkout, with *home* as the reader's own folder."""
    text = script(page)
    path = home / "tutorial.sh"
    path.write_text(text, "utf-8")
    answers = "".join(f"{typed[name]}\n" for name in _ASKED.findall(text))
    output = home / "output"
    with output.open("wb") as printed:
        shell = await asyncio.create_subprocess_exec(
            "bash",
            str(path),
            cwd=ROOT,
            env={
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "HOME": str(home),
                "LANG": "C.UTF-8",
                "COLUMNS": "200",
                **environ,
            },
            stdin=asyncio.subprocess.PIPE,
            stdout=printed,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    assert shell.stdin is not None
    shell.stdin.write(answers.encode())
    shell.stdin.close()
    ended = asyncio.create_task(shell.wait())
    try:
        async with asyncio.timeout(300):
            started = home / "auditrelay" / "started"
            await eventually(lambda: started.exists() or ended.done(), within=250)
            if not ended.done():
                await beside()
                (started.parent / "go").touch()
            status = await ended
    finally:
        if not ended.done():
            os.killpg(shell.pid, signal.SIGKILL)
    return Followed(status, output.read_text("utf-8"))
