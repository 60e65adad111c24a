"""
A desk over two tables, for replicas that share a database: there is no one instance to ask.

A command writes its request into a row, and the replica that holds the unit answers in rows. The
command looks for answers now and then, which also says that it is still there; if it goes away, its
work is cancelled. If the replica ends, the next one that holds the unit goes on.

Every role that may write to the database may ask. Which user of a system that was is not known, so
the evidence has no user id.
"""

import asyncio
import contextlib
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Final, Protocol, Self
from uuid import UUID

from auditrelay.clock import Clock
from auditrelay.collect.backfill import BackfillProgress
from auditrelay.collect.verify import VerifyProgress
from auditrelay.errors import LeaseLost, RelayError, StateError
from auditrelay.service.desk import (
    Answer,
    Failure,
    Handle,
    Note,
    NotServed,
    OnProgress,
    Progress,
    Request,
    Result,
    Verify,
    decode_answer,
    decode_request,
    encode,
)
from auditrelay.store.leases import KEEPER
from auditrelay.store.replicas import Answers, Taken, Unreachable, Waiting

POLL: Final = 0.5
"""Seconds between two looks of a command for answers, and between two of their writing."""

PATIENCE: Final = 60.0
"""Seconds for which a command waits for a replica to take up its request."""

PART: Final = 1 << 18
"""Most characters of a row: at most 1 MiB, and a report of verify may have far more."""

_PARTS: Final = 8
"""How many rows are written and read at a time."""

_PENDING: Final = 100
"""How many answers wait to be written before the work waits for them."""

_MORE, _AFRESH = "+", ""
"""What a row begins with whose answer goes on in the next; and a row that ends what was begun."""


_NOT_TWICE: Final = Failure(
    "the replica that did it has ended, and a list is not begun twice: ask again", 1
)


_BUG: Final = Failure("a bug: the replica that did it has ended; its log says more", 1)


class Requests(Protocol):
    """The two tables. Every method raises Unreachable."""

    async def ask(self, unit: str, request: str, asked_by: str) -> int | None:
        """Put a request to the holder of *unit*; return its number, None if none serves it."""

    async def answers(self, number: int, seen: int, most: int) -> Answers | None:
        """Return at most *most* answers after *seen*, and go on listening; None: it is gone."""

    async def withdraw(self, number: int) -> None:
        """Remove the request *number* and its answers."""

    async def serve(self, me: UUID, number: int) -> Taken | None:
        """Take the request *number* for *me*, if that holds the unit and no other has it."""

    async def answer(
        self, me: UUID, number: int, first: int, lines: Sequence[str], *, last: bool
    ) -> bool:
        """
        Add *lines* to the answers, with numbers from *first* on; it may be repeated.

        The *last* one ends the request. Returns False if that is not of *me* any more.
        """

    async def put_back(self, me: UUID, number: int) -> None:
        """Let another replica take the request *number*."""


class TableDesk:
    """The desk of the replicas whose *requests* these are; *name* is who asks or answers here."""

    def __init__(self, requests: Requests, *, name: str, clock: Clock) -> None:
        self._requests = requests
        self._name = name
        self._clock = clock
        self._offers: asyncio.Queue[tuple[UUID, Sequence[Waiting], Collection[str]]]
        self._offers = asyncio.Queue(1)
        self._working: dict[int, tuple[str, asyncio.Task[None]]] = {}
        """By its number the unit of each request in progress, and its task."""

    # -- the command -------------------------------------------------------------------------------

    async def ask(self, request: Request, on_progress: OnProgress) -> Result:
        """Put *request* into the table; see ``Desk``."""
        unit = unit_of(request)
        try:
            number = await self._requests.ask(unit, encode(request).decode(), self._name)
        except Unreachable as error:
            raise StateError(str(error)) from error
        if number is None:
            raise NotServed(f"no running replica serves {unit}")
        try:
            return await self._result(number, unit, on_progress)
        finally:
            with contextlib.suppress(Unreachable):  # no longer renewed, it is tidied away
                await self._requests.withdraw(number)

    async def _result(self, number: int, unit: str, on_progress: OnProgress) -> Result:
        seen, parts = -1, list[str]()
        alive = self._clock.monotonic()
        while True:
            found = await self._look(number, seen)
            if found is not None:
                seen = found.seen
                if found.alive:
                    alive = self._clock.monotonic()
                for line in found.lines:
                    answer = _joined(parts, line)
                    if isinstance(answer, Failure):
                        raise answer.error()
                    if isinstance(answer, Result):
                        return answer
                    if answer is not None:
                        await on_progress(answer)
                if len(found.lines) == _PARTS:
                    continue
            if self._clock.monotonic() - alive > PATIENCE:
                raise RelayError(
                    f"no replica works on it: none has held {unit} for {PATIENCE:.0f} seconds, or "
                    "the database cannot be reached; what was done is kept"
                )
            await self._clock.sleep(POLL)

    async def _look(self, number: int, seen: int) -> Answers | None:
        try:
            found = await self._requests.answers(number, seen, _PARTS)
        except Unreachable:
            return None
        if found is None:
            raise RelayError("the request was removed from the database; what was done is kept")
        return found

    # -- the replica -------------------------------------------------------------------------------

    def offer(self, me: UUID, waiting: Sequence[Waiting], held: Collection[str]) -> None:
        """
        Take up what is *waiting* for the units *held* by the replica *me*; end all other work.

        What it does not see of that, because it is offered again before, it sees then.
        """
        with contextlib.suppress(asyncio.QueueEmpty):
            self._offers.get_nowait()
        self._offers.put_nowait((me, waiting, held))

    def leave(self, unit: str) -> None:
        """End the work for *unit*, which ends here; another offer is to be without it."""
        with contextlib.suppress(asyncio.QueueEmpty):
            self._offers.get_nowait()
        for of, task in self._working.values():
            if of == unit:
                task.cancel()

    async def serve(self, handle: Handle) -> None:
        """
        Answer what is offered; see ``Desk``.

        A request in progress gets no error when this is cancelled: another replica goes on with it,
        or this one after its restart.
        """
        working = self._working
        async with asyncio.TaskGroup() as tasks:
            while True:
                me, waiting, held = await self._offers.get()
                ours = {each.id: each for each in waiting if each.unit in held}
                for number, (_, task) in list(working.items()):
                    if task.done():
                        del working[number]
                    elif number not in ours:  # its command has gone, or the unit
                        task.cancel()
                for number, each in ours.items():
                    if number not in working:
                        doing = tasks.create_task(self._do(me, number, handle))
                        working[number] = each.unit, doing

    async def _do(self, me: UUID, number: int, handle: Handle) -> None:
        """Take the request *number* if it can be taken, do it, and answer."""
        taken: Taken | None = None
        with contextlib.suppress(Unreachable):  # it is offered again
            taken = await self._requests.serve(me, number)
        if taken is None:
            return
        done = False
        try:
            async with _Answering(
                self._requests, me, number, taken.after, self._clock
            ) as answering:
                if taken.begun:
                    await answering.begin_again(f"goes on at replica {self._name}")
                try:
                    outcome = await _outcome(taken, handle, answering.progress)
                except BaseException as error:
                    if isinstance(error, Exception) and not isinstance(error, LeaseLost):
                        # A bug: put back, the request would end one replica after the other.
                        try:
                            await answering.end(_BUG)
                            done = True
                        finally:
                            # Cancelled as soon as its command has read that, it is a bug still.
                            raise error
                    raise
                await answering.end(outcome)
                done = True
        except* (LeaseLost, _NotOurs):
            pass  # the next holder goes on
        finally:
            if not done:
                with contextlib.suppress(Unreachable):
                    await self._requests.put_back(me, number)


