"""
States on either engine: in a folder (SQLite), and in a database (PostgreSQL).

A test with the fixture ``state`` runs on both, or on those that ``ENGINES`` names; with PostgreSQL
it is marked ``process``. Both do the same for it, so it says nothing of files or tables' types.
"""

import asyncio
import contextlib
import itertools
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal, Protocol
from uuid import uuid4

import psycopg
import pytest
from tests.support.extent import some_of
from tests.support.postgres import Server
from tests.support.shared_state import SCHEMA, connected, link, make_schema, raw

from auditrelay.clock import Clock
from auditrelay.evidence.heads import Head, Keys
from auditrelay.store.postgres.connection import quoted
from auditrelay.store.postgres.engine import PostgresEngine
from auditrelay.store.postgres.reader import ReaderThread
from auditrelay.store.postgres.tip import TIP as TIP_ROW
from auditrelay.store.postgres.tip import TipRow
from auditrelay.store.postgres.writer import Writer as PostgresWriter
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.engine import Engine as StoreEngine
from auditrelay.store.sql.engine import Tip
from auditrelay.store.sql.store import SqlStore, open_on
from auditrelay.store.sql.view import StateView
from auditrelay.store.sqlite import connection as sqlite_connection
from auditrelay.store.sqlite import state_dir
from auditrelay.store.sqlite.engine import SqliteEngine
from auditrelay.store.sqlite.store import open_view
from auditrelay.store.sqlite.tip import TipFile
from auditrelay.store.sqlite.writer import Writer as SqliteWriter

Engine = Literal["sqlite", "postgres"]

_CHOSEN: Final = os.environ.get("ENGINES", "sqlite,postgres").split(",")

_MARKS: Final[dict[Engine, list[Any]]] = {"sqlite": [], "postgres": [pytest.mark.process]}

ENGINES: Final = [pytest.param(name, marks=_MARKS[name]) for name in _MARKS if name in _CHOSEN]
"""The engines that are tried, as values of a parameter."""


def on_each(cases: Iterable[Any], *, every: int) -> list[Any]:
    """
    Return *cases*, each one or more values of parameters, with each engine before them.

    With PostgreSQL it is each *every*-th of them, unless everything is tried.
    """
    listed = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [
        pytest.param(engine, *case, marks=marks)
        for engine, marks in _MARKS.items()
        if engine in _CHOSEN
        for case in (listed if engine == "sqlite" else some_of(listed, every))
    ]


GUARDED: Final = (sqlite3.IntegrityError, psycopg.errors.RaiseException)
"""What an engine raises where something that is sealed is changed."""

on_sqlite: Final = pytest.mark.parametrize("state", ["sqlite"], indirect=True)
"""Marks a test with the fixture ``state`` of what there is on SQLite alone."""

on_postgres: Final = pytest.mark.parametrize(
    "state", [pytest.param("postgres", marks=pytest.mark.process)], indirect=True
)
"""Marks one of what there is on PostgreSQL alone."""


class State(Protocol):
    """One state, of which several stores may be open."""

    @property
    def engine(self) -> Engine:
        """Which engine it is on."""

    @property
    def writer(self) -> type[Any]:
        """The class whose ``write`` and ``_commit`` all writes go through."""

    def open_engine(self, *, clock: Clock, keys: Keys | None) -> StoreEngine:
        """Open its engine; it blocks."""

    def view(self, keys: Keys | None = None) -> StateView:
        """Open a view, as commands do."""

    @property
    def tip(self) -> Tip:
        """The tip of its evidence."""

    def put_tip(self, head: Head | None) -> None:
        """Replace the tip; None takes it away."""

    def raw(self) -> AbstractContextManager[Connection]:
        """Begin a transaction to read and write as no code of ours does, and commit it."""

    def unguard(self) -> None:
        """Take away what keeps entries and heads from being changed."""

    def copy(self) -> "State":
        """Copy what is durable now, with the tip, as to a machine that is taken for this one."""

    def back_up(self) -> "State":
        """Copy what is durable now as the docs say: to go on there is to go on from a backup."""

    def put_back(self, saved: "State", *, tip: bool = False) -> None:
        """
        Replace this state, which is not open, by a copy of the one that was *saved*.

        Its *tip* comes with it only if that is so.
        """

    def left(self) -> "State":
        """Return what a kill leaves now, provided that nothing is written any more."""

    def go_on_with(self, left: "State") -> None:
        """Have nothing but what is *left*; the state is not open."""

    async def fill_up(self, store: SqlStore) -> None:
        """Leave no room for another page on the disk, to *store* on it."""

    async def clear(self, store: SqlStore) -> None:
        """Let there be room again."""

    def forget(self) -> None:
        """Remove it alone."""

    def drop(self) -> None:
        """Remove it, with all copies that are in databases: a folder goes with its parent."""


