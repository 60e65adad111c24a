"""
Runs commands, and kills each at a chosen write of the store.

Every line on stdin is an order in JSON. A child is forked for it (which saves the second that the
imports take), and its exit status is printed. The product has no code for this: the store's writer
thread is replaced by one that counts the writes and kills the process.
"""

import importlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from auditrelay import sinks, sources
from auditrelay.cli import main
from auditrelay.store.sqlite.writer import Writer

for _folder in (sinks, sources):
    for _name in _folder.available():
        importlib.import_module(f"{_folder.__name__}.{_name}")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_at(name: str, number: int, side: str, journal: str) -> None:
    """Die *side* ("before" or "after") the *number*-th write of the store's method *name*."""
    counts: Counter[str] = Counter()
    file = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    marked: set[int] = set()
    write, attempt = Writer.write, Writer._try

    async def counting_write(self: Writer, work: Callable[..., Any]) -> Any:
        method = sys._getframe(1).f_code.co_name
        counts[method] += 1
        if (method, counts[method]) == (name, number):
            marked.add(id(work))
        os.write(file, f"{method}\n".encode())
        return await write(self, work)

    def killing_attempt(self: Writer, group: list[Any]) -> Any:
        hit = any(id(work) in marked for work, _ in group)
        if hit and side == "before":
            _die()
        results = attempt(self, group)
        if hit:
            _die()
        return results

    Writer.write = counting_write  # type: ignore[method-assign]  # this is the fault
    Writer._try = killing_attempt  # type: ignore[method-assign]  # as above


def _child(order: dict[str, Any]) -> None:
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDWR)
    for source, target in ((nothing, 0), (nothing, 1), (log, 2)):
        os.dup2(source, target)
    _kill_at(order["name"], order["number"], order["side"], order["journal"])
    sys.argv = ["auditrelay", "-c", order["config"], *order["arguments"]]
    try:
        main()
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)
    os._exit(0)


def _serve() -> None:
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _child(json.loads(line))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
