"""
The membership of one replica: its row, its leases, and those of the others.

It has two connections. A take waits for whatever writes, and a frozen replica may be what writes
and never ends: pulses go on meanwhile, and find that it is dead.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg

from auditrelay.store.leases import Lease
from auditrelay.store.postgres import leases, requests
from auditrelay.store.postgres.connection import Connection
from auditrelay.store.postgres.errors import Kind, kind_of
from auditrelay.store.postgres.line import Connect, Line
from auditrelay.store.postgres.watch import Watch
from auditrelay.store.replicas import (
    Answers,
    Card,
    LeaseRow,
    Served,
    Server,
    Situation,
    Taken,
    Unreachable,
)

_T = TypeVar("_T")


def unwatched(what: str) -> Watch | None:  # noqa: ARG001  # as a function that makes one
    """Return None: nothing is measured."""
    return None


class PostgresMembership:
    """
    See ``service.member.Membership``; every method raises Unreachable.

    It joins as *replica* first, an id that was never used: it is in the name of all sessions of
    this process, by which others end them. *watch* returns what measures the transactions.
    """

    def __init__(
        self,
        connect: Connect,
        replica: UUID,
        watch: Callable[[str], Watch | None] = unwatched,
    ) -> None:
        self._me = replica
        self._left = False
        self._card_info: Mapping[str, Any] = {}
        self.on_end: Callable[[int], None] = lambda _: None
        """Called by each pulse with how far the spool reaches."""
        self._pulses = Line(connect, self._name, watch("pulse"))
        self._others = Line(connect, self._name, watch("lease"))

    def _name(self) -> str:
        return leases.application_name(self._me)

    async def join(self, card: Card) -> UUID:
        """Join as a replica that has not left before, and return its id."""
        if self._left:
            self._me, self._left = uuid4(), False
        me = self._me
        self._card_info = {"command": card.command, "key": card.key}
        await self._pulses.run(lambda db: leases.join(db, me, card))
        return me

    async def server(self) -> Server | None:
        """Return which server this is; None if it does not say so. Raises Unreachable."""
        return await _if_it_says(self._pulses.run(leases.server))

    async def pulse(self, *, beat: bool, draining: bool, info: Mapping[str, Any]) -> Situation:
        """Give a sign of life, if it is a *beat*, and return what there is to see."""
        me, all_info = self._me, {**info, **self._card_info}

        def pulse(db: Connection) -> Situation:
            if beat:
                leases.beat(db, me, draining=draining, info=all_info)
            return leases.situation(db, me)

        now = await self._pulses.run(pulse)
        self.on_end(now.end)
        return now

    async def end_sessions(self, dead: Collection[UUID]) -> None:
        """End the sessions of *dead* replicas, which may hold locks."""
        await self._pulses.run(lambda db: leases.end_sessions(db, dead))

    async def take(self, units: Collection[str], dead: Collection[UUID]) -> list[Lease]:
        """Take those of *units* that are free, or held by one of the *dead*."""
        me = self._me
        return await self._others.run(lambda db: leases.take(db, me, units, dead), alone=True)

    async def rekey(self, row: LeaseRow) -> Lease | None:
        """Give a lease that is ours a new token; return None if it is another one by now."""
        me, seen = self._me, row.token
        if seen is None:
            return None
        return await self._others.run(lambda db: leases.rekey(db, me, row.unit, seen), alone=True)

    async def give(self, lease: Lease) -> None:
        """Give *lease* back, if it is still that one."""
        await self._others.run(lambda db: leases.give(db, lease))

    async def want(self, moves: Mapping[str, UUID]) -> None:
        """Ask the holders of the units of *moves* to give them to those replicas."""
        await self._others.run(lambda db: leases.want(db, moves))

    async def serve(self, serves: Mapping[str, Served]) -> None:
        """Change what this replica serves."""
        me = self._me
        await self._pulses.run(lambda db: leases.serve(db, me, serves))

    async def tidy(self) -> None:
        """Remove what dead replicas and commands have left behind."""
        await self._others.run(leases.tidy)

    async def old_rows(self) -> int | None:
        """Return how many old versions of rows a small table has; None if it does not say so."""
        return await _if_it_says(self._others.run(leases.old_rows))

    async def leave(self) -> None:
        """Give back everything, and remove this replica, which never joins again."""
        me, self._left = self._me, True
        await self._others.run(lambda db: leases.leave(db, me))

    async def close(self) -> None:
        """Close the connections."""
        await self._pulses.close()
        await self._others.close()


async def _if_it_says(asking: Awaitable[_T]) -> _T | None:
    try:
        return await asking
    except psycopg.Error:  # kin of PostgreSQL need not have what is asked for
        return None
    except Unreachable as error:
        cause = error.__cause__
        if isinstance(cause, psycopg.Error) and kind_of(cause) is Kind.REFUSED:
            return None  # or not let this role use it
        raise


class PostgresRequests:
    """
    See ``service.table_desk.Requests``. The connection is its own, as answers may be long.

    Its session has the name that *name* returns.
    """

    def __init__(
        self,
        connect: Connect,
        name: Callable[[], str],
        watch: Callable[[str], Watch | None] = unwatched,
    ) -> None:
        self._line = Line(connect, name, watch("request"))

    async def ask(self, unit: str, request: str, asked_by: str) -> int | None:
        """Put a request to the holder of *unit*; return its number, None if none serves it."""
        return await self._line.run(lambda db: requests.ask(db, unit, request, asked_by))

    async def answers(self, number: int, seen: int, most: int) -> Answers | None:
        """Return at most *most* answers after *seen*, and go on listening; None: it is gone."""
        return await self._line.run(lambda db: requests.answers(db, number, seen, most))

    async def withdraw(self, number: int) -> None:
        """Remove the request *number* and its answers."""
        await self._line.run(lambda db: requests.withdraw(db, number))

    async def serve(self, me: UUID, number: int) -> Taken | None:
        """Take the request *number* for *me*, if that holds the unit and no other has it."""
        return await self._line.run(lambda db: requests.serve(db, me, number))

    async def answer(
        self, me: UUID, number: int, first: int, lines: Sequence[str], *, last: bool
    ) -> bool:
        """Add *lines* to the answers; return False if the request is not that of *me* any more."""
        return await self._line.run(
            lambda db: requests.answer(db, me, number, first, lines, last=last)
        )

    async def put_back(self, me: UUID, number: int) -> None:
        """Let another replica take the request *number*."""
        await self._line.run(lambda db: requests.put_back(db, me, number))

    async def close(self) -> None:
        """Close the connection."""
        await self._line.close()
