"""One task at a time probes an unavailable sink; the others follow in order."""

import asyncio

from auditrelay.deliver.probe import ProbeLock


async def test_tasks_acquire_the_lock_in_the_order_of_their_calls() -> None:
    lock, order = ProbeLock(), list[int]()

    async def probe(number: int) -> None:
        await lock.acquire()
        order.append(number)
        await asyncio.sleep(0)
        lock.release()

    async with asyncio.TaskGroup() as tasks:
        for number in range(5):
            tasks.create_task(probe(number))
    assert order == [0, 1, 2, 3, 4]
    assert not lock.locked


async def test_a_task_may_acquire_and_release_the_lock_any_number_of_times() -> None:
    lock = ProbeLock()
    lock.release()
    for _ in range(2):
        await lock.acquire()
    assert lock.mine
    lock.release()
    assert not lock.locked


async def test_only_the_owner_releases_the_lock() -> None:
    lock = ProbeLock()
    await lock.acquire()

    async def other() -> bool:
        lock.release()
        return lock.mine

    assert not await asyncio.create_task(other())
    assert lock.locked
    assert lock.mine