class InFolder:
    """A state in *folder*, on SQLite."""

    engine: Final = "sqlite"
    writer: Final = SqliteWriter

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._copies = itertools.count(1)

    def open_engine(self, *, clock: Clock, keys: Keys | None) -> StoreEngine:
        """See State."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        return SqliteEngine(self.folder, keys)

    def view(self, keys: Keys | None = None) -> StateView:
        """See State."""
        return open_view(self.folder, keys)

    @property
    def tip(self) -> Tip:
        """See State."""
        return TipFile(self.folder)

    def put_tip(self, head: Head | None) -> None:
        """See State."""
        tip = TipFile(self.folder)
        tip.remove() if head is None else tip.write(head)

    @contextlib.contextmanager
    def raw(self) -> Iterator[Connection]:
        """See State."""
        path = self.folder / state_dir.DATABASE
        with contextlib.closing(sqlite3.connect(path, factory=sqlite_connection.Connection)) as db:
            yield db
            db.commit()

    def unguard(self) -> None:
        """See State."""
        with self.raw() as db:
            for (trigger,) in db.execute("select name from sqlite_master where type = 'trigger'"):
                db.execute(f"drop trigger {trigger}")

    def copy(self) -> "InFolder":
        """See State."""
        to = self._next()
        # The shared memory is that of the processes that have it open; the reserve is made again.
        shutil.copytree(
            self.folder, to.folder, ignore=shutil.ignore_patterns("*-shm", "ballast", "lock")
        )
        return to

    def back_up(self) -> "InFolder":
        """See State: the database alone."""
        to = self._next()
        to.folder.mkdir(mode=0o700)
        with (
            contextlib.closing(sqlite3.connect(self.folder / state_dir.DATABASE)) as source,
            contextlib.closing(sqlite3.connect(to.folder / state_dir.DATABASE)) as target,
        ):
            source.backup(target)
        return to

    def put_back(self, saved: State, *, tip: bool = False) -> None:
        """See State: nothing of the old folder remains."""
        self.go_on_with(saved.copy() if tip else saved.back_up())

    def left(self) -> "InFolder":
        """See State: a copy, as what closes the state still writes to its files."""
        return self.copy()

    def go_on_with(self, left: State) -> None:
        """See State."""
        assert isinstance(left, InFolder)
        shutil.rmtree(self.folder, ignore_errors=True)
        left.folder.rename(self.folder)

    async def fill_up(self, store: SqlStore) -> None:
        """See State."""
        await _limit(store, "(select page_count from pragma_page_count)")

    async def clear(self, store: SqlStore) -> None:
        """See State."""
        await _limit(store, "1 << 30")

    def forget(self) -> None:
        """See State."""
        self.drop()

    def drop(self) -> None:
        """See State."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _next(self) -> "InFolder":
        name = f"{self.folder.name}.{next(self._copies)}"
        return InFolder(self.folder.with_name(name))


