"""
How a replica of these tests is started: under its name, with a shorter life, and with a fault.

The product has no code for any of this. It is done in the process that was forked, before ``main``.
It imports nothing of the tests, as that process would have to import it, too.
"""

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from auditrelay.http import peer
from auditrelay.service import member, membership
from auditrelay.store import replicas
from auditrelay.store.postgres import leases, writer
from auditrelay.store.postgres.connection import Connection
from auditrelay.store.postgres.writer import Writer
from auditrelay.store.sql.evidence_log import EvidenceLog
from auditrelay.store.sql.known_contents import KnownContents
from auditrelay.store.sql.store import SqlStore

SHORT = 2.0
"""
The seconds of a life in most tests; everything that is measured by it is shorter as well.

How often a replica pulses is a wait on the clock of the process, which is faster in a test anyway.
"""

Fault = Callable[[], None]

_FOLDERS = ("auditrelay.service.", "auditrelay.store.")
_SECONDS = {"LIFE", "SELF", "FREE", "SETTLED", "MOVE_EVERY", "SLOW", "_SLOW", "_PATIENCE"}
"""The constants of time that must fit the life of a replica, in each module that has them."""

_SQL = ("_EXPIRES", "_JOIN", "_BEAT")
_LIVES = "interval '{} seconds'"


@dataclass(frozen=True)
class Launch:
    """
    Every request of this process bears *name*, by which the doubles tell replicas apart.

    A replica lives for *life* seconds after a beat. Then the *fault* is put in place.
    """

    name: str
    life: float = replicas.LIFE
    fault: Fault | None = None

    def __call__(self) -> None:
        """Change this process."""
        peer._DEFAULT_HEADERS["user-agent"] += f" {self.name}"
        _shorten(self.life)
        if self.fault is not None:
            self.fault()


def _shorten(life: float) -> None:
    factor = life / replicas.LIFE
    old, new = _LIVES.format(replicas.LIFE), _LIVES.format(life)
    for module in [each for name, each in sys.modules.items() if name.startswith(_FOLDERS)]:
        for name in _SECONDS & vars(module).keys():
            setattr(module, name, getattr(module, name) * factor)
        if factor < 1 and hasattr(module, "BEAT"):
            # A pulse is every fifth of a second, as the clock is faster; a beat every second one.
            setattr(module, "BEAT", membership.PULSE * 0.9)  # noqa: B010  # it is Final
    assert getattr(membership, "LIFE") == life  # noqa: B009  # it is imported there
    for name in _SQL:
        sql = getattr(leases, name)
        assert old in sql, f"{name} of leases says no more how long a beat lasts"
        setattr(leases, name, sql.replace(old, new))


def blind() -> None:
    """A fault: no pulse sees that the database has lost writes. What is written next has to."""
    member.rolled_back = lambda *_: False  # type: ignore[attr-defined]  # the fault


Place = Literal["before", "within", "after"]


@dataclass(frozen=True)
class AtWrite:
    """
    A fault: a signal to itself at the *number*-th write of the store's *method*.

    ``before`` it has sent anything; ``within``: the server has all but the end, and the locks;
    ``after`` it was committed, which nothing has noticed yet. It counts once *journal* is there, a
    file that gets a line with the method of each write.
    """

    journal: Path
    method: str
    number: int
    place: Place
    signal: int = signal.SIGKILL

    def __call__(self) -> None:
        """Replace the writer of this process."""
        counts: Counter[str] = Counter()
        marked: set[int] = set()
        write, run, fence = Writer.write, Writer._run, writer._fence
        within = [False]

        async def counting_write(writer: Writer, work: Callable[..., Any], **named: Any) -> Any:
            if not self.journal.exists():
                return await write(writer, work, **named)
            frame = sys._getframe(1)
            while frame.f_back is not None and not _is_method(frame.f_code.co_name):
                frame = frame.f_back
            method = frame.f_code.co_name
            counts[method] += 1
            if (method, counts[method]) == (self.method, self.number):
                marked.add(id(work))
            with self.journal.open("a") as file:
                file.write(f"{method}\n")
            return await write(writer, work, **named)

        def hit_run(writer: Writer, group: list[Any], count: Any) -> Any:
            ids = {id(entry.work) for entry in group}
            hit = not marked.isdisjoint(ids)
            marked.difference_update(ids)  # once, also if it is written again
            if hit and self.place == "before":
                self._hit()
            within[0] = hit and self.place == "within"
            results = run(writer, group, count)
            if hit and self.place == "after":
                self._hit()
            return results

        def hit_fence(db: Connection, count: Any, held: Sequence[Any]) -> None:
            if within[0]:
                within[0] = False
                db.execute("select 1").fetchone()  # the server has done what comes before
                self._hit()
            fence(db, count, held)

        Writer.write = counting_write  # type: ignore[assignment, method-assign]  # the fault
        Writer._run = hit_run  # type: ignore[assignment, method-assign]  # as above
        writer._fence = hit_fence  # type: ignore[assignment]  # as above

    def _hit(self) -> None:
        os.write(2, b'{"event": "hit"}\n')  # in the log, where a test sees it
        os.kill(os.getpid(), self.signal)


def _is_method(name: str) -> bool:
    return any(name in vars(part) for part in (SqlStore, KnownContents, EvidenceLog))


@dataclass(frozen=True)
class AfterTake:
    """A fault: a signal to itself between the first taking of *unit* and what runs under it."""

    unit: str
    signal: int = signal.SIGKILL

    def __call__(self) -> None:
        """Replace the taking."""
        take = leases.take

        def taken(db: Connection, me: UUID, *wanted: Any) -> Any:
            got = take(db, me, *wanted)
            if any(lease.unit == self.unit for lease in got):
                db.commit()
                os.kill(os.getpid(), self.signal)
            return got

        leases.take = taken  # type: ignore[assignment]  # the fault
