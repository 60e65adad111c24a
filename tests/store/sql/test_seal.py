"""The seal: all or nothing, only what it has seen, and every head fits every later log."""

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
from tests.support.clock import FakeClock
from tests.support.states import GUARDED, State, forge, rows
from tests.support.stores import NOON, backlog, explained, opened, seal, span

from auditrelay.errors import EvidenceBroken, StoreFull
from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.evidence import facts
from auditrelay.evidence.heads import Head
from auditrelay.evidence.tree import leaf, root
from auditrelay.service.seal import head_event
from auditrelay.settings.reserved import ALERTS
from auditrelay.store import Proof
from auditrelay.store.keys import known_key
from auditrelay.store.sql import evidence
from auditrelay.store.sql import seal as sealing
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.facts import insert
from auditrelay.store.sql.spool import Spool
from auditrelay.store.sql.store import SqlStore

Make = Callable[..., AuditEvent]


@pytest.fixture
async def sealable(store: SqlStore, event: Make) -> SqlStore:
    """A store with something to seal."""
    await store.start_source(ALERTS, NOON)
    await store.start_sink("splunk", ["voice", ALERTS])
    await store.add("voice", Page.of([event(2), event(1)]), proof=Proof(covers=(span(0, 5),)))
    return store


def lines(state: State) -> list[dict[str, Any]]:
    with state.view() as view:
        return [json.loads(line) for _, line in view.read(evidence.entries)]


async def test_the_facts_become_entries_and_the_head_goes_to_the_sinks(
    sealable: SqlStore, state: State, event: Make
) -> None:
    sealed = await sealable.log.seal(head_event)
    units = [(entry["n"], entry["unit"], entry["seq"], entry["since"]) for entry in lines(state)]
    assert units == [
        (0, "instance", 1, None),
        (1, "sink splunk", 1, None),
        (2, f"source {ALERTS}", 1, None),
        (3, "source voice", 1, None),
    ]
    accepted, covered = lines(state)[3]["facts"]
    keys = [known_key(event(2)), known_key(event(1))]
    assert accepted["uids"] == facts.chain([sha256(b"".join(keys)).digest()]).hex()
    assert (covered["events"], covered["uids"]) == (
        2,
        sha256(b"".join(sorted(keys))).hexdigest(),
    )
    with state.view() as view:
        texts = [line for _, line in view.read(evidence.entries)]
        [head] = view.read(evidence.heads)
    assert Head.parse(head.word) == sealed.head
    assert sealed.head.root == root(leaf(text.encode()) for text in texts)
    [carrier] = [event for page in await backlog(sealable) for event in page.events][-1:]
    assert carrier.native_action == "auditrelay.ledger_sealed"
    assert (carrier.uid, carrier.source) == (sealed.head.uid, ALERTS)
    assert sealed.head.word in (carrier.message or "")
    [(unit, text)] = rows(state, "select unit, text from fact")
    assert (unit, json.loads(text)["pages"]) == (f"source {ALERTS}", [[head.place, 1]])
    explained(state, sealed=True)


async def test_a_head_is_stored_although_nothing_of_our_own_was_registered(
    store: SqlStore, state: State, event: Make
) -> None:
    """A new replica may seal, or raise an alert, before it has registered what is configured."""
    await store.add("voice", Page.of([event(1)]), proof=Proof(covers=(span(0, 5),)))
    await store.log.seal(head_event)
    explained(state, sealed=True)
    await store.alerts.change(Page.of([event(2)]), [], [])
    explained(state)


async def test_every_head_fits_every_later_log(
    sealable: SqlStore, state: State, event: Make
) -> None:
    words = []
    for number in range(20):
        await sealable.add("voice", Page.of([event(100 + number)]))
        await sealable.settle("splunk", [(number, number + 1)])
        words.append((await sealable.log.seal(head_event)).head)
    with state.view() as view:
        leaves = [leaf(line.encode()) for _, line in view.read(evidence.entries)]
    assert [root(leaves[: head.size]) for head in words] == [head.root for head in words]
    explained(state, sealed=True)


