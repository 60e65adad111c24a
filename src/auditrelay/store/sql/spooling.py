"""Write what changes the spool or its readers, and keep the hand-over as what is committed."""

from collections.abc import Callable
from typing import TypeVar

from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.engine import Work, Writer
from auditrelay.store.sql.handover import Appended, Handover
from auditrelay.store.sql.marks import Marks
from auditrelay.store.sql.readers import Reader, all_readers
from auditrelay.store.sql.recent import Recent
from auditrelay.store.sql.spool import Spool

T = TypeVar("T")


class Spooling:
    """Runs works with *writer*, and reports to *handover* each one that is committed."""

    def __init__(self, writer: Writer, spool: Spool, handover: Handover | Recent) -> None:
        self.writer = writer
        self._spool = spool
        self._handover = handover

    async def append(self, work: Work[T], committed: Callable[[], None] = lambda: None) -> T:
        """
        Run *work*, which appends pages, and hand these over once they are durable.

        *committed* is called on the writer thread once the work is.
        """

        def run(db: Connection) -> tuple[T, list[Appended]]:
            appended: list[Appended] = []
            self._spool.appended = appended
            return work(db), appended

        def then(done: tuple[T, list[Appended]]) -> None:
            committed()
            self._handover.append(done[1])

        result, _ = await self.writer.write(run, spools=True, then=then)
        self._spool.waiting.check()
        return result

    async def settle(
        self, sink: str, work: Work[tuple[Reader, T]], marks: Marks | None = None
    ) -> T:
        """
        Run *work*, which returns the new progress of *sink*, and may append pages.

        The *marks* of what is settled then are forgotten.
        """

        def run(db: Connection) -> tuple[Reader, T, list[Appended]]:
            appended: list[Appended] = []
            self._spool.appended = appended
            return *work(db), appended

        def then(done: tuple[Reader, T, list[Appended]]) -> None:
            self._handover.append(done[2])
            self._handover.advance(sink, done[0])
            if marks is not None:
                marks.settled(sink, done[0].progress.position)

        _, result, _ = await self.writer.write(run, then=then)
        return result

    async def rearrange(self, work: Work[T]) -> T:
        """Run *work*, which changes what the sinks are to read, or deletes pages."""
        result, _ = await self.writer.write(
            lambda db: (work(db), all_readers(db)),
            then=lambda done: self._handover.restart(done[1]),
        )
        return result
