"""Rows of `replicas.py` in this process: the store alone, without a relay around it."""

import asyncio
import contextlib
import hashlib
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from unittest import mock

import psycopg
from tests.support.postgres import Server

import known as known_benchmark
from auditrelay import config
from auditrelay.clock import Clock
from auditrelay.events.normalize import Normalizer, vendor_named
from auditrelay.events.page import Page
from auditrelay.service import state
from auditrelay.store import Proof, Reached
from auditrelay.store.leases import Lease
from auditrelay.store.postgres.pipeline import Pipeline
from auditrelay.store.sql import intake
from auditrelay.store.sql.store import SqlStore
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval, micros
from load import folder
from postgres import COMMITS, WAL, Options, connected, number, server_cpu

SOURCE, SINK = "voice", "out"


@contextlib.asynccontextmanager
async def opened(address: str, where: Path) -> AsyncIterator[SqlStore]:
    """Open the store at *address*, with a source and a sink that is to get all of its events."""
    path = where / "config.toml"
    path.touch(mode=0o600)
    path.write_text(f'store = "{address}"\n' + known_benchmark.CONFIG.format(folder=where))
    async with state.opened(
        config.load(path, {}), Clock(), Metrics(shared=True), has_end=True
    ) as found:
        assert isinstance(found.store, SqlStore)
        await found.store.start_source(SOURCE, known_benchmark.START)
        await found.store.start_sink(SINK, [SOURCE])
        # As a replica works on it: under a lease.
        with psycopg.connect(address, autocommit=True) as connection:
            row = connection.execute(
                "insert into auditrelay.lease (unit, token, holder) "
                "values ('bench', gen_random_uuid(), gen_random_uuid()) "
                "on conflict (unit) do update set token = excluded.token returning token"
            ).fetchone()
        assert row is not None
        yield found.store.under(Lease("bench", 0, row[0]))


class Pages:
    """New pages of a source, one after the other."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._made = 0
        self._normalize = Normalizer(
            vendor=vendor_named("cekura"),
            source=SOURCE,
            api_host="",
            scope="1",
            redact="default",
            tags={},
        )

    def next(self) -> Page:
        """Return the next page."""
        start = datetime.now(UTC) - timedelta(hours=1)
        rows = [
            b'{"id":"%b","timestamp":"%b","action":"update","object_type":"agent","note":"%b"}'
            % (
                hashlib.sha256(b"%d" % place).hexdigest().encode(),
                (start + timedelta(milliseconds=place)).isoformat().encode(),
                b"%d " % place * 50,
            )
            for place in range(self._made, self._made + self.size)
        ]
        self._made += self.size
        return Page.of(list(self._normalize(rows, micros(datetime.now(UTC)))))


async def settle_all(store: SqlStore, reached: Reached | None) -> Reached:
    """Settle what waits for the sink."""
    pages, reached = await store.read(SINK, reached, 10_000)
    await store.settle(SINK, [(page.first, page.first + len(page.events)) for page in pages])
    return reached


# --- statements and round trips -------------------------------------------------------------------


@contextlib.contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count in this block the statements, and how often a thread has waited for their replies."""
    counts: Counter[str] = Counter()
    send, many, wait = Pipeline.send, Pipeline.send_many, Pipeline._wait  # noqa: SLF001  # counted

    def sends(self: Pipeline, sql: bytes, parameters: list[object]) -> object:
        counts["statements"] += 1
        return send(self, sql, parameters)

    def sends_many(self: Pipeline, sql: bytes, rows: list[list[object]]) -> None:
        counts["statements"] += len(rows)
        many(self, sql, rows)

    def waits(self: Pipeline, done: Callable[[], bool]) -> None:
        counts["round trips"] += not done()
        wait(self, done)

    with (
        mock.patch.object(Pipeline, "send", sends),
        mock.patch.object(Pipeline, "send_many", sends_many),
        mock.patch.object(Pipeline, "_wait", waits),
    ):
        yield counts


def round_trips(server: Server, options: Options) -> Iterator[str]:  # noqa: ARG001  # all rows have them
    """Count statements, and waits for the server, of what a page takes; CPU and WAL of it."""
    yield "| what | statements | waits | this process, CPU µs | server, CPU µs | WAL bytes |"
    yield "| --- " * 6 + "|"
    for size in (1000, 100):
        with folder() as where:
            database = server.create()
            rows = asyncio.run(_trips(server, database, where, size))
            server.drop(database)
        for title, (statements, waits, ours, theirs, wal) in rows.items():
            yield (
                f"| {title}, {size:,} | {statements:.0f} | {waits:.0f} | {ours:,.0f} "
                f"| {theirs:,.0f} | {wal:,.0f} |"
            )


