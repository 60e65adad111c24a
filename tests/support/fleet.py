"""
Several daemons on one database, and what is true of them at the end, whatever happened.

Nothing is lost; Elasticsearch, which recognises an event by its uid, stores each once; the other
two get again at most what was in flight; and no two replicas ever sent to one sink at a time. That
is asserted of what the doubles were sent by whom, and of the history of the table of leases.
"""

import asyncio
import itertools
import signal
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from tests.replicas.launch import SHORT, Fault, Launch
from tests.support.daemon import (
    Daemon,
    Table,
    configure,
    eventually,
    intakes,
    missing,
    sinks,
    sources,
)
from tests.support.postgres import Server
from tests.support.processes import SPEED
from tests.support.shared_state import SCHEMA, make_schema, raw
from tests.support.wire import Wire

from auditrelay.sandbox import Sandbox, faults
from auditrelay.settings.reserved import ALERTS
from auditrelay.store.parts import part_of, peer_of, sink_units
from auditrelay.store.replicas import LIFE

BATCH = 5
CONCURRENCY = 2
BOUND = BATCH * CONCURRENCY
"""How much a sink that cannot tell may get again at a forced takeover."""

_SENDS = ("/services/collector/event", "/services/collector", "/api/v2/logs", "/_bulk")
"""The ends of the paths to which a sink sends events."""

_LATE = 1.0
"""Seconds from when a replica begins to send until a double, on a busy machine, takes note."""

_HISTORY = """
create schema test;
create table test.held (at timestamptz not null, unit text not null, epoch bigint not null,
    token uuid, holder uuid);
create table test.named (id uuid primary key, name text not null);
create function test.held() returns trigger language plpgsql as $$
begin
    if tg_op = 'INSERT' or new.token is distinct from old.token then
        insert into test.held
        values (clock_timestamp(), new.unit, new.epoch, new.token, new.holder);
    end if;
    return null;
end $$;
create function test.named() returns trigger language plpgsql as $$
begin
    insert into test.named values (new.id, new.name) on conflict do nothing;
    return null;
end $$;
create table test.wrote (at timestamptz not null, unit text not null, session text not null);
create function test.wrote() returns trigger language plpgsql as $$
begin
    insert into test.wrote select clock_timestamp(),
        case when tg_table_name = 'sink' then 'sink ' || (to_jsonb(new) ->> 'name')
            else (select 'source ' || name from auditrelay.source
                where id = (to_jsonb(new) ->> 'source')::bigint) end,
        current_setting('application_name');
    return null;
end $$;
create trigger wrote after insert on auditrelay.spool
    for each row execute function test.wrote();
create trigger wrote after insert or update on auditrelay.coverage
    for each row execute function test.wrote();
create trigger wrote after update on auditrelay.sink
    for each row when (old.position <> new.position or old.ahead <> new.ahead)
    execute function test.wrote();
create trigger held after insert or update on auditrelay.lease
    for each row execute function test.held();
create trigger named after insert on auditrelay.replica
    for each row execute function test.named();
"""


def prepare_state(url: str) -> None:
    """Make the tables in the database at *url*, and what keeps the history of the leases."""
    make_schema(url)
    with raw(url) as connection:
        connection.execute(_HISTORY.encode())


@dataclass(frozen=True)
class Held:
    """The replica called *name* had a unit from one time to another, in seconds."""

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class Leased:
    """Who has a unit now: its token, and the id and the name of the replica."""

    token: UUID | None
    holder: UUID | None
    name: str | None


