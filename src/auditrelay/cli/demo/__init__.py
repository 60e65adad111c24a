"""
``auditrelay demo``: the real daemon against the built-in sandbox, with injected faults.

The doubles of the vendors and of the SIEMs run in this process; the daemon is a child process
with a configuration and a state directory of its own, so that it can be killed like a real one.
At the end the doubles' own records are compared: the events made, and those that each SIEM stored.

With ``--kill-every`` it is a crash test instead: see ``crashes``. With ``--vendor`` the vendors are
those that are named, each feed of one that is described in a file by the double of its description.
"""

import asyncio
import contextlib
import itertools
import random
import shutil
import signal
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from auditrelay.cli.completion import names
from auditrelay.cli.demo.child import Fleet
from auditrelay.cli.demo.crashes import Crashes, print_reckoning
from auditrelay.cli.demo.view import View, accounts, print_counts
from auditrelay.errors import ConfigError
from auditrelay.sandbox import Sandbox, Vendor, available_vendors, faults, usual_vendors
from auditrelay.settings.secrets import SecretAddress
from auditrelay.settings.values import parse_duration
from auditrelay.settings.wording import suggestion
from auditrelay.store.postgres.address import check_address

_WITH_SESSION = frozenset({"cencori"})
"""A session that the vendor renews is not kept in a shared store."""

_PAST_EVENTS = 2000
_EVENTS_A_SECOND = 20
_LATE_SHARE = 0.01
_LATE_BY = timedelta(seconds=6)
_CATCH_UP = 60.0
"""Most seconds to wait at the end until everything has arrived."""


def demo(  # noqa: PLR0917  # the shape of typer's commands
    duration: Annotated[
        str, typer.Option(metavar="DURATION", help="How long to make events, such as 30s or 10m.")
    ] = "20s",
    kill_every: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="A crash test: kill the daemon (SIGKILL) about so often, and nothing else.",
        ),
    ] = None,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where the daemon keeps its state: an empty folder on the disk to be judged. It "
            "is emptied again if nothing was lost.",
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="A PostgreSQL for the state, without one yet; it is removed again if nothing was "
            "lost.",
        ),
    ] = None,
    replicas: Annotated[
        int, typer.Option(metavar="N", min=1, max=20, help="So many daemons share the store.")
    ] = 1,
    vendor: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Show this vendor, such as okta, instead of the usual five; repeatable.",
            autocompletion=names(available_vendors),
        ),
    ] = None,
) -> None:
    """Run everything against the built-in sandbox: no credentials, nothing left behind."""
    length = _duration("--duration", duration)
    every = None if kill_every is None else _duration("--kill-every", kill_every)
    if every is not None and not every:
        raise ConfigError("--kill-every: must be more than 0")
    for name in vendor or ():
        if name not in (known := available_vendors()):
            hint = suggestion(name, known) or ": see `auditrelay description list`"
            raise ConfigError(f"--vendor {name}: there is no such vendor{hint}")
    with _state(state_dir, store, replicas) as state:
        with tempfile.TemporaryDirectory(prefix="auditrelay-demo-") as folder:
            own = Path(folder, "state") if state is None else state
            good = asyncio.run(
                _demo(vendor, length, every, Path(folder), own, store=store, replicas=replicas)
            )
        if not good:
            raise typer.Exit(1)


@contextlib.contextmanager
def _state(state_dir: Path | None, store: str | None, replicas: int) -> Iterator[Path | None]:
    """
    Yield the folder for the state, if one is named.

    If all goes well, it and the *store* are emptied again, else they are left as they are. Raises
    ConfigError if there is a state in them.
    """
    if store is None and replicas > 1:
        raise ConfigError("--replicas: several daemons need a store that they share: --store URL")
    folder = None if state_dir is None else _empty(state_dir)
    address = None if store is None else _new(store)
    try:
        yield folder
    except typer.Exit:
        where = "the store" if address is not None else folder
        if where is not None:
            typer.echo(f"The state is left in {where}.")
        raise
    if address is not None:
        from auditrelay.service import shared  # noqa: PLC0415  # it imports psycopg

        shared.remove(address)
    for path in () if folder is None else folder.iterdir():
        path.unlink() if not path.is_dir() else shutil.rmtree(path)