async def _outcome(taken: Taken, handle: Handle, on_progress: OnProgress) -> Result | Failure:
    try:
        request = decode_request(taken.request.encode())
        if taken.begun and isinstance(request, Verify) and request.listed:
            return _NOT_TWICE
        return await handle(request, on_progress, None)
    except LeaseLost:
        raise
    except RelayError as error:
        return Failure.of(error)


class _NotOurs(Exception):
    """The request has been taken by another replica, or removed."""


class _Answering:
    """
    Writes the answers to the request *number*, with numbers *after* those that are there.

    All that have come up together are written every *POLL*.
    """

    def __init__(self, requests: Requests, me: UUID, number: int, after: int, clock: Clock) -> None:
        self._requests = requests
        self._me = me
        self._number = number
        self._next = after
        self._clock = clock
        self._pending: list[Answer] = []
        self._due, self._room = asyncio.Event(), asyncio.Event()
        self._turn = asyncio.Lock()
        self._tasks = asyncio.TaskGroup()
        self._writing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._writing = self._tasks.create_task(self._keep_writing())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writing is not None:
            self._writing.cancel()
        await self._tasks.__aexit__(kind, error, trace)

    async def begin_again(self, note: str) -> None:
        """Say that what was answered so far goes on here."""
        await self._write([_AFRESH, *_rows(Note(note))])

    async def progress(self, progress: Progress) -> None:
        """Write *progress* soon; of how far a work has come only the newest is written."""
        if isinstance(progress, BackfillProgress | VerifyProgress):
            self._pending = [each for each in self._pending if type(each) is not type(progress)]
        self._pending.append(progress)
        self._due.set()
        if len(self._pending) > _PENDING:
            self._room.clear()
            await self._room.wait()

    async def end(self, last: Result | Failure) -> None:
        """Write the *last* answer, after all progress."""
        async with self._turn:
            await self._flush()
            await self._write(_rows(last), last=True)

    async def _keep_writing(self) -> None:
        while True:
            await self._due.wait()
            async with self._turn:
                self._due.clear()
                await self._flush()
            await self._clock.sleep(POLL)

    async def _flush(self) -> None:
        pending, self._pending = self._pending, []
        await self._write([row for answer in pending for row in _rows(answer)])
        self._room.set()

    async def _write(self, rows: Sequence[str], *, last: bool = False) -> None:
        for start in range(0, len(rows), _PARTS):
            some = rows[start : start + _PARTS]
            ends = last and start + _PARTS >= len(rows)
            while not await self._written(some, last=ends):
                await self._clock.sleep(POLL)
            self._next += len(some)

    async def _written(self, rows: Sequence[str], *, last: bool) -> bool:
        """Write *rows*; return False if that is to be repeated."""
        try:
            ours = await self._requests.answer(self._me, self._number, self._next, rows, last=last)
        except Unreachable:
            return False
        if not ours:
            raise _NotOurs
        return True


def unit_of(request: Request) -> str:
    """Return the unit whose holder does *request*."""
    source = getattr(request, "source", None)
    return KEEPER if source is None else f"source {source}"


def _rows(answer: Answer) -> list[str]:
    text = encode(answer).decode()
    *others, last = (text[start : start + PART] for start in range(0, len(text), PART))
    return [*(_MORE + part for part in others), last]


def _joined(parts: list[str], row: str) -> Answer | None:
    """Return the answer that ends with *row*; None if it does not end there, with it in *parts*."""
    if row == _AFRESH:
        parts.clear()
    elif row.startswith(_MORE):
        parts.append(row.removeprefix(_MORE))
    else:
        text = "".join([*parts, row])
        parts.clear()
        return decode_answer(text.encode())
    return None
