"""
The supervisor of one peer: a bug in the code for it costs that source or sink alone.

Sources, sinks and the vendors' readers are many, and handle what others send. So each is asked
through a supervisor, which makes a :class:`PeerBug` of any exception that is no RelayError: the
loops hold that peer and retry it ever less often, and all others go on. This is the only place that
handles ``Exception``: a bug in the store or in a loop ends the process
(docs/decisions/0026-supervisor.md).
"""

import asyncio
import contextlib
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from auditrelay.errors import PeerBug, RelayError
from auditrelay.telemetry.metrics import Metrics

RETRY_FIRST: Final = 60.0
"""Seconds until a peer with a bug is tried again; doubled each time."""

RETRY_MAX: Final = 3600.0
"""Most seconds between two tries of a peer with a bug."""

T = TypeVar("T")
A = TypeVar("A")

_HERE: Final = Path(__file__).parent
_PACKAGE: Final = _HERE.parent

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class RetryDelay:
    """How long to wait after each bug in a row: *RETRY_FIRST*, doubled up to *RETRY_MAX*."""

    def __init__(self) -> None:
        self._next = RETRY_FIRST

    def next(self) -> float:
        """Return the seconds to wait now."""
        seconds = self._next
        self._next = min(seconds * 2, RETRY_MAX)
        return seconds

    def reset(self) -> None:
        """Begin again with *RETRY_FIRST*: the peer works."""
        self._next = RETRY_FIRST


class Supervisor:
    """
    Supervises the code for the source or sink *peer*.

    Each bug is counted, and logged with its traceback once: the retries would repeat it.
    """

    def __init__(self, peer: str, metrics: Metrics) -> None:
        self._peer = peer
        self._errors = metrics.unforeseen_errors
        self._logged: set[tuple[str, str]] = set()
        self._foreign: BaseException | None = None

    @contextlib.contextmanager
    def __call__(self, crossing: str) -> Iterator[None]:
        """
        Raise PeerBug for any exception of the block that is no RelayError.

        So is a cancellation that the task was not asked for: of something that the peer awaits.
        It would end a loop without a word.
        """
        try:
            yield
        except RelayError:
            raise
        except asyncio.CancelledError as error:
            if error is self._foreign or _is_to_end():
                raise
            raise self._bug(error, crossing) from error
        except Exception as error:
            if error is self._foreign:
                raise
            raise self._bug(error, crossing) from error

    async def each(
        self, crossing: str, begin: Callable[[], AsyncGenerator[T, None]]
    ) -> AsyncGenerator[T, None]:
        """Yield each value of the generator that *begin* returns, and close it in the end."""
        with self(crossing):
            values = begin()
        try:
            while True:
                with self(crossing):
                    try:
                        value = await anext(values)
                    except StopAsyncIteration:
                        return
                yield value
        finally:
            with self(crossing):
                await values.aclose()

    def unsupervised(self, function: Callable[[A], Awaitable[T]]) -> Callable[[A], Awaitable[T]]:
        """Return *function*, for the peer to call: a bug of ours in it is not the peer's."""

        async def call(argument: A) -> T:
            try:
                return await function(argument)
            except BaseException as error:
                self._foreign = error
                raise

        return call

    def _bug(self, error: BaseException, crossing: str) -> PeerBug:
        kind, place = type(error).__name__, _place(error)
        self._errors.labels(self._peer).inc()
        if (kind, place) not in self._logged:
            self._logged.add((kind, place))
            _log.error("peer_bug_caught", peer=self._peer, crossing=crossing, exc_info=error)
        _release_frames(error)
        # Without the text of the exception: it may quote what a record says.
        return PeerBug(
            f"a bug in auditrelay's code for {self._peer}: {kind} in {place}, at {crossing}. The "
            "traceback is in the log (peer_bug_caught): report it",
            peer=self._peer,
            crossing=crossing,
        )


class Unmade:
    """
    Stands for a source or sink that could not be made, so that the others can start.

    Whatever it is asked raises *bug*; the next start makes it again.
    """

    scope = ""
    deduplicates = False

    def __init__(self, bug: PeerBug) -> None:
        self._bug = bug

    def __getattr__(self, name: str) -> Any:
        """Raise the bug."""
        raise self._bug.again()

    async def close(self) -> None:
        """Do nothing: nothing is open."""


def _is_to_end() -> bool:
    """Return whether the current task was asked to end, or there is none."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # in a thread without a loop
        return True
    return task is None or task.cancelling() > 0


def _release_frames(error: BaseException | None) -> None:
    """Let go of what the code of the peer held: a reply may be large, and a bug lasts for long."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _place(error: BaseException) -> str:
    """Return the file and line that raised *error*: ours, if a library did."""
    frames = traceback.extract_tb(error.__traceback__)
    peers = [each for each in frames if not Path(each.filename).is_relative_to(_HERE)]
    ours = [each for each in peers if Path(each.filename).is_relative_to(_PACKAGE)]
    frame = (ours or peers or frames)[-1]
    path = Path(frame.filename)
    name = path.relative_to(_PACKAGE) if path.is_relative_to(_PACKAGE) else path.name
    return f"{name}:{frame.lineno}"
