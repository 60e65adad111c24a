"""A state that several replicas share: how this one opens it, and what they share besides."""

import asyncio
import contextlib
import random
import socket
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

import psycopg
import structlog

from auditrelay import __version__
from auditrelay.clock import Clock
from auditrelay.config.model import Config
from auditrelay.errors import StateError
from auditrelay.evidence import facts
from auditrelay.evidence.heads import Keys, key_id
from auditrelay.service.configured import settings_of
from auditrelay.service.table_desk import TableDesk
from auditrelay.service.topology import units_of
from auditrelay.settings.secrets import SecretAddress
from auditrelay.store.leases import KEEPER
from auditrelay.store.parts import name_of
from auditrelay.store.postgres import copying, leases, schema
from auditrelay.store.postgres.address import Address
from auditrelay.store.postgres.connection import REQUEST, Connection
from auditrelay.store.postgres.engine import PostgresEngine
from auditrelay.store.postgres.errors import Kind, kind_of, translate
from auditrelay.store.postgres.leases import application_name
from auditrelay.store.postgres.link import LONGEST_WAIT, Link
from auditrelay.store.postgres.membership import PostgresMembership, PostgresRequests
from auditrelay.store.postgres.reader import ReaderThread
from auditrelay.store.postgres.tip import TipRow
from auditrelay.store.postgres.watch import Watch
from auditrelay.store.replicas import Card, Served, Situation
from auditrelay.store.sql.checks import check
from auditrelay.store.sql.store import SqlStore, open_on
from auditrelay.store.sql.view import StateView
from auditrelay.store.sqlite import state_dir
from auditrelay.store.sqlite.connection import Connection as SqliteConnection
from auditrelay.store.sqlite.tip import TipFile
from auditrelay.telemetry.metrics import Metrics

_FIRST_WAIT: Final = 0.5
"""Seconds at most between the first two attempts to reach the database; doubled each time."""

_COPYING: Final = 24 * 3600.0
"""Seconds that a copy of a state may take: it is one transaction."""

_PASSES: Final = (Kind.LOST, Kind.AGAIN)
"""What is waited for when a replica starts."""

_VIEW: Final = "auditrelay view"
"""The name of the sessions of commands that only read."""


_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Share:
    """
    The database that *config* names, for this process; first :meth:`prepare` it.

    *seat* is the lock that this process has, if it has one. With a *patience* (seconds) what the
    database does not answer fails after it.
    """

    def __init__(
        self,
        config: Config,
        clock: Clock,
        metrics: Metrics,
        *,
        seat: str | None,
        patience: float | None,
    ) -> None:
        self._config = config
        self._clock = clock
        self._seat = seat
        self._replica = uuid4()
        self._name = config.replica or socket.gethostname()
        self._address = address = Address(_address(config))
        self._patience = patience
        self._keys = config.evidence.keys
        self.engine = PostgresEngine(
            lambda: address.connect(application_name(self._replica)),
            address.schema,
            replica=self._replica,
            clock=clock,
            keys=self._keys,
            patience=patience,
            metrics=metrics,
        )

        def watch(what: str) -> Watch:
            return Watch(metrics, what, clock)

        self.membership = PostgresMembership(self._connect, self._replica, watch)
        self.requests = PostgresRequests(
            self._connect, lambda: application_name(self._replica), watch
        )
        self.desk = TableDesk(self.requests, name=self._name, clock=clock)

    async def prepare(self) -> None:
        """
        Make the tables if they are not there, as soon as the database can be reached.

        Raises StateError if it refuses us, or if it stays away for longer than we have patience.
        """
        began, wait, said = self._clock.monotonic(), _FIRST_WAIT, False
        while True:
            try:
                await asyncio.to_thread(self._create)
            except StateError as error:
                cause = error.__cause__
                is_over = (
                    self._patience is not None
                    and self._clock.monotonic() + wait - began > self._patience
                )
                may_pass = isinstance(cause, psycopg.Error) and kind_of(cause) in _PASSES
                if not may_pass or is_over:
                    raise
                if not said:
                    _log.warning("store_unreachable", reason=str(error))
                said = True
            else:
                return
            await self._clock.sleep(random.uniform(wait / 2, wait))  # noqa: S311  # no secret
            wait = min(2 * wait, LONGEST_WAIT)

    def _create(self) -> None:
        with contextlib.closing(self._connect(application_name(self._replica))) as db:
            schema.create(db)

    async def open_store(self) -> SqlStore:
        """Open the store. Raises StateError."""
        spool = self._config.spool
        store = await open_on(
            self.engine,
            clock=self._clock,
            max_bytes=spool.max_bytes,
            retention=spool.retention,
            remember=spool.remember,
        )
        self.membership.on_end = store.reaches
        return store

    def served(self, config: Config) -> Mapping[str, Served]:
        """Return how this replica serves each unit with *config*."""
        return served_by(config, self._name)

    def elsewhere(self, config: Config) -> Mapping[str, Sequence[str]]:
        """Return the sources of each sink of *config* that other replicas serve, and not this."""
        return {
            name: config.sources_of(name)
            for name, settings in config.sinks.items()
            if settings.enabled and not settings.may_be_served_by(self._name)
        }

    def card(self, serves: Mapping[str, Served], *, command: bool = False) -> Card:
        """Return what this replica, or one that runs one *command*, says of itself."""
        return Card(
            name=self._name,
            version=__version__,
            serves=serves,
            seat=self._seat,
            command=command,
            key="" if self._keys is None else key_id(self._keys.public),
        )

    def joined(self, replica: UUID) -> None:
        """Write as *replica* from now on."""
        if replica != self._replica:
            self._replica = replica
            self.engine.writer.continue_as(replica)

    async def close(self) -> None:
        """Finish what is being written, unless the database is away; close every connection."""
        await asyncio.to_thread(self.engine.close)
        await self.requests.close()
        await self.membership.close()

    def _connect(self, name: str) -> Connection:
        return _connected(self._address, name)


