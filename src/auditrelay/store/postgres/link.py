"""The connection of one thread to the database: made when needed, and again when it is lost."""

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import psycopg
import structlog
from psycopg.errors import ReadOnlySqlTransaction

from auditrelay.clock import Clock
from auditrelay.errors import StateError
from auditrelay.evidence.heads import Keys
from auditrelay.store.postgres.connection import REQUEST, Connection
from auditrelay.store.postgres.errors import Kind, kind_of, translate

if TYPE_CHECKING:
    from auditrelay.store.postgres.watch import Watch

AT_ONCE: Final = 5
"""How often a transaction that others were in the way of is run again without a wait."""

LONGEST_WAIT: Final = 5.0
"""Seconds between two attempts to connect, at most and with full jitter."""

CLOSING: Final = 2.0
"""Seconds for which what is under way may go on when a connection is to be closed."""

REFUSED_WAIT: Final = 30.0
"""Seconds between two attempts to connect where an operator has to change something first."""

T = TypeVar("T")

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def give_up(error: psycopg.Error) -> NoReturn:
    """Raise what *error* means."""
    meaning = translate(error)
    if meaning is error:
        raise error
    raise meaning from error


class StoreAway(StateError):
    """The database has been away for longer than there was patience for, or we are closing."""


class Link:
    """
    The way of one thread to the state in *schema*; *connect* makes a connection in autocommit.

    After *patience* seconds of failures :meth:`recover` gives up; None: never. *limit* is how many
    seconds a transaction may take.
    """

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        schema: str,
        *,
        clock: Clock,
        keys: Keys | None = None,
        patience: float | None = None,
        limit: float = REQUEST,
    ) -> None:
        self._connect = connect
        self._schema = schema
        self._clock = clock
        self._keys = keys
        self._patience = patience
        self._limit = limit
        self._db: Connection | None = None
        self._failures = 0
        self._since: float | None = None
        self._said = False
        self._closing = threading.Event()
        self._interrupted = False
        self._back = float("-inf")
        self.watch: Watch | None = None
        """Measures the transactions, if they are all of one thread."""

    def connection(self) -> Connection:
        """
        Return the connection, which is made if there is none.

        Raises psycopg.Error, to be given to :meth:`recover`, or what *connect* raises itself.
        """
        db = self.live
        if db is None:
            self._db = None  # so that an error now is one at connecting
            if self._interrupted:
                raise psycopg.OperationalError("it has not replied in time")
            db = Connection(self._connect(), self._schema, keys=self._keys, limit=self._limit)
            self._db = db
        if self.watch is not None:
            self.watch.begin()
        return db

    @property
    def live(self) -> Connection | None:
        """The connection, if there is one."""
        return None if self._db is None or self._db.closed else self._db

    def recover(self, error: psycopg.Error) -> None:
        """
        Return once what failed with *error*, and was rolled back, may be tried again.

        Raises StoreAway if we are closing or have no more patience. If trying does not help,
        raises what *error* means.
        """
        kind = kind_of(error)
        at_connecting = self._db is None
        if kind is Kind.LOST:
            self.drop()
        elif kind is not Kind.AGAIN and not (kind is Kind.REFUSED and at_connecting):
            give_up(error)
        if self.watch is not None:
            self.watch.retried(kind)
        self._failures += 1
        if self._since is None:
            self._since = self._clock.monotonic()
        wait = self._wait(kind)
        over = self._clock.monotonic() + wait - self._since
        if self._closing.is_set() or (self._patience is not None and over > self._patience):
            raise StoreAway(str(translate(error))) from error
        if wait:
            self._say(error)
            self._closing.wait(wait)

    def reached(self) -> None:
        """Take note that a transaction has succeeded."""
        if self._said:
            since = self._since or 0.0
            _log.info("store_reached", seconds=round(self._clock.monotonic() - since, 1))
        if self._since is not None:
            self._back = self._clock.monotonic()
        self._failures, self._since, self._said = 0, None, False
        if self.watch is not None:
            self.watch.done()

    @property
    def away_until(self) -> float:
        """
        Until when transactions failed (``Clock.monotonic``): now, if they do; -inf: never yet.

        What waited for them made no progress meanwhile, for no fault of its own.
        """
        return self._back if self._since is None else self._clock.monotonic()

    def drop(self) -> None:
        """Close the connection, if there is one; the next one is another."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def give_up(self) -> None:
        """Let :meth:`recover` wait no longer, from any thread: what now fails has failed."""
        self._closing.set()

    def interrupt(self) -> None:
        """Let what waits for the server fail as if it had gone, from any thread; for good."""
        self._interrupted = True
        if (db := self._db) is not None:
            db.interrupt()

    def _wait(self, kind: Kind) -> float:
        """Return how many seconds to wait for the next attempt."""
        if kind is Kind.REFUSED:
            return REFUSED_WAIT
        if kind is Kind.AGAIN and self._failures <= AT_ONCE:
            return 0.0
        most = min(LONGEST_WAIT, 0.1 * 2 ** min(self._failures, 10))
        return random.uniform(0, most)  # noqa: S311  # not a secret

    def _say(self, error: psycopg.Error) -> None:
        if not self._said:
            _log.warning("store_unreachable", reason=str(translate(error)))
        self._said = True


def read(link: Link, work: Callable[[Connection], T]) -> T:
    """Return what *work* returns, which reads in one transaction, and again until it succeeds."""
    while True:
        db = None
        try:
            db = link.connection()
            db.begin(write=False)
            result = work(db)
            db.end()
        except psycopg.Error as error:
            if db is not None:
                db.roll_back()
            if isinstance(error, ReadOnlySqlTransaction):
                raise  # the work writes: it has a bug
            link.recover(error)
        except BaseException:
            if db is not None:
                db.roll_back()
            raise
        else:
            link.reached()
            return result


@contextlib.contextmanager
def reading(link: Link) -> Iterator[Connection]:
    """Begin to read one snapshot of the state. What fails in the block is not tried again."""
    while True:
        db = None
        try:
            db = link.connection()
            db.begin(write=False, snapshot=True)
            db.execute("select 1").fetchone()  # it is of this moment
        except psycopg.Error as error:
            if db is not None:
                db.roll_back()
            link.recover(error)
        else:
            break
    committed = False
    try:
        yield db
        db.commit()
        committed = True
    except psycopg.Error as error:
        give_up(error)
    finally:
        if not committed:  # else the server would warn that there is nothing to roll back
            db.roll_back()