async def _limit(store: SqlStore, pages: str) -> None:
    """Let the file of *store* have no more than so many *pages*."""

    def limit(db: Connection) -> None:
        (most,) = db.execute(f"select {pages}").fetchone()
        db.execute(f"pragma max_page_count = {most}")

    await store._engine.write(limit)


_GROWING: Final = ("spool", "known", "dead_letter", "entry")
_NO_ROOM: Final = """
create or replace function no_room() returns trigger language plpgsql as $$
begin
    raise exception using errcode = '53100', message = 'could not extend file: No space left';
end $$
"""


class InDatabase:
    """A state in the database *name* of *server*: a new one if none is named."""

    engine: Final = "postgres"
    writer: Final = PostgresWriter

    def __init__(
        self, server: Server, name: str | None = None, family: set[str] | None = None
    ) -> None:
        self.server = server
        self.name = name or server.create(make_schema)
        self.family = set() if family is None else family
        """The databases of all that were copied from each other, for :meth:`drop`."""
        self.family.add(self.name)

    @property
    def url(self) -> str:
        """The URL of the database."""
        return self.server.address(self.name)

    def open_engine(self, *, clock: Clock, keys: Keys | None) -> StoreEngine:
        """See State."""
        url = self.url
        return PostgresEngine(lambda: raw(url), SCHEMA, replica=uuid4(), clock=clock, keys=keys)

    def view(self, keys: Keys | None = None) -> StateView:
        """See State."""
        url = self.url
        return StateView(ReaderThread(lambda: link(url, patience=0.0, keys=keys)).snapshot)

    @property
    def tip(self) -> Tip:
        """See State."""
        url = self.url
        return TipRow(ReaderThread(lambda: link(url, patience=0.0)).snapshot)

    def put_tip(self, head: Head | None) -> None:
        """See State."""
        with self.raw() as db:
            if head is None:
                db.execute("delete from meta_text where name = ?", (TIP_ROW,))
            else:
                TipRow(self.raw).enter(db, head)

    @contextlib.contextmanager
    def raw(self) -> Iterator[Connection]:
        """See State."""
        with connected(self.url) as db:
            db.begin(write=True, alone=False)
            yield _Translated(db)
            db.commit()

    def unguard(self) -> None:
        """See State."""
        with self.raw() as db:
            for table in ("entry", "head"):
                db.execute(f"alter table {table} disable trigger user")

    def copy(self) -> "InDatabase":
        """See State."""
        to = self.back_up()
        with to.raw() as db:
            # To the tip it is the same database.
            db.execute(
                "update meta_text set value = regexp_replace(value, '[0-9]+$', (select oid::text "
                "from pg_database where datname = current_database())) where name = ?",
                (TIP_ROW,),
            )
        return to

    def back_up(self) -> "InDatabase":
        """See State: a copy is another database."""
        self._end_sessions()
        return InDatabase(self.server, self.server.copy(self.name), self.family)

    def put_back(self, saved: State, *, tip: bool = False) -> None:
        """See State."""
        self.go_on_with(saved.copy() if tip else saved.back_up())

    def left(self) -> "InDatabase":
        """See State: what is committed is there already."""
        return self

    def go_on_with(self, left: State) -> None:
        """See State."""
        assert isinstance(left, InDatabase)
        if left is not self:
            self.server.drop(self.name)
            self.name = left.name

    def roll_back(self, saved: "InDatabase") -> None:
        """
        Make this database what it was when it was *saved*, as a failover that loses a tail does.

        What is connected with it has to connect again.
        """
        ((oid,),) = self.server.execute(
            "select oid from pg_database where datname = %s", (self.name,)
        )
        self.server.drop(self.name)
        self.server.execute(
            f"create database {quoted(self.name)} template {quoted(saved.name)} "
            f"strategy file_copy oid {oid}"
        )

    async def fill_up(self, store: SqlStore) -> None:  # all of them
        """See State: what is inserted finds no room, what is updated in place may."""
        with self.raw() as db:
            db.execute(_NO_ROOM)
            for table in _GROWING:
                db.execute(
                    f"create trigger full_disk before insert on {table} "
                    "for each row execute function no_room()"
                )

    async def clear(self, store: SqlStore) -> None:
        """See State."""
        with self.raw() as db:
            for table in _GROWING:
                db.execute(f"drop trigger if exists full_disk on {table}")

    def forget(self) -> None:
        """See State."""
        self.server.drop(self.name)
        self.family.discard(self.name)

    def drop(self) -> None:
        """See State."""
        for name in self.family:
            self.server.drop(name)

    def _end_sessions(self) -> None:
        """A database that is copied has no connections; a store makes others when it needs them."""
        self.server.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s",
            (self.name,),
        )