class Fleet:
    """
    Replicas against *sandbox* on the state in the database at *address*.

    Those that are started live for *life* seconds after a beat.
    """

    def __init__(
        self, sandbox: Sandbox, folder: Path, address: str, *, life: float = SHORT
    ) -> None:
        self.sandbox = sandbox
        self.address = address
        self.daemons: dict[str, Daemon] = {}
        self.killed = 0
        """How often a replica ended or stood still without a word: so often is the bound."""
        self._folder = folder
        self._session: psycopg.Connection[Any] | None = None
        self.life = life

    # -- replicas ----------------------------------------------------------------------------------

    def settings(self, *, parts: int = 1, **changes: Any) -> tuple[Table, Table]:
        """Return the tables of sources and sinks, these in *parts*: small pages, small batches."""
        small = {"batch_events": BATCH, "concurrency": CONCURRENCY, "linger": "0s"}
        return (
            sources(self.sandbox, **{"page_size": 4, **changes}),
            sinks(self.sandbox, **small, **({} if parts == 1 else {"parts": parts})),
        )

    def config(
        self,
        name: str,
        *,
        through: Wire | None = None,
        tables: tuple[Table, Table] | None = None,
        **top: Any,
    ) -> Path:
        """Write the configuration of the replica *name*, which reaches the database *through*."""
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        store = self.address if through is None else through.through(self.address)
        return configure(
            folder,
            *(self.settings() if tables is None else tables),
            **{"store": store, "replica": name, **top},
        )

    def daemon(self, name: str, *, fault: Fault | None = None, **config: Any) -> Daemon:
        """Return the replica *name*, which is not started yet."""
        self.daemons[name] = daemon = Daemon(
            self.config(name, **config),
            fault=Launch(name, self.life, fault),
            speed=SPEED if self.life < LIFE else 1.0,
        )
        return daemon

    async def start(self, *names: str, **options: Any) -> list[Daemon]:
        """Start the replicas *names*, and wait until each has joined and runs what it was given."""
        daemons = [self.daemon(name, **options) for name in names]
        for daemon in daemons:
            await daemon.start()
        for daemon in daemons:
            await self.joined(daemon)
        return daemons

    async def joined(self, daemon: Daemon) -> None:
        """Wait until *daemon* has joined and runs what it was given."""

        async def has_joined() -> bool:
            return (await daemon.get("/joined")).status_code == 200

        await eventually(has_joined, what="joined")

    async def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End the replica *name* without a word."""
        self.killed += 1
        await self.daemons[name].end(number)

    def freeze(self, name: str) -> None:
        """Let the replica *name* stand still."""
        self.killed += 1
        self.daemons[name].process.send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Let the replica *name* go on."""
        self.daemons[name].process.send_signal(signal.SIGCONT)

    # -- what is in the database -------------------------------------------------------------------

    def rows(self, sql: str, *parameters: object) -> list[Any]:
        """
        Return what *sql* finds in the state.

        Waits ask some dozen times a second, so they have a session; it ends with the server.
        """
        try:
            return self._found(sql, parameters)
        except psycopg.OperationalError:
            if self._session is None or not self._session.broken:
                raise
            self.leave()
            return self._found(sql, parameters)

    def _found(self, sql: str, parameters: tuple[object, ...]) -> list[Any]:
        if self._session is None:
            self._session = raw(self.address)
            self._session.execute(f"set search_path to {SCHEMA}".encode())
        found = self._session.execute(sql.encode(), parameters)
        return found.fetchall() if found.description else []

    def leave(self) -> None:
        """End the session of :meth:`rows`; the next one begins another."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def leases(self) -> dict[str, Leased]:
        """Return who has which unit."""
        found = self.rows(
            "select unit, token, holder, name from lease left join test.named on id = holder"
        )
        return {unit: Leased(*row) for unit, *row in found}

    def units(self, name: str) -> list[str]:
        """Return what the replica *name* holds."""
        return [unit for unit, leased in self.leases().items() if leased.name == name]

    def apart(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return options for two replicas: one reads what the other delivers to two sinks."""
        sources, sinks = self.settings()
        others, _ = self.settings(of=["jitsudo"])
        off = {"enabled": False}
        reading = (
            sources,
            {name: sink if name == "splunk" else {**sink, **off} for name, sink in sinks.items()},
        )
        delivering = (
            {**{name: {**source, **off} for name, source in sources.items()}, **others},
            {name: sink for name, sink in sinks.items() if name != "splunk"},
        )
        return {"tables": reading}, {"tables": delivering}

    async def parted(self, *by: str, parts: int) -> None:
        """Wait until the sinks are held in so many parts, by the replicas *by* and each of them."""
        wanted = {unit for sink in self.sandbox.siems for unit in sink_units(sink, parts)}

        def is_so() -> bool:
            held = {
                unit: leased.name
                for unit, leased in self.leases().items()
                if unit.startswith("sink ") and leased.name is not None
            }
            return held.keys() == wanted and set(held.values()) == set(by)

        await eventually(is_so, within=60, what=f"{' and '.join(by)} hold {parts} parts")

    async def held(self, *by: str, within: float = 60.0) -> None:
        """Wait until every unit is held by one of the replicas *by*."""

        def all_held() -> bool:
            leases = self.leases().values()
            return bool(leases) and all(leased.name in by for leased in leases)

        await eventually(all_held, within=within, what=f"all is held by {' or '.join(by)}")

    def history(self) -> dict[str, list[Held]]:
        """Return by unit who held it, in order."""
        changes: defaultdict[str, list[tuple[float, str | None]]] = defaultdict(list)
        for unit, at, name in self.rows(
            "select unit, extract(epoch from at)::float8, name from test.held "
            "left join test.named on id = holder order by unit, at"
        ):
            changes[unit].append((at, name))
        return {
            unit: [
                Held(name, at, end)
                for (at, name), (end, _) in zip(
                    each, [*each[1:], (float("inf"), None)], strict=True
                )
                if name is not None
            ]
            for unit, each in changes.items()
        }

    async def idle(self) -> None:
        """Wait until every sink has settled everything that is in the spool."""
        await eventually(
            lambda: (
                self.rows(
                    "select every(position >= "
                    "(select value from meta where name = 'next_position')) from sink"
                )
                == [(True,)]
            ),
            what="all is settled",
        )

    async def fail_over(self, server: Server, image: Path) -> None:
        """
        Let *image* take over from *server*; what was committed after it is lost.

        The history of the leases is kept, with what the replicas find as an entry of its own.
        """
        tables = ("held", "named", "wrote")
        with raw(self.address) as connection, connection.transaction():
            # Nothing more is committed until the server is killed.
            connection.execute(b"lock table test.held, test.wrote, auditrelay.writer")
            kept = {
                table: connection.execute(f"select * from test.{table}".encode()).fetchall()
                for table in tables
            }
            await asyncio.to_thread(server.kill)
            connection.close()
        await asyncio.to_thread(server.restore, image)
        with raw(self.address) as connection, connection.transaction():
            for table in tables:
                connection.execute(f"delete from test.{table}".encode())
                for row in kept[table]:
                    marks = ", ".join(["%s"] * len(row))
                    connection.execute(f"insert into test.{table} values ({marks})".encode(), row)
            connection.execute(
                b"insert into test.held select clock_timestamp(), unit, epoch, token, holder "
                b"from auditrelay.lease where token is distinct from (select token from test.held "
                b"where held.unit = lease.unit order by at desc limit 1)"
            )

    # -- what must be true -------------------------------------------------------------------------

    async def batches_under_way(self, seconds: float = 0.5) -> None:
        """Add events, and wait until each sink waits for answers, which take so many *seconds*."""
        delays = [
            intake.faults.add(faults.delay(seconds), method="POST", times=CONCURRENCY)
            for intake in self.sandbox.siems.values()
        ]
        add(self.sandbox)
        await eventually(lambda: all(each.applied for each in delays), what="batches under way")

    async def delivered(self, within: float = 60.0) -> None:
        """Wait until every sink has every event."""
        await eventually(
            lambda: not missing(self.sandbox), within=within, what="every sink has every event"
        )

    def repeats(self) -> dict[str, int]:
        """Return how many events each sink has got again."""
        return {
            name: sum(stored.by_native_id.values()) - len(stored.by_native_id)
            for name, stored in intakes(self.sandbox).items()
        }

    def sent(self, name: str, sink: str) -> list[float]:
        """Return when the replica *name* sent events to *sink*."""
        return [at for at, by in self._sendings(sink) if by == name]

    def _sendings(self, sink: str) -> list[tuple[float, str]]:
        return sorted(
            (seen.at, seen.headers["user-agent"].rsplit(" ")[-1])
            for seen in self.sandbox.siems[sink].seen
            if seen.method == "POST" and seen.path.endswith(_SENDS)
        )

    def check_not_robbed(self) -> None:
        """Fail if a replica has lost something; what the keeper moves is given in good order."""
        for name, daemon in self.daemons.items():
            for event in ("unit_fenced", "replica_fenced"):
                assert not daemon.logged(event), (name, daemon.logged(event))
            assert not daemon.logged("unit_taken", reason="dead"), name

    def check_holders(self, cut: Mapping[str, int] | None = None) -> None:
        """
        Fail if a replica has sent or written for what it did not hold, or another one held.

        *cut*: how many requests to a sink a replica was stopped in. It ends them when it goes on.
        """
        history = self.history()
        self._check_written(history)
        for sink in self.sandbox.siems:
            if any(peer_of(unit) == f"sink {sink}" != unit for unit in history):
                self._check_parts(sink, history)
                continue
            terms = history.get(f"sink {sink}", [])
            assert all(a.end <= b.start for a, b in itertools.pairwise(terms))
            begun = -1
            left = Counter(cut or {})
            for at, name in self._sendings(sink):
                newest = bisect_right([term.start for term in terms], at) - 1
                mine = next((n for n in range(newest, -1, -1) if terms[n].name == name), None)
                assert mine is not None, f"{name} has sent to {sink}, and never held it"
                late = at - terms[mine].end
                if left[name] > 0 and (late >= _LATE or mine < begun):
                    left[name] -= 1
                    continue
                assert late < _LATE, f"{name} has sent to {sink} {late:.1f} s after it held it"
                assert mine >= begun, f"{name} has sent to {sink} after its next holder had"
                begun = mine

    def _check_parts(self, sink: str, history: Mapping[str, list[Held]]) -> None:
        """Fail if units of *sink* that overlap were held at a time, or who held none has sent."""
        terms = [
            (unit, term)
            for unit, held in history.items()
            if peer_of(unit) == f"sink {sink}"
            for term in held
        ]
        for (unit, one), (other, two) in itertools.combinations(terms, 2):
            if unit == other or _into(unit) != _into(other):
                apart = one.end <= two.start or two.end <= one.start
                assert apart, f"{unit} and {other} were held at a time"
        for at, name in self._sendings(sink):
            assert any(
                term.name == name and term.start <= at < term.end + _LATE for _, term in terms
            ), f"{name} has sent to {sink}, and held no part of it"

    def _check_written(self, history: Mapping[str, list[Held]]) -> None:
        # Writes and takings wait for each other, so there is nothing to allow for.
        written = self.rows(
            "select extract(epoch from at)::float8, unit, name from test.wrote "
            "left join test.named on session = 'auditrelay ' || id where unit <> %s",
            f"source {ALERTS}",
        )
        assert written
        for at, unit, name in written:
            # Each part of a sink writes the row of the sink.
            terms = [term for each in history if peer_of(each) == unit for term in history[each]]
            assert any(term.name == name and term.start <= at < term.end for term in terms), (
                f"{name} has written for {unit}, which it did not hold"
            )

    async def check(
        self,
        *,
        bound: int | None = None,
        holders: bool = True,
        cut: Mapping[str, int] | None = None,
    ) -> None:
        """Wait until all is delivered, end the replicas that live, and fail unless all is well."""
        await self.delivered()
        for name, daemon in self.daemons.items():
            if daemon.process.returncode is None:
                assert await daemon.end() == 0, (name, daemon.log[-3000:])
        self.check_result(bound=bound, holders=holders, cut=cut)

    def check_result(
        self,
        *,
        bound: int | None = None,
        holders: bool = True,
        cut: Mapping[str, int] | None = None,
    ) -> None:
        """
        Fail unless what has arrived is all, and not too much; *bound*: what may be repeated.

        Not *holders*: a takeover was lost with the tail of a database, so for a moment two
        replicas believed to hold the same, until they had seen the database again. *cut*: as in
        :meth:`check_holders`.
        """
        for name, daemon in self.daemons.items():
            assert "Traceback" not in daemon.log, (name, daemon.log[-6000:])
        assert missing(self.sandbox) == {}
        uids = Counter(self.sandbox.elastic.stored.uids)
        assert uids.most_common(1)[0][1] == 1, "Elasticsearch stores each event once"
        most = self.killed * BOUND if bound is None else bound
        repeats = self.repeats()
        assert repeats.pop("elastic") == 0
        assert all(number <= most for number in repeats.values()), (repeats, most)
        if holders:
            self.check_holders(cut)

    async def end(self) -> None:
        """End whatever still runs."""
        self.leave()
        for daemon in self.daemons.values():
            if daemon._process is not None and daemon.process.returncode is None:
                daemon.process.send_signal(signal.SIGKILL)
                await daemon.process.wait()


def _into(unit: str) -> int:
    part = part_of(unit)
    return 1 if part is None else part.into


def fill(sandbox: Sandbox, count: int = 24) -> None:
    """Let the vendors have recorded *count* events in the last hour."""
    now = datetime.now(UTC)
    vendors = sandbox.cekura, sandbox.bland
    for vendor in vendors:
        vendor.fill(count // len(vendors), now - timedelta(minutes=50), now - timedelta(minutes=1))


def add(sandbox: Sandbox, count: int = 24) -> None:
    """Let the vendors record *count* events now."""
    vendors = sandbox.cekura, sandbox.bland
    for number in range(count):
        vendors[number % len(vendors)].add(datetime.now(UTC))
