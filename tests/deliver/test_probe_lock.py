"""One task at a time probes a sink in trouble; the others follow in their order."""

import asyncio

from auditrelay.deliver.probe_lock import ProbeLock


async def test_it_goes_from_task_to_task_in_their_order() -> None:
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


async def test_a_task_acquires_and_releases_it_as_often_as_it_likes() -> None:
    lock = ProbeLock()
    lock.release()
    for _ in range(2):
        await lock.acquire()
    assert lock.mine
    lock.release()
    assert not lock.locked


async def test_only_its_owner_releases_it() -> None:
    lock = ProbeLock()
    await lock.acquire()

    async def other() -> bool:
        lock.release()
        return lock.mine

    assert not await asyncio.create_task(other())
    assert lock.locked
    assert lock.mine