def _duration(option: str, text: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from error


def _empty(state_dir: Path) -> Path:
    """Return *state_dir*, created if it is not there. Raises ConfigError unless it is empty."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        if any(state_dir.iterdir()):
            raise ConfigError(f"--state-dir: {state_dir} is not empty; name an empty folder")
    except OSError as error:
        raise ConfigError(f"--state-dir: {state_dir}: {error.strerror}") from error
    return state_dir.resolve()


def _new(store: str) -> SecretAddress:
    """Return the address *store*. Raises ConfigError unless it is of a database without a state."""
    from auditrelay.service import shared  # noqa: PLC0415  # as above

    try:
        address = SecretAddress(store)
        check_address(address)
    except ValueError as error:
        raise ConfigError(f"--store: {error}") from error
    if shared.is_there(address):
        raise ConfigError(
            "--store: there is a state in it; name another database, or add ?schema=demo"
        )
    return address


async def _demo(
    vendors: Sequence[str] | None,
    length: timedelta,
    every: timedelta | None,
    folder: Path,
    state: Path,
    *,
    store: str | None,
    replicas: int,
) -> bool:
    """Play *vendors* for *length*; return whether all is well at the end."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if store is not None and not vendors:
        vendors = [name for name in usual_vendors() if name not in _WITH_SESSION]
    async with Sandbox(only=vendors) as sandbox:
        view = View(sandbox)
        fleet = Fleet(folder, state, sandbox, view.logged, store=store, count=replicas)
        crashes = None if every is None else Crashes(fleet, sandbox, view, every)
        _fill(sandbox)
        async with _running(fleet, view):
            if crashes is None:
                injections = deque(_injections(sandbox, fleet, view))
                await _story(sandbox, injections, length, stop)
            else:
                async with crashes:
                    await _story(sandbox, deque(), length, stop)
            await _caught_up(sandbox, view)
        print_counts(sandbox, view)
        lost = sum(row.missing for row in accounts(sandbox, view))
        typer.echo("Nothing is lost." if not lost else f"LOST: {lost} events did not arrive.")
        return not lost if crashes is None else await print_reckoning(crashes, lost)


@contextlib.asynccontextmanager
async def _running(fleet: Fleet, view: View) -> AsyncIterator[None]:
    try:
        await fleet.start()
        view.announce(f"the status page is at {view.address}")
        async with view:
            yield
    finally:
        await fleet.stop()


def _fill(sandbox: Sandbox) -> None:
    """Make events of the past: before anything polls, or they would have come too late."""
    now = datetime.now(UTC)
    vendors = list(sandbox.vendors.values())
    for vendor in vendors:
        vendor.fill(_PAST_EVENTS // len(vendors), now - timedelta(minutes=55), now)


async def _story(
    sandbox: Sandbox,
    injections: deque[Callable[[], Any]],
    length: timedelta,
    stop: asyncio.Event,
) -> None:
    """Make events for *length* or until *stop*, and in between do what *injections* do."""
    vendors = list(sandbox.vendors.values())
    between = length / (len(injections) + 1)
    rng = random.Random(7)  # noqa: S311  # a demonstration, not a secret
    began = time.monotonic()
    due = between.total_seconds()
    for vendor in itertools.cycle(vendors):
        passed = time.monotonic() - began
        if passed >= length.total_seconds() or stop.is_set():
            return
        now = datetime.now(UTC)
        late = rng.random() < _LATE_SHARE
        vendor.add(now, visible_from=now + _LATE_BY if late else None)
        if injections and passed >= due:
            due += between.total_seconds()
            await injections.popleft()()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 1 / _EVENTS_A_SECOND)


def _injections(sandbox: Sandbox, fleet: Fleet, view: View) -> Iterator[Callable[[], Any]]:
    def of_vendors(count: int) -> Callable[[], Any]:
        """Let the next *count* vendors fail, each in the next way."""

        async def fail() -> None:
            for name, vendor in itertools.islice(vendors, count):
                text, *actions = next(ways)
                view.announce(f"{name} {text}")
                for action in actions:
                    vendor.faults.add(action)

        return fail

    vendors: Iterator[tuple[str, Vendor]] = itertools.cycle(sandbox.vendors.items())
    ways: Iterator[tuple[Any, ...]] = itertools.cycle(
        (
            ("answers 429 with Retry-After: 2", faults.too_many(retry_after=2)),
            (
                "answers half a page, then HTML with status 200",
                faults.truncated(),
                faults.html(200),
            ),
            ("breaks two connections instead of answering", faults.reset(), faults.reset()),
            ("answers 503, then a body that is not JSON", faults.html(503), faults.empty()),
            ("answers with a redirect to another host", faults.redirect("http://127.0.0.1:9")),
        )
    )

    async def refuse_items() -> None:
        view.announce("Elasticsearch rejects one event permanently and one temporarily")
        sandbox.elastic.fail_items(400, kind="document_parsing_exception", reason="a demonstration")
        sandbox.elastic.fail_items(429)

    async def be_down() -> None:
        view.announce("Splunk is down: 503 with an HTML page, three times")
        sandbox.splunk.faults.add(faults.html(503), method="POST", times=3)

    async def kill() -> None:
        view.announce("the daemon is killed (SIGKILL) and started again")
        daemon = fleet.daemons[0]
        await daemon.kill()
        await daemon.start()

    async def lose_reply() -> None:
        view.announce("Datadog stores a batch, and the connection breaks before it answers")
        sandbox.datadog.faults.add(faults.store_then_reset(), method="POST")

    half = max(2, len(sandbox.vendors) // 2)  # a vendor alone fails in several ways
    yield of_vendors(half)
    yield from (refuse_items, be_down, kill, lose_reply)
    yield of_vendors(max(3, len(sandbox.vendors) - half))


async def _caught_up(sandbox: Sandbox, view: View) -> None:
    """Wait until every intake has everything, or for _CATCH_UP."""
    view.announce("no more events are made; waiting for the backlog and late events")
    deadline = time.monotonic() + _CATCH_UP
    await view.count_dead_letters()
    while time.monotonic() < deadline and any(row.missing for row in accounts(sandbox, view)):
        await asyncio.sleep(0.2)
        await view.count_dead_letters()
