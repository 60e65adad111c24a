"""
What the loop waits for while a thread writes.

A ``concurrent.futures.Future`` is made for any two threads, and costs twice as much: a lock, and a
second future with callbacks from each to the other.
"""

import asyncio
import contextlib
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Answer(Generic[T]):
    """What is awaited on the loop on which this is made, and given by another thread, once."""

    __slots__ = ("_future", "_loop")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[T] = self._loop.create_future()

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for what is given; raise what is raised."""
        return self._future.__await__()

    @property
    def is_awaited(self) -> bool:
        """Whether the one who waits has not been cancelled."""
        return not self._future.cancelled()

    def give(self, result: T) -> None:
        """Return *result* to the one who waits."""
        self._call(self._future.set_result, result)

    def fail(self, error: BaseException) -> None:
        """Raise *error* there."""
        self._call(self._future.set_exception, error)

    def _call(self, settle: Callable[[Any], None], what: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._settle, settle, what)

    def _settle(self, settle: Callable[[Any], None], what: Any) -> None:
        if not self._future.done():
            settle(what)