async def test_what_comes_while_a_seal_is_made_waits_for_the_next_one(
    sealable: SqlStore, state: State, event: Make
) -> None:
    def later(sealed: Any) -> AuditEvent:
        adding.append(asyncio.ensure_future(sealable.add("voice", Page.of([event(3)]))))
        return head_event(sealed)

    adding: list[Any] = []
    seen = sealing._write

    def write(db: Connection, *rest: Any) -> None:
        # Whatever was committed between the snapshot and this is not in the entries.
        insert(db, "source voice", [facts.looked_again(delay=9, until=9)], 0)
        db.execute("insert into resweep select id, 9000000, 9 from source where name = 'voice'")
        seen(db, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealing, "_write", write)
        await sealable.log.seal(later)
    await adding[0]
    explained(state, sealed=True)
    assert "looked_again" in str(rows(state, "select text from fact"))
    assert '"delay":9' not in str(rows(state, "select text from entry"))
    await sealable.log.seal(head_event)
    assert '"delay":9' in str(rows(state, "select text from entry"))
    explained(state, sealed=True)


FAILS: list[tuple[Any, str]] = [
    (sealing, "insert"),
    (Spool, "append"),
    (sealing, "own_id"),
]


@pytest.mark.parametrize(
    ("where", "name"), [*FAILS, ("its room", "require_for")], ids=lambda each: str(each)[-20:]
)
async def test_a_seal_that_breaks_off_has_done_nothing(
    sealable: SqlStore, state: State, where: Any, name: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StoreFull("no room")

    tables = (
        "select id, text from fact union all select n, text from entry "
        "union all select size, word from head order by 1, 2"
    )
    before = rows(state, tables)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(sealable._engine.room) if where == "its room" else where, name, fail)
        with pytest.raises(StoreFull):
            await sealable.log.seal(head_event)
    assert rows(state, tables) == before
    await sealable.log.seal(head_event)
    explained(state, sealed=True)