async def _trips(
    server: Server, database: str, where: Path, size: int
) -> dict[str, tuple[float, ...]]:
    found: dict[str, list[tuple[float, ...]]] = {}

    async def spent(steps: Sequence[Callable[[], Awaitable[object]]]) -> tuple[float, ...]:
        """Return what each of *steps* takes: see round_trips."""
        before, counted = (server_cpu(server), number(watching, WAL)), Counter(counts)
        began = time.process_time()
        for step in steps:
            await step()
        took = time.process_time() - began
        made = [counts[name] - counted[name] for name in ("statements", "round trips")]
        wal, cpu = number(watching, WAL) - before[1], server_cpu(server) - before[0]
        return tuple(each / len(steps) for each in (*made, took * 1e6, cpu * 1e6, wal))

    made, rounds, each_time = Pages(size), 8, 8
    with connected(server, database) as watching, counted() as counts:
        async with opened(server.address(database), where) as store:
            reached: Reached | None = None
            for turn in range(rounds):
                pages = [made.next() for _ in range(each_time)]
                parts: dict[str, list[tuple[float, ...]]] = {}
                for number_of, page in enumerate(pages):
                    last = number_of == len(pages) - 1
                    for title, step in (
                        ("look up, all new", partial(_look_up, store, page)),
                        (
                            f"add, all new{', the last of a walk' if last else ''}",
                            partial(_add, store, page, last=last),
                        ),
                        ("look up, all known", partial(_look_up, store, page)),
                    ):
                        parts.setdefault(title, []).append(await spent([step]))
                if turn > 1:  # what is loaded once is
                    for title, values in parts.items():
                        found.setdefault(title, []).extend(values)
                settles, reached = await _settles(store, reached)
                used = await spent(settles)
                if turn > 1:
                    found.setdefault("settle", []).append(used)
                used = await spent([partial(store.read, SINK, reached, 1000)] * each_time)
                if turn > 1:
                    found.setdefault("read, and nothing waits (after a pulse)", []).append(used)
    return {
        title: tuple(statistics.mean(column) for column in zip(*values, strict=True))
        for title, values in found.items()
    }


async def _settles(
    store: SqlStore, reached: Reached | None
) -> tuple[list[Callable[[], Awaitable[object]]], Reached]:
    """Return what settles each page that waits for the sink, and how far that was read."""
    steps: list[Callable[[], Awaitable[object]]] = []
    while True:
        pages, reached = await store.read(SINK, reached, 100_000)
        if not pages:
            return steps, reached
        steps += [
            partial(store.settle, SINK, [(each.first, each.first + len(each.events))])
            for each in pages
        ]


async def _look_up(store: SqlStore, page: Page) -> None:
    # Without contents: what was shown is the same.
    await store.look_up(SOURCE, page.uid, page.at, [b""] * len(page))


async def _add(store: SqlStore, page: Page, *, last: bool) -> None:
    now = datetime.now(UTC)
    span = Interval(now - timedelta(hours=2), now)
    await store.add(SOURCE, page, proof=Proof(covers=(span,)) if last else None)


# --- what is known --------------------------------------------------------------------------------

_FILL = """
insert into known (source, key, position, digest)
select {source}, int8send((({start} + number * {step}) # (-9223372036854775807 - 1))::bigint)
    || substr(sha256(int8send(number)), 1, 20), number, decode('0000000000000000', 'hex')
from generate_series({first}::bigint, {last}::bigint - 1) as number
"""
_LOG = """
insert into uid_log (source, newest, uids, times)
select source, max({start} + position * {step}),
    string_agg(substr(key, 9, 8), ''::bytea order by key),
    string_agg(substr(key, 1, 8), ''::bytea order by key)
from known group by source, position / 1000 order by position / 1000
"""


