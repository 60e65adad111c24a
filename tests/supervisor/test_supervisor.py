"""What a supervisor makes of an exception, what it writes down, and that nothing else does it."""

import ast
import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator, Iterator
from functools import cache
from pathlib import Path

import pytest
from tests.support.logged import logged

from auditrelay.errors import PeerBug, Refused, RelayError
from auditrelay.settings.secrets import Secret
from auditrelay.supervisor import RetryDelay, Supervisor
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrubber

SRC = Path(__file__).parents[2] / "src" / "auditrelay"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(sources=["voice"])


@pytest.fixture
def supervise(metrics: Metrics) -> Supervisor:
    return Supervisor("voice", metrics)


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError(),
        AssertionError(),
        MemoryError(),
        RecursionError(),
        StopIteration(),
        OverflowError(),
        KeyError("key"),
        OSError(28, "no space"),
        ExceptionGroup("several", [ValueError(), Refused("no")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_exception_becomes_a_bug_of_that_peer(supervise: Supervisor, error: Exception) -> None:
    with pytest.raises(PeerBug) as caught, supervise("walk"):
        raise error
    assert caught.value.__cause__ is error
    assert (caught.value.peer, caught.value.crossing, caught.value.sent) == ("voice", "walk", False)
    assert "voice" in str(caught.value)
    assert type(error).__name__ in str(caught.value)


@pytest.mark.parametrize(
    "error", [Refused("no"), asyncio.CancelledError(), GeneratorExit(), SystemExit(3)], ids=repr
)
def test_what_is_foreseen_or_ends_the_work_is_left_as_it_is(
    supervise: Supervisor, error: BaseException
) -> None:
    with pytest.raises(type(error)) as caught, supervise("walk"):
        raise error
    assert caught.value is error


async def test_a_cancellation_that_was_not_asked_for_is_a_bug(supervise: Supervisor) -> None:
    """Of what the peer awaits: the loop would end without a word."""
    ended = asyncio.get_running_loop().create_future()
    ended.cancel()
    with pytest.raises(PeerBug) as caught, supervise("walk"):
        await ended
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)


async def test_a_task_that_is_to_end_ends_wherever_it_is(supervise: Supervisor) -> None:
    async def walk() -> None:
        with supervise("walk"):
            await asyncio.Event().wait()

    task = asyncio.create_task(walk())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await walk()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(walk(), 0.001)


def test_a_bug_while_sending_may_have_stored_the_events(supervise: Supervisor) -> None:
    with pytest.raises(PeerBug) as caught, supervise("send"):
        raise ValueError
    assert caught.value.sent


def test_each_bug_is_counted_and_logged_once_with_its_traceback(
    supervise: Supervisor, metrics: Metrics
) -> None:
    key, text = "key-0123456789abcdef", "dana@acme.example"
    scrubber.learn(Secret(key))
    with logged("info") as lines:
        for _ in range(3):
            with pytest.raises(PeerBug), supervise("read"):
                raise ValueError(f"not a number with {key}: {text!r}")
        with pytest.raises(PeerBug), supervise("read"):
            raise ValueError
        first, second = lines()
    assert (first["event"], first["level"]) == ("peer_bug_caught", "error")
    assert (first["peer"], first["crossing"]) == ("voice", "read")
    assert "Traceback (most recent call last):" in first["exception"]
    assert "ValueError: not a number with ***: '...'" in first["exception"]
    assert __file__ in first["exception"]
    assert "dana" not in first["exception"]
    assert key not in first["exception"]
    assert second["event"] == "peer_bug_caught"
    assert b'auditrelay_unforeseen_errors_total{peer="voice"} 4.0' in metrics.render()[0]


def test_its_message_names_the_place_and_nothing_that_the_exception_quotes(
    supervise: Supervisor,
) -> None:
    with pytest.raises(PeerBug) as caught, supervise("read"):
        raise ValueError("dana@acme.example")
    assert "test_supervisor.py:" in str(caught.value)
    assert "dana" not in str(caught.value)


class Large:
    """A reply that a peer held when its code failed."""


def test_a_bug_does_not_keep_what_the_peer_held(supervise: Supervisor) -> None:
    held: list[weakref.ref[Large]] = []

    def read() -> None:
        reply = Large()
        held.append(weakref.ref(reply))
        raise ValueError

    with logged("info"), pytest.raises(PeerBug) as caught, supervise("read"):
        read()
    gc.collect()
    assert held[0]() is None
    assert caught.value.__cause__ is not None


async def test_a_generator_is_supervised_and_closed(supervise: Supervisor) -> None:
    closed = []

    async def pages() -> AsyncGenerator[int, None]:
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    assert [page async for page in supervise.each("walk", pages)] == [1, 2]
    walk = supervise.each("walk", pages)
    assert await anext(walk) == 1
    await walk.aclose()
    assert closed == [True, True]


async def test_a_generator_fails_with_a_bug_wherever_it_fails(supervise: Supervisor) -> None:
    async def pages() -> AsyncGenerator[int, None]:
        yield 1
        next(iter(()))

    with pytest.raises(PeerBug, match="RuntimeError"):
        assert [page async for page in supervise.each("walk", pages)]


async def test_a_bug_in_what_a_peer_calls_back_is_not_its_own(supervise: Supervisor) -> None:
    async def known(_: bytes) -> bool:
        raise ZeroDivisionError

    called_by_peer = supervise.unsupervised(known)
    with pytest.raises(ZeroDivisionError), supervise("files"):
        await called_by_peer(b"key")


def test_a_peer_is_retried_after_a_minute_doubling_to_an_hour() -> None:
    delay = RetryDelay()
    assert [delay.next() for _ in range(8)] == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    delay.reset()
    assert delay.next() == 60


# --- the only one ---------------------------------------------------------------------------------


@cache
def nodes() -> list[tuple[str, ast.Call | ast.ExceptHandler]]:
    """Return what is called and what is caught in the code, each with its file."""
    return [
        (str(path.relative_to(SRC)), node)
        for path in sorted(SRC.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call | ast.ExceptHandler)
    ]


def handlers() -> Iterator[tuple[str, ast.ExceptHandler]]:
    for path, node in nodes():
        if isinstance(node, ast.ExceptHandler):
            yield path, node


def caught_by(handler: ast.ExceptHandler) -> set[str]:
    """Return the names that *handler* catches; a bare one catches BaseException."""
    if handler.type is None:
        return {"BaseException"}
    return {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}


def suppressed() -> Iterator[str]:
    for path, node in nodes():
        if not (isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress")):
            continue
        if {"Exception", "BaseException"} & {ast.unparse(each) for each in node.args}:
            yield path


def test_only_the_supervisor_handles_exception() -> None:
    assert {path for path, each in handlers() if "Exception" in caught_by(each)} == {
        "supervisor/__init__.py"
    }
    assert not list(suppressed())


def test_what_handles_every_exception_raises_it_again() -> None:
    """The writers' threads raise it in the caller."""
    silent = [
        path
        for path, each in handlers()
        if {"BaseException", "BaseExceptionGroup"} & caught_by(each)
        and not isinstance(each.body[-1], ast.Raise)
    ]
    assert set(silent) <= {"store/sqlite/writer.py", "store/postgres/writer.py"}


def test_a_bug_is_an_error_that_is_foreseen_from_there_on() -> None:
    assert issubclass(PeerBug, RelayError)
    assert PeerBug.reason == "bug"
