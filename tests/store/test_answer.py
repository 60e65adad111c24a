"""What the loop waits for while a thread writes."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from auditrelay.store.answer import Answer


def run_in_thread(function: Callable[..., None], *arguments: object) -> None:
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    thread.join()


async def test_a_result_of_another_thread_is_returned() -> None:
    answer = Answer[int]()
    run_in_thread(answer.give, 7)
    assert await answer == 7


async def test_an_error_is_raised_as_the_very_one() -> None:
    answer, error = Answer[int](), SystemExit(3)
    run_in_thread(answer.fail, error)
    with pytest.raises(SystemExit) as raised:
        await answer
    assert raised.value is error


@pytest.mark.parametrize("what", ["result", "error"])
async def test_who_was_cancelled_gets_nothing_and_nothing_is_raised(what: str) -> None:
    answer = Answer[int]()
    waiting = asyncio.ensure_future(wait_for(answer))
    await asyncio.sleep(0)
    states = [answer.is_awaited]
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    states.append(answer.is_awaited)
    assert states == [True, False]
    failed: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
    if what == "result":
        run_in_thread(answer.give, 7)
    else:
        run_in_thread(answer.fail, ValueError())
    await asyncio.sleep(0)
    assert failed == []


def test_an_answer_that_comes_after_the_end_of_the_loop_is_dropped() -> None:
    async def ask() -> Answer[int]:
        return Answer()

    answer = asyncio.run(ask())
    answer.give(7)
    answer.fail(ValueError())


async def wait_for(answer: Answer[int]) -> int:
    return await answer