class _Translated:
    """A connection to PostgreSQL that runs the few words of SQLite that tests forge with."""

    _WORDS: Final = (
        (re.compile(r"zeroblob\((\d+)\)"), r"decode(repeat('00', \1), 'hex')"),
        (re.compile(r"\bx'([0-9a-f]*)'"), r"decode('\1', 'hex')"),
        (re.compile(r" as blob\)"), " as bytea)"),
    )
    _TABLES: Final = {"meta_text": ("log", "broken", "configured"), "meta_bytes": ("frontier",)}

    def __init__(self, db: Any) -> None:
        self._db = db
        self.keys = db.keys
        self.dialect = db.dialect

    def execute(self, sql: str, values: Any = (), /) -> Any:
        """Run one statement, and look at what comes of it."""
        for words, ours in self._WORDS:
            sql = words.sub(ours, sql)
        for table, names in self._TABLES.items():
            if any(f"'{name}'" in sql for name in names):
                sql = re.sub(r"\bmeta\b", table, sql)
        cursor = self._db.execute(sql, values)
        cursor.rowcount  # noqa: B018  # an error of it is raised here
        return cursor

    def stream(self, sql: str, values: Any = (), /) -> Iterator[Any]:
        """Yield the rows that *sql* finds."""
        return iter(self.execute(sql, values))

    def executemany(self, sql: str, rows: Any, /) -> None:
        """Run one statement with each of *rows*."""
        self._db.executemany(sql, rows)


def state_in(where: State | Path) -> State:
    """Return the state *where* it is; in a folder it is on SQLite."""
    return InFolder(where) if isinstance(where, Path) else where


async def open_state(
    where: State | Path,
    *,
    clock: Clock,
    max_bytes: int = 1 << 30,
    retention: timedelta = timedelta(days=7),
    remember: timedelta = timedelta(days=400),
    keys: Keys | None = None,
) -> SqlStore:
    """Open a store on the state *where* it is."""
    engine = await asyncio.to_thread(state_in(where).open_engine, clock=clock, keys=keys)
    try:
        return await open_on(
            engine, clock=clock, max_bytes=max_bytes, retention=retention, remember=remember
        )
    except BaseException:
        await asyncio.to_thread(engine.close)
        raise


def rows(where: State | Path, query: str, *values: object) -> list[Any]:
    """Return what *query* finds in the state."""
    with state_in(where).raw() as db:
        return db.execute(query, values).fetchall()


def forge(where: State | Path, *statements: str) -> None:
    """Do what no code of ours does: change even what is sealed."""
    state = state_in(where)
    state.unguard()
    with state.raw() as db:
        for statement in statements:
            db.execute(statement)


def maker(engine: Engine, request: pytest.FixtureRequest) -> Callable[[Path], State]:
    """Return what makes a state on *engine*; only one on SQLite is in the folder that is given."""
    if engine == "sqlite":
        return InFolder
    server: Server = request.getfixturevalue("postgres")
    return lambda _: InDatabase(server)


@pytest.fixture(params=ENGINES)
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[State]:
    """A new state, on each engine."""
    made = maker(request.param, request)(tmp_path / "state")
    yield made
    made.drop()
