"""
What stands before a sink that stores each part of a batch under a name: every event is in one part.

It is a sink itself, so delivery makes batches smaller, sets events aside and sends them again as to
any other. What it is given it sends by **seals**: the events of one part, with its name, written
down before they are sent first. While it is unknown whether a part was stored it is sent again only
so, also by the next process: then what is stored already is found under its name.
docs/decisions/0042-sealed-batches.md has the reasons.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from auditrelay.clock import Clock
from auditrelay.deliver.batches import ranges_of
from auditrelay.deliver.spool import Spool
from auditrelay.errors import Refused, Rejected, Retryable, StoreFull, code_of
from auditrelay.events.marks import NO_MARKS
from auditrelay.events.page import Page
from auditrelay.sinks import (
    Counts,
    Item,
    Limits,
    Rendered,
    Sealing,
    Sink,
    Verdict,
    digest_of,
)
from auditrelay.store.progress import Range
from auditrelay.store.seals import Seal, Seals


class SealedSink:
    """The *sink* called *name*, each part of whose batches is sealed in the *store* first."""

    def __init__(
        self, name: str, sink: Sink, sealing: Sealing, *, store: Spool, clock: Clock
    ) -> None:
        self.deduplicates = sink.deduplicates
        self._name = name
        self._sink = sink
        self._sealing = sealing
        self._store = store
        self._clock = clock
        self._seals: Seals | None = None
        self._uncertain: set[str] = set()
        """The names under which something may be stored already."""
        self._lock = asyncio.Lock()
        """Held while it is found out, or decided, which seals hold."""

    async def unfinished(self) -> list[tuple[Range, ...]]:
        """Return the places of each seal that an earlier process has left unsettled."""
        async with self._lock:
            return [seal.places for seal in (await self._read()).all]

    async def send(self, batch: Sequence[Item]) -> Verdict:
        """
        Send *batch* part by part; see :class:`Sink`.

        The first part that fails for now ends it, since the others would fail as well: they are to
        be retried, as are those that the sink rejects if it has stored others. Raises only if
        nothing of the batch is stored.
        """
        # In the order of the spool, in which a seal is read again: what was set aside comes behind.
        order = sorted(range(len(batch)), key=lambda index: batch[index].position)
        return (await self._send([batch[index] for index in order])).within(order)

    async def _send(self, batch: Sequence[Item]) -> Verdict:
        async with self._lock:
            sealed, stored = await self._sealed(batch)
        counts = Counts(duplicates=len(stored))
        failed: list[int] = []
        errors: list[Retryable | Refused | Rejected] = []
        for seal, indices in sealed:
            if errors and not isinstance(errors[-1], Rejected):
                failed += indices
                continue
            try:
                put = await self._put(seal, [batch[index] for index in indices])
            except (Retryable, Refused, Rejected) as error:
                errors.append(error)
                failed += indices
            else:
                stored += indices
                counts = replace(counts, duplicates=counts.duplicates + put.duplicates)
        if not stored:
            raise errors[-1]
        last = errors[-1] if errors else None
        if isinstance(last, Refused):
            # It cannot be raised, since others are stored. If it lasts, the next request raises it.
            last = Retryable(str(last), reason=code_of(last))
        reason = last if isinstance(last, Retryable) else None
        return Verdict(retry=tuple(sorted(failed)), retry_reason=reason, counts=counts)

    async def _put(self, seal: Seal, batch: Sequence[Item]) -> Counts:
        again = seal.name in self._uncertain
        self._uncertain.add(seal.name)
        try:
            return await self._sealing.put(batch, seal.name, again=again)
        except Rejected:
            if again and await self._sealing.holds(seal.name, seal.digest):
                return Counts(duplicates=len(batch))  # what is stored is not refused
            self._uncertain.discard(seal.name)
            raise
        except (Retryable, Refused) as error:
            if not (again or error.sent):
                self._uncertain.discard(seal.name)
            if isinstance(error, Refused):
                error.sent = False  # sent again it is stored once: the sink need not prove itself
            raise

    async def _sealed(
        self, batch: Sequence[Item]
    ) -> tuple[list[tuple[Seal, list[int]]], list[int]]:
        """
        Return the seals under which *batch* is sent, each with the indices of its events.

        Also the indices of those events that turn out to be stored. Raises Retryable if it is not
        certain whether some are, or if the store has no room for a seal.
        """
        sealed: list[tuple[Seal, list[int]]] = []
        stored: list[int] = []
        rest = set(range(len(batch)))
        for seal, indices in self._touched((await self._read()).all, batch):
            events = [batch[index] for index in indices]
            if len(indices) == seal.events and digest_of(events) == seal.digest:
                sealed.append((seal, indices))
            elif seal.name in self._uncertain and await self._sealing.holds(seal.name, seal.digest):
                stored += indices
            else:
                continue  # nothing is stored under that name: they get another seal
            rest.difference_update(indices)
        if rest:
            sealed += await self._seal(batch, sorted(rest))
        return sealed, stored

    async def _seal(
        self, batch: Sequence[Item], indices: Sequence[int]
    ) -> list[tuple[Seal, list[int]]]:
        """Seal the events of *batch* at *indices*, by parts, and return the seals with theirs."""
        log = (await self._read()).log
        events = [batch[index] for index in indices]
        sealed = []
        for part in self._sealing.parts(events, log, self._clock.now()):
            of_part = [events[index] for index in part.indices]
            places = ranges_of(item.position for item in of_part)
            seal = Seal(part.name, digest_of(of_part), tuple(places))
            sealed.append((seal, [indices[index] for index in part.indices]))
        try:
            self._seals = await self._store.seal_batches(self._name, [seal for seal, _ in sealed])
        except StoreFull as error:
            raise Retryable(
                f"nothing is sent before it is written down which events go together: {error}",
                reason="store_full",
            ) from error
        return sealed

    async def _read(self) -> Seals:
        if self._seals is None:
            self._seals = await self._store.batch_seals(self._name)
            self._uncertain.update(seal.name for seal in self._seals.all)
        return self._seals

    @staticmethod
    def _touched(seals: Iterable[Seal], batch: Sequence[Item]) -> Iterable[tuple[Seal, list[int]]]:
        """Yield each of *seals* under which events of *batch* are, with their indices."""
        places = [item.position for item in batch]
        first, end = min(places), max(places) + 1
        for seal in seals:
            start, stop = seal.span
            if start >= end or stop <= first:
                continue
            indices = [index for index, place in enumerate(places) if seal.is_of(place, place + 1)]
            if indices:
                yield seal, indices

    @property
    def limits(self) -> Limits:
        """See :class:`Sink`."""
        return self._sink.limits

    def render(
        self, page: Page, now: int, *, marks: Mapping[str, object] = NO_MARKS
    ) -> list[Rendered]:
        """See :class:`Sink`."""
        return self._sink.render(page, now, marks=marks)

    async def check(self) -> str:
        """See :class:`Sink`."""
        return await self._sink.check()

    def backfill_notice(self, start: datetime, end: datetime, now: datetime) -> str | None:
        """See :class:`Sink`."""
        return self._sink.backfill_notice(start, end, now)

    def query(self, uid: str) -> Sequence[str]:
        """See :class:`Sink`."""
        return self._sink.query(uid)

    async def close(self) -> None:
        """See :class:`Sink`."""
        await self._sink.close()
