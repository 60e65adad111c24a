"""The state that a configuration names: opened to work on it, or viewed by a command."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from auditrelay import __version__
from auditrelay.clock import Clock
from auditrelay.config.model import Config
from auditrelay.errors import Locked, StateError
from auditrelay.service.control_socket import ControlSocket
from auditrelay.service.desk import Desk
from auditrelay.service.store import Store
from auditrelay.store.replicas import Situation
from auditrelay.store.sql.engine import Tip
from auditrelay.store.sql.view import StateView
from auditrelay.store.sqlite import state_dir
from auditrelay.store.sqlite.store import open_store, open_view
from auditrelay.store.sqlite.tip import TipFile
from auditrelay.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from auditrelay.service.shared import Share

PATIENCE: Final = 60.0
"""Seconds that a run that has an end waits for a shared store that does not answer."""


@dataclass(frozen=True, slots=True)
class State:
    """
    The *store*, and the *desk* at which commands ask the instance that works on it.

    *share* is what the replicas share besides; None where there is one instance at a time.
    """

    store: Store
    desk: Desk
    share: "Share | None" = None


@contextlib.asynccontextmanager
async def opened(
    config: Config, clock: Clock, metrics: Metrics, *, has_end: bool
) -> AsyncIterator[State]:
    """
    Open the state of *config* for this instance, creating it if there is none.

    *metrics* are those of a shared store, if it is one.

    A run that *has_end* gives up after *PATIENCE* what a shared store does not answer; it needs no
    state directory then. Raises StateError if the state cannot be used, Locked if another instance
    has locked it.
    """
    if config.store is None:
        state_dir.prepare(config.state_dir)
        with state_dir.locked(config.state_dir, __version__, clock.now()):
            store = await open_store(
                config.state_dir,
                clock=clock,
                max_bytes=config.spool.max_bytes,
                retention=config.spool.retention,
                remember=config.spool.remember,
                keys=config.evidence.keys,
            )
            try:
                yield State(store, ControlSocket(config.state_dir))
            finally:
                await store.close()
        return
    from auditrelay.service.shared import Share  # noqa: PLC0415  # it imports psycopg

    # A command is a replica of its own, beside the one that has locked the state directory.
    with contextlib.nullcontext() if has_end else _seat(config, clock) as seat:
        share = Share(config, clock, metrics, seat=seat, patience=PATIENCE if has_end else None)
        try:
            await share.prepare()
            yield State(await share.open_store(), share.desk, share)
        finally:
            await share.close()


@contextlib.contextmanager
def _seat(config: Config, clock: Clock) -> Iterator[str | None]:
    """
    Lock the state directory for the block, if there is one, and yield what names the lock.

    The process that has the lock proves that an earlier replica with it is dead. Raises Locked.
    """
    with contextlib.ExitStack() as stack:
        try:
            state_dir.prepare(config.state_dir)
            stack.enter_context(state_dir.locked(config.state_dir, __version__, clock.now()))
            seat = state_dir.seat(config.state_dir)
        except Locked:
            raise
        except StateError:  # no volume is needed
            seat = None
        yield seat


def view_of(config: Config, *, tags: bool = False) -> StateView:
    """Open a view of the state of *config*; it compares the *tags* as well. Raises StateError."""
    keys = config.evidence.keys if tags else None
    if config.store is None:
        return open_view(config.state_dir, keys)
    from auditrelay.service import shared  # noqa: PLC0415  # it imports psycopg

    return shared.open_view(config.store, keys)


def is_there(config: Config) -> bool:
    """Return whether there is a state of *config*. Raises StateError if that cannot be seen."""
    if config.store is None:
        return state_dir.is_there(config.state_dir)
    from auditrelay.service import shared  # noqa: PLC0415  # it imports psycopg

    return shared.is_there(config.store)


def tip_of(config: Config) -> Tip:
    """Return the tip of the evidence of *config*."""
    if config.store is None:
        return TipFile(config.state_dir)
    from auditrelay.service import shared  # noqa: PLC0415  # it imports psycopg

    return shared.tip_of(config.store)


def situation_of(config: Config) -> Situation | None:
    """Return who works on the shared store of *config*; None if it names none. StateError."""
    if config.store is None:
        return None
    from auditrelay.service import shared  # noqa: PLC0415  # it imports psycopg

    return shared.situation_of(config.store)