def _connected(
    address: Address, name: str, *, keys: Keys | None = None, limit: float = REQUEST
) -> Connection:
    """Return a connection, whose session has that *name*. Raises StateError."""
    try:
        raw = address.connect(name)
    except psycopg.Error as error:
        raise translate(error) from error
    return Connection(raw, address.schema, keys=keys, limit=limit)


def served_by(config: Config, replica: str) -> Mapping[str, Served]:
    """Return how the *replica* of that name serves each unit that it may serve, with *config*."""
    served = {KEEPER: Served("")}
    for unit in units_of(config):
        kind, name = unit.partition(" ")[0], name_of(unit)
        settings = config.sources[name] if kind == "source" else config.sinks[name]
        if not settings.may_be_served_by(replica):
            continue
        digest = sha256(facts.text(dict(settings_of(settings))).encode()).hexdigest()
        sources = tuple(config.sources_of(name)) if kind == "sink" else ()
        served[unit] = Served(digest, sources)
    return served


def open_view(store: SecretAddress, keys: Keys | None) -> StateView:
    """Open a view of the state at *store*. Raises StateError if there is none."""
    if not is_there(store):
        raise StateError(f"there is no state in {Address(store).safe} yet")
    return StateView(_snapshots(store, keys).snapshot)


def is_there(store: SecretAddress) -> bool:
    """Return whether there is a state at *store*. Raises StateError."""
    with _snapshots(store).snapshot() as db:
        return schema.is_there(db)


def tip_of(store: SecretAddress) -> TipRow:
    """Return the tip of the evidence at *store*."""
    return TipRow(_snapshots(store).snapshot)


def _snapshots(store: SecretAddress, keys: Keys | None = None) -> ReaderThread:
    address = Address(store)
    connect = partial(address.connect, _VIEW)
    return ReaderThread(
        lambda: Link(connect, address.schema, clock=Clock(), keys=keys, patience=0.0)
    )


def _address(config: Config) -> SecretAddress:
    if config.store is None:
        raise ValueError("the configuration names no shared store")
    return config.store


def remove(store: SecretAddress) -> None:
    """Remove the whole state at *store*: for a demonstration, which has made it. StateError."""
    address = Address(store)
    with contextlib.closing(_connected(address, _VIEW)) as db:
        schema.drop(db)


def situation_of(store: SecretAddress) -> Situation:
    """Return who works on the state at *store*. Raises StateError."""
    with _snapshots(store).snapshot() as db:
        return leases.situation(db, uuid4())


def copy_into(folder: Path, store: SecretAddress, keys: Keys | None) -> dict[str, int]:
    """
    Copy the state in *folder*, which is locked, to *store*, and compare what a check finds.

    The tip of the evidence is put there and taken away here: should the old state be served once
    more, its evidence goes on under another name. Raises StateError, with nothing changed.
    """
    address = Address(store)
    with (
        contextlib.closing(state_dir.connect(folder, write=True, keys=keys)) as origin,
        contextlib.closing(_connected(address, _VIEW, keys=keys, limit=_COPYING)) as db,
    ):
        schema.create(db)
        tip = TipRow(_snapshots(store).snapshot)
        try:
            db.begin(write=True)
            copied = _copied(origin, db, address.safe)
            if (head := TipFile(folder).read()) is not None:
                tip.enter(db, head)
            db.commit()
        except psycopg.Error as error:
            db.roll_back()
            raise translate(error) from error
        except BaseException:
            db.roll_back()
            raise
    TipFile(folder).remove()
    return copied


def _copied(origin: SqliteConnection, db: Connection, where: str) -> dict[str, int]:
    if not copying.is_empty(db):
        raise StateError(f"{where} has a state already; nothing was changed")
    copied = copying.copy(origin, db)
    if check(db) != check(origin):
        raise StateError(
            "a check of the copy finds something else than one of the original: nothing was "
            "copied; run: auditrelay coverage --check"
        )
    return copied
