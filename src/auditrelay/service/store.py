"""
What the service needs of the store, and the whole that it hands out in parts.

``store`` says what holds for every method.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, Protocol, Self

from auditrelay.collect.evidence import Backfills, Evidence
from auditrelay.collect.ledger import SourceStore
from auditrelay.deliver.spool import Spool
from auditrelay.events.page import Page
from auditrelay.evidence.facts import Body
from auditrelay.evidence.heads import Head
from auditrelay.store import (
    NO_LETTERS,
    LetterOf,
    OfLetter,
    Raised,
    SinkState,
    SourceState,
    StoredDeadLetter,
    never,
)
from auditrelay.store.conditions import C
from auditrelay.store.leases import Lease
from auditrelay.store.sealing import (
    Branch,
    EvidenceState,
    HeadEvent,
    MakeHead,
    Run,
    Sealed,
    Waiting,
)


class States(Protocol):
    """The state of all sources and sinks."""

    async def sources(self) -> list[SourceState]:
        """Return the state of every known source."""

    async def sinks(self) -> list[SinkState]:
        """Return the state of every known sink."""

    async def condition(self, peer: Literal["source", "sink"], name: str, kind: type[C]) -> C:
        """Return the condition of the source or sink *name*, which is of that *kind*."""

    async def spool_size(self) -> int:
        """Return the current size of the spool, compressed."""


class Registry(Protocol):
    """Which sinks there are, and what each receives."""

    async def start_sink(self, sink: str, sources: Collection[str]) -> None:
        """
        Register *sink* as a reader of *sources*, besides those that it reads already.

        A new sink begins at the end of the spool. Once this returns, nothing that the sink has not
        acknowledged is pruned. Only :meth:`retire` takes a source or a sink away: an instance that
        starts with an older configuration must not cut off what another one has added.
        """

    async def retire(
        self, configured: Mapping[str, Collection[str]], sources: Collection[str]
    ) -> tuple[str, ...]:
        """
        Stop spooling for a sink what it is not *configured* to receive; return orphaned sinks.

        *configured* are the sources of each sink. A sink that is not among them gets no new events;
        it is returned if it has a backlog, which is kept until it is started again or removed. A
        sink that is among them still gets its backlog of orphaned sources, those that are not among
        the configured *sources* any more.
        """


class DeadLetters(Protocol):
    """
    What an operator decides about dead letters; *by* is his user id, for the evidence.

    *of* says which letters he saw under the ids: one that is another by now is skipped. A database
    that has lost its last commits gives an id twice.
    """

    async def replay(
        self,
        ids: Sequence[int],
        *,
        of: Mapping[int, LetterOf] = NO_LETTERS,
        by: int | None = None,
        unless: OfLetter = never,
    ) -> list[StoredDeadLetter]:
        """
        Spool the dead letters *ids* again, each for its sink; return those that were spooled.

        Dead letters already being replayed are skipped, and those that *unless* is true of. On
        return the copies are durable; a dead letter is deleted with its delivery, and stays, with
        one attempt more, if the sink refuses it again. Raises StoreFull if the spool or the disk
        has no room.
        """

    async def drop(
        self,
        ids: Sequence[int],
        now: datetime,
        *,
        of: Mapping[int, LetterOf] = NO_LETTERS,
        by: int | None = None,
    ) -> list[StoredDeadLetter]:
        """
        Discard the dead letters *ids*; return those discarded.

        Their events are deleted durably; a record that they existed is kept. Dead letters being
        replayed are skipped.
        """


class OperatorStore(States, DeadLetters, Protocol):
    """What the commands of an operator need of the store, besides backfill and verify."""

    @property
    def log(self) -> "EvidenceLog":
        """The log of the evidence."""

    async def forget(self, name: str, *, by: int | None = None) -> None:
        """
        Delete the whole state of the source or sink *name*, which must not be in use.

        *by* is the user id of the operator who asked for it.

        Its backlog goes with it, and so do its events that wait for other sinks. This takes several
        transactions: if it raises, some of the work may be done, and calling it again finishes it.
        """


class AlertLog(Protocol):
    """Where alerts are raised."""

    async def raised(self) -> list[Raised]:
        """Return the alerts that an earlier keeper has raised, and none has cleared since."""

    async def change(
        self, events: Page | None, raised: Sequence[Raised], cleared: Sequence[Raised]
    ) -> None:
        """
        Spool the *events* of alerts, and keep what is *raised* and *cleared*, durably together.

        Without *events*, none are spooled. Raises StoreFull, with nothing written.
        """


class EvidenceLog(Protocol):
    """The log of the evidence: what was done, sealed for good, and its heads."""

    @property
    def waiting(self) -> Waiting:
        """About how much waits for the next seal."""

    async def begin(self, run: Run) -> Branch | None:
        """
        Tell, durably, that *run* begins to serve the state, with its configuration if that changed.

        If the state is not the one whose heads left last, it goes on in a new log: the branch
        is returned. Raises EvidenceBroken if that is not possible, since entries are missing.
        """

    async def configure(self, configured: Body) -> bool:
        """Tell that the configuration *configured* (the fact) is in force, if it is another one."""

    async def end(self, run: str) -> None:
        """Tell, durably, that *run* stops in an orderly way."""

    async def state(self) -> EvidenceState:
        """Return what there is of the evidence, and whether it has left."""

    async def restored(self, reason: str, by: int | None) -> None:
        """Tell that the operator *by* has restored, copied or moved the state, and why."""

    async def seal(self, event: HeadEvent, make_head: MakeHead = Head) -> Sealed:
        """
        Seal what was done since the last seal: all open facts become entries of the evidence.

        *make_head* makes the head over all entries, *event* the event that tells of it. On return
        the entries, the head and the event, in the spool of the reserved source
        (``reserved.ALERTS``), are durable together; what was done meanwhile waits for the next
        seal. After that the tip is replaced.

        With nothing written raises StoreFull if the disk has no room, NotSealed if no entries can
        be made of what is stored, and EvidenceBroken if the entries do not give the newest head.
        """

    async def continue_damaged(self) -> Branch:
        """
        Go on in a new log from the entries that are there, though a head tells of others.

        Raises EvidenceBroken if some are missing.
        """


class Upkeep(Protocol):
    """What has to be done now and then, whatever is polled and delivered."""

    async def prune(self, now: datetime) -> int:
        """
        Delete events that every sink has and whose retention has passed; return how many.

        Uids older than ``spool.remember`` are forgotten as well, all by *now*, which must be
        certainly past. This takes several transactions: if it raises, some of the work may be done.
        """

    async def remember_time(self, mark: datetime) -> None:
        """
        Keep *mark*, a moment that is certainly past, for the next run and for this one.

        Once the store is open, its clock's :class:`~auditrelay.confirmed_time.ConfirmedTime`
        continues from it.
        """

    @property
    def log(self) -> EvidenceLog:
        """The log of the evidence."""

    @property
    def alerts(self) -> AlertLog:
        """The log of the alerts."""

    def resize(self, *, max_bytes: int, retention: timedelta, remember: timedelta) -> None:
        """
        Apply new limits from now on.

        *max_bytes* is the limit of the spool. *retention* is how long delivered events are kept,
        *remember* how long uids are.
        """

    async def close(self) -> None:
        """Finish the writes that were begun, then release everything."""


class Store(
    Registry,
    OperatorStore,
    Upkeep,
    SourceStore,
    Backfills,
    Evidence,
    Spool,
    Protocol,
):
    """The whole; only what builds the parts of the service sees it."""

    on_condition: Callable[[], None]
    """Called before each write of the condition of a source or sink."""

    def under(self, lease: Lease) -> Self:
        """
        Return this store with every write fenced by *lease*: once another has it, writes fail.

        A source or sink gets such a store for as long as it runs, see ``store.leases``. That of a
        part of a sink reads the events of its part, and keeps the health of that.
        """
