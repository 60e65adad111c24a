"""
A process that is killed at a chosen write of its store.

The product has no code for this: the store's writer thread is replaced by one that counts the
writes and kills the process.
"""

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auditrelay.store.sql.evidence_log import EvidenceLog
from auditrelay.store.sql.known_contents import KnownContents
from auditrelay.store.sql.store import SqlStore
from auditrelay.store.sqlite.writer import Writer


def is_method(name: str) -> bool:
    """Return whether *name* is that of a method of the store."""
    return any(name in vars(part) for part in (SqlStore, KnownContents, EvidenceLog))


@dataclass(frozen=True)
class KillAtWrite:
    """
    A fault: SIGKILL on one *side* of the *number*-th write of the store's *method*, or never.

    *journal* is a file that gets a line with the method of each write.
    """

    journal: Path
    method: str = ""
    number: int = 0
    side: str = ""
    """``before`` or ``after``."""

    def __call__(self) -> None:
        """Replace the writer of this process."""
        counts: Counter[str] = Counter()
        file = os.open(self.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        marked: set[int] = set()
        write, attempt = Writer.write, Writer._try

        async def counting_write(writer: Writer, work: Callable[..., Any], **named: Any) -> Any:
            frame = sys._getframe(1)
            while frame.f_back is not None and not is_method(frame.f_code.co_name):
                frame = frame.f_back
            method = frame.f_code.co_name
            counts[method] += 1
            if (method, counts[method]) == (self.method, self.number):
                marked.add(id(work))
            os.write(file, f"{method}\n".encode())
            return await write(writer, work, **named)

        def killing_attempt(writer: Writer, group: list[Any]) -> Any:
            hit = any(id(entry.work) in marked for entry in group)
            if hit and self.side == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            results = attempt(writer, group)
            if hit:
                os.kill(os.getpid(), signal.SIGKILL)
            return results

        Writer.write = counting_write  # type: ignore[assignment, method-assign]  # the fault
        Writer._try = killing_attempt  # type: ignore[assignment, method-assign]  # as above