def known_uids(server: Server, options: Options) -> Iterator[str]:
    """Add pages to what is known of a source for 400 days, run commands on it, and forget some."""
    database = server.create()
    with folder() as where:
        began = time.perf_counter()
        asyncio.run(_fill(server, database, where, options.known))
        with connected(server, database) as watching:
            watching.execute("vacuum analyze")
            size = number(watching, "select pg_total_relation_size('known')")
            log = number(watching, "select pg_total_relation_size('uid_log')")
        yield (
            f"{options.known:,} known uids: {size / 2**20:,.0f} MiB ({size / options.known:.0f} "
            f"bytes each), and {log / 2**20:,.0f} MiB of their log, in "
            f"{time.perf_counter() - began:.0f} s."
        )
        yield "\n| command | seconds | peak MB |\n| --- | --- | --- |"
        more = f'store = "{server.address(database)}"\n'
        for words in (("status",), ("coverage",), ("coverage", "--check")):
            seconds, peak = known_benchmark.command(where, *words, more=more)
            yield f"| {' '.join(words)} | {seconds:.1f} | {peak:.0f} |"
        yield f"\n| page of {known_benchmark.PAGE:,} | ms, median | ms, worst |"
        yield "| --- | --- | --- |"
        rows, forgotten = asyncio.run(_use(server.address(database), where))
        yield "\n".join(rows)
        yield f"\nTo prune, which forgets what is older than 390 days: {forgotten:.1f} s."
    server.drop(database)


async def _fill(server: Server, database: str, where: Path, count: int) -> None:
    days = known_benchmark.DAYS
    first, a_day = micros(known_benchmark.START), count // days
    step = 86_400_000_000 // a_day
    async with opened(server.address(database), where) as store:
        with connected(server, database) as filling:
            source = number(filling, f"select id from source where name = '{SOURCE}'")
            numbers = {"source": source, "start": first, "step": step}
            for day in range(0, days, 20):
                part = {"first": day * a_day, "last": (day + 20) * a_day}
                filling.execute(_FILL.format(**numbers, **part).encode())
            filling.execute(_LOG.format(**numbers).encode())
            filling.execute("update meta set value = %s where name = 'next_position'", (count,))
            filling.execute("analyze known")
        for day in range(days):
            start = known_benchmark.START + timedelta(days=day)
            proof = Proof(covers=(Interval(start, start + timedelta(days=1)),))
            now = micros(start + timedelta(days=1))
            await store._engine.write(  # noqa: SLF001  # a ledger without events
                partial(intake.enter, source=SOURCE, proof=proof, now=now, via="poll")
            )


async def _use(address: str, where: Path) -> tuple[list[str], float]:
    async with opened(address, where) as store:
        rows = await known_benchmark.pages(store)
        began = time.perf_counter()
        store.resize(max_bytes=1 << 40, retention=timedelta(days=7), remember=timedelta(days=390))
        await store.prune(known_benchmark.START + timedelta(days=known_benchmark.DAYS))
        return rows, time.perf_counter() - began


# --- an old snapshot ------------------------------------------------------------------------------


def old_snapshot(server: Server, options: Options) -> Iterator[str]:
    """Add and settle a page of 10 events 25 times a second, while a snapshot is held."""
    yield "| minute | snapshot | settle, ms median | dead rows in place | WAL, MB | commits |"
    yield "| --- " * 6 + "|"
    for held in (False, True):
        database = server.create()
        with folder() as where:
            yield from asyncio.run(_under_a_snapshot(server, database, where, options, held=held))
        server.drop(database)


async def _under_a_snapshot(
    server: Server, database: str, where: Path, options: Options, *, held: bool
) -> list[str]:
    pages, reached, lines = Pages(10), None, []
    with connected(server, database) as watching, connected(server, database) as holder:
        async with opened(server.address(database), where) as store:
            if held:
                holder.execute("begin isolation level repeatable read")
                holder.execute("select count(*) from meta")
            minutes = max(1, round(options.minutes / 2))
            for minute in range(1, minutes + 1):
                before = number(watching, WAL), number(watching, COMMITS)
                began, took = time.monotonic(), []
                turn = 0
                while (now := time.monotonic()) < began + 60:
                    await store.add(SOURCE, pages.next())
                    at = time.perf_counter()
                    reached = await settle_all(store, reached)
                    took.append(time.perf_counter() - at)
                    turn += 1
                    await asyncio.sleep(max(0.0, began + turn / 25 - now))
                dead = number(
                    watching,
                    "select coalesce(sum(n_dead_tup), 0) from pg_stat_user_tables "
                    "where relname in ('meta', 'sink', 'source', 'writer', 'lease', 'uid_log')",
                )
                wal = number(watching, WAL) - before[0]
                commits = number(watching, COMMITS) - before[1]
                lines.append(
                    f"| {minute} | {'held' if held else 'none'} "
                    f"| {statistics.median(took) * 1000:.2f} | {dead:,} | {wal / 1e6:.1f} "
                    f"| {commits:,} |"
                )
    return lines