async def test_a_head_is_never_there_without_its_event(
    sealable: SqlStore, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at after each commit: a kill there would leave the state as it is then."""
    commits, pairs = state.writer._commit, set()

    def look(writer: Any, group: Any) -> None:
        commits(writer, group)
        heads = rows(state, "select place from head")
        pages = rows(state, "select first from spool join source on source.id = spool.source "
                               "where source.name = 'auditrelay'")  # fmt: skip
        pairs.add((len(heads), len(pages), heads == pages))

    monkeypatch.setattr(state.writer, "_commit", look)
    for _ in range(3):
        await sealable.log.seal(head_event)
        await sealable.resweep_done("voice", timedelta(hours=1), NOON)
    assert pairs == {(1, 1, True), (2, 2, True), (3, 3, True)}


@pytest.mark.parametrize(
    "statement",
    [
        "update entry set text = ''",
        "delete from entry where n = 0",
        "update head set root = x''",
        "delete from head",
    ],
)
async def test_what_is_sealed_is_not_changed_by_any_bug_of_ours(
    sealable: SqlStore, state: State, statement: str
) -> None:
    await sealable.log.seal(head_event)
    with pytest.raises(GUARDED, match="sealed"), state.raw() as db:
        db.execute(statement)


@pytest.mark.parametrize(
    "damage",
    [
        "update meta set value = zeroblob(40) where name = 'frontier'",
        "delete from entry where n = 3",
        "delete from head",
        "update head set root = zeroblob(32)",
        "insert into entry values (99, 'instance', '{}')",
    ],
)
async def test_a_log_that_does_not_give_its_head_is_not_continued(
    sealable: SqlStore, state: State, damage: str
) -> None:
    await sealable.log.seal(head_event)
    forge(state, damage)
    before = rows(state, "select count(*) from entry")
    with pytest.raises(EvidenceBroken):
        await sealable.log.seal(head_event)
    assert rows(state, "select count(*) from entry") == before


FLIP = {
    "sqlite": [
        (
            "create trigger flip after insert on entry when new.n = 1 begin "
            "insert or replace into entry values (1, new.unit, replace(new.text, '0', '1')); end"
        )
    ],
    "postgres": [
        (
            "create function flip() returns trigger language plpgsql as $$ "
            "begin new.text = replace(new.text, '0', '1'); return new; end $$"
        ),
        (
            "create trigger flip before insert on entry for each row when (new.n = 1) "
            "execute function flip()"
        ),
    ],
}
"""A disk that writes something else than it was given."""


async def test_a_line_that_is_not_written_as_it_was_hashed_is_found_before_its_head_is_out(
    sealable: SqlStore, state: State
) -> None:
    with state.raw() as db:
        for statement in FLIP[state.engine]:
            db.execute(statement)
    with pytest.raises(EvidenceBroken, match="hashed"):
        await sealable.log.seal(head_event)
    assert rows(state, "select * from head") == []


async def test_the_time_of_entries_stands_still_while_the_clock_is_back(
    state: State, event: Make
) -> None:
    clock = FakeClock(NOON)
    store = await opened(state, clock=clock)
    await store.start_source("voice", NOON)
    first = await seal(store)
    clock.set(NOON - timedelta(seconds=90))
    second = await seal(store)
    await store.close()
    assert second.at == first.at
    found = [fact for entry in lines(state) for fact in entry["facts"]]
    assert [fact["seconds"] for fact in found if fact["fact"] == "clock"] == [90]
    explained(state, sealed=True)


async def test_delivered_is_what_was_settled_since_the_last_entry(
    sealable: SqlStore, state: State
) -> None:
    await sealable.settle("splunk", [(1, 2)])
    await sealable.log.seal(head_event)  # its event is at 2
    await sealable.settle("splunk", [(0, 1)])
    await sealable.log.seal(head_event)
    await sealable.log.seal(head_event)
    done = [
        fact["done"]
        for entry in lines(state)
        for fact in entry["facts"]
        if fact["fact"] == "delivered"
    ]
    assert done == [[[1, 1]], [[0, 1]]], "and nothing where nothing was settled"


async def test_a_sink_has_taken_the_heads_that_it_got(sealable: SqlStore, state: State) -> None:
    await sealable.log.seal(head_event)
    await sealable.start_sink("elastic", ["voice", ALERTS])  # it gets what comes from now on
    await sealable.log.seal(head_event)
    assert (await sealable.log.state()).untold == 2
    await sealable.settle("splunk", [(0, 3)])
    await sealable.settle("elastic", [(3, 4)])
    assert (await sealable.log.state()).untold == 0
    await sealable.log.seal(head_event)
    taken_by = [
        fact["told"] for entry in lines(state) for fact in entry["facts"] if fact["fact"] == "head"
    ]
    assert taken_by == [[], ["elastic"]]


async def test_the_uids_of_each_page_are_exported_as_the_facts_have_them(
    sealable: SqlStore, state: State, event: Make
) -> None:
    await sealable.add("voice", Page.of([event(9)]), via="backfill")
    await sealable.log.seal(head_event)
    await sealable.add("voice", Page.of([event(4)]))
    await sealable.log.seal(head_event)
    with state.view() as view:
        pages = view.read(evidence.uids)
    accepted = [
        (entry["n"], fact)
        for entry in lines(state)
        for fact in entry["facts"]
        if fact["fact"] == "accepted"
    ]
    assert [(n, first) for n, first, _ in pages] == [
        (n, first) for n, fact in accepted for first, _ in fact["pages"]
    ]
    digests = [facts.chain([sha256(keys).digest()]).hex() for _, _, keys in pages]
    assert digests == [fact["uids"] for _, fact in accepted], "one page a fact here"


async def test_a_seal_of_many_facts_keeps_other_writes_waiting_only_for_its_write(
    sealable: SqlStore, state: State, event: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the entries are made, beside the writer, pages go on being stored."""
    stored: list[int] = []
    make = sealing.draft

    def slow(db: Connection, *rest: Any) -> Any:
        made = make(db, *rest)
        stored.append(0)
        loop.call_soon_threadsafe(drafted.set)
        asyncio.run_coroutine_threadsafe(written.wait(), loop).result(10)
        return made

    loop, drafted, written = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    monkeypatch.setattr(sealing, "draft", slow)
    task = asyncio.ensure_future(sealable.log.seal(head_event))
    await drafted.wait()
    await sealable.add("voice", Page.of([event(5)]))
    assert not task.done()
    written.set()
    await task
    explained(state, sealed=True)


async def test_all_entries_are_hashed_without_all_of_them_in_memory(
    sealable: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server sends all rows of a statement at once, unless they are asked for in parts."""
    await sealable.log.seal(head_event)
    with sealable._engine.snapshot() as db:
        kind: Any = type(db)
    whole, execute = list[str](), kind.execute

    def executed(db: Any, sql: str, *parameters: Any) -> Any:
        if sql.startswith("select") and "from entry order by" in sql:
            whole.append(sql)
        return execute(db, sql, *parameters)

    def streamed(db: Any, sql: str, *parameters: Any) -> Any:
        return execute(db, sql, *parameters)

    monkeypatch.setattr(kind, "execute", executed)
    monkeypatch.setattr(kind, "stream", streamed)
    sealable.log._hashed_on = -1
    await sealable.log.seal(head_event)
    await sealable.log.continue_damaged()
    assert not whole
