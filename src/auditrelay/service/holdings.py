"""
What a replica holds, and the tasks that begin and end what runs under it.

No pulse waits for these tasks. What begins under a lease may write to the store, and that may wait
for another replica, which only pulses find dead.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from auditrelay.errors import RelayError
from auditrelay.service.membership import Loss
from auditrelay.store.leases import Lease


class Runner(Protocol):
    """Runs what a lease is for."""

    async def gain(self, lease: Lease) -> None:
        """
        Build what runs under *lease*, and begin it. It may be cancelled, and is then lost.

        Raises LeaseLost if the store refuses what is written under it, and another RelayError if
        it cannot be built or begun; it is lost then, too.
        """

    async def lose(self, lease: Lease, why: Loss) -> None:
        """
        End what runs under *lease*, if anything does, and drop what it keeps in memory.

        If it is to be moved or drained, requests in flight land first, and their verdicts are
        written: the lease is still ours. If that raises RelayError, or is cancelled because the
        lease was lost meanwhile, it is called again. Whenever the lease is lost, nothing more can
        be written, and nothing is raised.
        """


class Holdings:
    """
    The leases of a replica; everything is done by *runner*, in tasks of the group *tasks*.

    *on_failed* is called with a lease under which nothing could begin; it is held on.
    """

    def __init__(
        self,
        runner: Runner,
        tasks: asyncio.TaskGroup,
        on_failed: Callable[[Lease, RelayError], None],
    ) -> None:
        self._runner = runner
        self._on_failed = on_failed
        self._tasks = tasks
        self._leases: dict[str, Lease] = {}
        self._work: dict[str, asyncio.Task[None]] = {}
        """What begins or ends: at most one task a unit."""

    @property
    def leases(self) -> dict[str, Lease]:
        """A copy of what is held, by unit."""
        return dict(self._leases)

    @property
    def units(self) -> set[str]:
        """The units that are held, or about which something is being done."""
        return {*self._leases, *self._work}

    @property
    def quiet(self) -> bool:
        """Whether nothing is beginning or ending."""
        return not self._work

    def gain(self, lease: Lease) -> None:
        """Hold *lease*, and begin what runs under it."""
        self._leases[lease.unit] = lease
        self._do(lease.unit, self._begin(lease))

    async def _begin(self, lease: Lease) -> None:
        try:
            await self._runner.gain(lease)
        except RelayError as error:
            self._on_failed(lease, error)

    def acquire(self, unit: str, take: Callable[[], Awaitable[Lease | None]]) -> None:
        """Do *take*, and hold the lease that it returns, if any."""

        async def acquire() -> None:
            lease = await take()
            if lease is not None:
                self._leases[unit] = lease
                await self._begin(lease)

        self._do(unit, acquire())

    def lose(self, lease: Lease, why: Loss) -> bool:
        """
        End what runs under *lease*, which is not ours any more, whatever is being done to it.

        Returns False if it was not held.
        """
        if self._leases.get(lease.unit) != lease:
            return False
        del self._leases[lease.unit]
        before = self._work.get(lease.unit)

        async def lose() -> None:
            if before is not None:
                before.cancel()
                await asyncio.wait([before])
            await self._runner.lose(lease, why)

        self._do(lease.unit, lose())
        return True

    def release(self, lease: Lease, why: Loss, give: Callable[[Lease], Awaitable[None]]) -> None:
        """End what runs under *lease* in good order, then *give* it away; once is enough."""
        if self._leases.get(lease.unit) != lease or lease.unit in self._work:
            return

        async def release() -> None:
            try:
                await self._runner.lose(lease, why)
            except RelayError:  # what it had to write is refused, or takes too long
                await self._runner.lose(lease, Loss.FENCED)
            del self._leases[lease.unit]
            await give(lease)

        self._do(lease.unit, release())

    def lose_all(self, why: Loss) -> None:
        """End everything: nothing of it is ours any more."""
        for lease in self.leases.values():
            self.lose(lease, why)

    async def settled(self) -> None:
        """Wait until nothing is beginning or ending."""
        while self._work:
            await asyncio.wait(self._work.values())

    def _do(self, unit: str, work: Coroutine[Any, Any, None]) -> None:
        task = self._tasks.create_task(work)
        self._work[unit] = task
        task.add_done_callback(lambda done: self._done(unit, done))

    def _done(self, unit: str, task: asyncio.Task[None]) -> None:
        if self._work.get(unit) is task:
            del self._work[unit]
