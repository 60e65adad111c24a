"""What an engine does for the store: it runs work on its connections, each as one transaction."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from auditrelay.evidence.heads import Head, Keys
from auditrelay.store.leases import Lease
from auditrelay.store.sql.connection import Connection

T = TypeVar("T")
Work = Callable[[Connection], T]


class Writer(Protocol):
    """Runs works that write, one at a time in the whole state, and in the order of the calls."""

    async def write(
        self, work: Work[T], *, spools: bool = False, then: Callable[[T], None] | None = None
    ) -> T:
        """
        Run *work* as one transaction; return its result once it is durable.

        If the transaction is rolled back, *work* may run again: it changes nothing but the state,
        or what does not matter then. *then* is called with the result once it is durable, in the
        order of the commits, even if the caller is cancelled meanwhile, and perhaps in another
        thread; not at all if the transaction fails. It must not raise. A work that *spools* leaves
        alone the room that positions and conditions need.

        Raises StoreFull if there is no room for it, and StateError after the engine was closed.
        """


class Reader(Protocol):
    """Runs works that only read."""

    async def read(self, work: Work[T], /) -> T:
        """Return what *work* returns, which sees all that was durable before. Raises StateError."""


class Room(Protocol):
    """Room that new events may not take, so that verdicts can always be written."""

    def require(self) -> None:
        """Raise StoreFull unless the room is there."""

    def require_for(self, db: Any, size: int, /) -> None:
        """Raise StoreFull unless there is room for a page of *size* bytes besides."""

    def restore(self) -> bool:
        """Reserve the room again if it was used up; return whether that was so, and is done."""

    def give_back(self, db: Any, /) -> None:
        """Give some of what was deleted back to the system, within the caller's transaction."""


class Tip(Protocol):
    """The newest head that has left, where no backup of the state has it."""

    @property
    def name(self) -> str:
        """What it is called, in what a check finds."""

    def read(self) -> Head | None:
        """Return that head; None if there is none that can be read."""

    def begin(self, db: Any, head: Head, /) -> None:
        """Put the first one of a new state, at the latest with the transaction of *db*."""

    def enter(self, db: Any, head: Head, /) -> None:
        """Replace it in the transaction of *db* that makes *head*, if it is in the database."""

    def write(self, head: Head) -> None:
        """Replace it, durably, after that. Raises OSError, with the former one as it was."""


class Engine(Writer, Reader, Protocol):
    """The engine of one store."""

    @property
    def shared(self) -> bool:
        """Whether other instances write to the state, too."""

    @property
    def keys(self) -> Keys | None:
        """The keys of the evidence."""

    @property
    def room(self) -> Room:
        """The room for what is written."""

    @property
    def tip(self) -> Tip:
        """The tip of the evidence."""

    def under(self, lease: Lease) -> "Engine":
        """Return this engine with every write fenced by *lease*."""

    def snapshot(self) -> AbstractContextManager[Connection]:
        """
        Begin to read one snapshot of the state, on a connection of its own.

        It blocks, so it is for a thread of the caller's. In the block, errors of the engine are
        StateErrors.
        """

    def close(self) -> None:
        """Finish the queued writes, then close everything; it blocks."""
