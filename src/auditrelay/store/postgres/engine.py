"""PostgreSQL as the engine of a store that several instances may share."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from uuid import UUID

from auditrelay.clock import Clock
from auditrelay.evidence.heads import Keys
from auditrelay.store.leases import Lease
from auditrelay.store.postgres.connection import Connection
from auditrelay.store.postgres.link import Link
from auditrelay.store.postgres.reader import ReaderThread
from auditrelay.store.postgres.tip import TipRow
from auditrelay.store.postgres.watch import Watch
from auditrelay.store.postgres.writer import Writer
from auditrelay.store.sql.engine import Work
from auditrelay.telemetry.metrics import Metrics

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")


class Room:
    """The room in the database: only its own refusals say that there is none."""

    def require(self) -> None:
        """Do nothing."""

    def require_for(self, db: object, size: int) -> None:
        """Do nothing."""

    def restore(self) -> bool:
        """Return False: nothing is reserved."""
        return False

    def give_back(self, db: object) -> None:
        """Do nothing: autovacuum does it."""


class PostgresEngine:
    """
    The state in *schema*, whose tables are there; *connect* makes a connection in autocommit.

    All that is written is written as *replica*. With a *patience* (seconds), what the database does
    not answer for so long fails; without, it waits. *metrics* are those of a shared store.
    """

    shared: Final = True

    def __init__(
        self,
        connect: "Callable[[], psycopg.Connection[Any]]",
        schema: str,
        *,
        replica: UUID,
        clock: Clock,
        keys: Keys | None = None,
        patience: float | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.keys = keys
        self.room = Room()

        def link() -> Link:
            return Link(connect, schema, clock=clock, keys=keys, patience=patience)

        def watch(what: str) -> Watch | None:
            return None if metrics is None else Watch(metrics, what, clock)

        writing = link()
        writing.watch = watch("write")
        self.writer = Writer(writing, replica)
        self.reader = ReaderThread(link, watch("read"))
        self.read = self.reader.read
        self.tip = TipRow(self.snapshot)
        self._lease: Lease | None = None

    @property
    def away_until(self) -> float:
        """See ``Link.away_until``."""
        return max(self.writer.away_until, self.reader.away_until)

    def snapshot(self) -> AbstractContextManager[Connection]:
        """See ``store.sql.engine.Engine``."""
        return self.reader.snapshot()

    async def write(
        self,
        work: Work[T],
        *,
        spools: bool = False,  # noqa: ARG002  # there is no room to leave
        then: Callable[[T], None] | None = None,
    ) -> T:
        """Run *work* as one transaction, under the lease of this engine, if it has one."""
        return await self.writer.write(work, then=then, lease=self._lease)

    def under(self, lease: Lease) -> Self:
        """Return this engine with every write fenced by *lease*."""
        fenced = object.__new__(type(self))
        fenced.__dict__.update(self.__dict__)
        fenced._lease = lease
        return fenced

    def close(self) -> None:
        """Finish the queued writes, unless the database is away, then close everything."""
        self.writer.close()
        self.reader.close()
