"""A state that is not the one whose heads have left goes on in a log of its own, and says so."""

import json
import threading
from typing import Any
from uuid import uuid4

import pytest
from tests.support.states import InDatabase, InFolder, State, forge, on_postgres, on_sqlite, rows
from tests.support.stores import NOON, explained, opened, seal, span

from auditrelay.errors import EvidenceBroken, RolledBack, StateError
from auditrelay.events.page import Page
from auditrelay.evidence import facts
from auditrelay.evidence.heads import Head
from auditrelay.settings.reserved import ALERTS
from auditrelay.store import Proof
from auditrelay.store.sealing import Branch, Run
from auditrelay.store.sql.branches import NO_TIP, OLDER
from auditrelay.store.sql.store import SqlStore
from auditrelay.store.sqlite.state_dir import DATABASE
from auditrelay.store.sqlite.tip import TipFile

RUN = Run("0" * 32, {"auditrelay": "1"}, facts.configured(digest=bytes(32), settings={}))


async def begun(state: State) -> tuple[SqlStore, Branch | None]:
    store = await opened(state)
    branch = await store.log.begin(RUN)
    await store.start_source(ALERTS, NOON)
    await store.start_source("okta", NOON)
    await store.start_sink("splunk", ["okta", ALERTS])  # it does nothing after its first entry
    return store, branch


async def sealed(state: State, seals: int = 2) -> None:
    """Leave a state with so many heads more, closed in order."""
    store, _ = await begun(state)
    for number in range(seals):
        await store.add("okta", Page.of(()), proof=Proof(covers=(span(number, number + 1),)))
        await seal(store)
    await store.close()


def log_of(state: State) -> str:
    [(log,)] = rows(state, "select value from meta where name = 'log'")
    return str(log)


def continued(state: State) -> list[dict[str, Any]]:
    """Return all sealed facts that say that a log goes on from another one."""
    entries = [json.loads(line) for (line,) in rows(state, "select text from entry order by n")]
    return [
        {**fact, "to": entry["log"]}
        for entry in entries
        for fact in entry["facts"]
        if fact["fact"] == "continued"
    ]


def branches_found(state: State) -> list[tuple[str, int | None]]:
    """Return what ``coverage --check`` says of logs that were left, and where; it says no more."""
    with state.view() as view:
        checked = view.check()
    assert {each.code for each in checked.findings} == {"branch"}
    assert checked.whole is all(each.level == "note" for each in checked.findings)
    [shown] = checked.as_json()["branches"]
    assert {*shown} == {"fact", "log", "size", "root", "why", "n"}
    return [(each.level, each.entry) for each in checked.findings]


async def test_a_log_goes_on_from_run_to_run(state: State) -> None:
    await sealed(state)
    log = log_of(state)
    store, branch = await begun(state)
    assert branch is None
    head = (await seal(store)).head
    await store.close()
    assert head.log == log == log_of(state)
    assert state.tip.read() == Head(log, head.size, head.root), "the tip is the newest head"
    explained(state, sealed=True)


async def test_a_state_without_heads_has_no_branch(state: State) -> None:
    store, branch = await begun(state)
    await store.close()
    assert branch is None
    store, branch = await begun(state)
    await store.close()
    assert branch is None


@pytest.mark.parametrize("ended", ["sealed", "killed before its first seal"])
async def test_a_restored_state_goes_on_in_a_log_of_its_own(state: State, ended: str) -> None:
    await sealed(state)
    backup = state.back_up()
    await sealed(state)
    store, branch = await begun(backup)
    if ended == "killed before its first seal":
        await store.close()
        store, again = await begun(backup)
        assert again is None, "the branch is begun once"
        assert branches_found(backup) == [("bad", None)]
    await seal(store)
    entry = branch.size if branch is not None else None
    assert branches_found(backup) == [("bad", entry)], "no operator has said why"
    await store.log.restored("the disk died", by=1000)
    assert branches_found(backup) == [("note", entry)]
    await seal(store)
    await store.close()
    assert branch is not None
    assert (branch.why, branch.is_alert) == (NO_TIP, False)
    assert branch.before == log_of(state)
    [fact] = continued(backup)
    [(root,)] = rows(state, "select root from head where size = ?", branch.size)
    assert fact == {
        "fact": "continued",
        "log": log_of(state),
        "size": branch.size,
        "root": root.hex(),
        "why": NO_TIP,
        "to": log_of(backup),
    }
    assert log_of(backup) != log_of(state), "two histories never have the same name"
    old = rows(state, "select text from entry where n < ? order by n", branch.size)
    assert rows(backup, "select text from entry where n < ? order by n", branch.size) == old
    explained(backup, sealed=True)


async def test_a_copy_of_a_branch_that_was_not_sealed_has_another_name(state: State) -> None:
    await sealed(state)
    state.put_tip(None)
    store, _ = await begun(state)
    await store.log.restored("moved", by=1000)
    await store.close()
    backup = state.back_up()
    await sealed(backup)
    await sealed(state)
    assert log_of(backup) != log_of(state)
    [fact] = continued(state)
    first, second = continued(backup)
    assert (first["log"], first["size"]) == (fact["log"], fact["size"])
    assert (second["log"], second["size"]) == (fact["to"], fact["size"])
    for each in (backup, state):
        explained(each, sealed=True)


@on_sqlite
async def test_a_state_that_is_rolled_back_beside_its_tip_is_an_alert(state: State) -> None:
    await sealed(state)
    backup = state.back_up()
    await sealed(state)
    left = state.tip.read()
    state.put_back(backup)
    state.put_tip(left)
    store, branch = await begun(state)
    await store.log.restored("the disk died", by=1000)
    await seal(store)
    await store.close()
    assert branch is not None
    assert (branch.why, branch.is_alert, branch.tip) == (OLDER, True, left)
    explained(state, sealed=True)


@on_postgres
async def test_a_database_that_lost_a_head_that_has_left_is_an_alert(state: InDatabase) -> None:
    """To a failover the tip goes along; who has seen the head go remembers it."""
    store, _ = await begun(state)
    await seal(store)
    saved = state.back_up()
    left = (await seal(store)).head
    state.roll_back(saved)
    with pytest.raises(RolledBack):
        await store.start_source("voice", NOON)
    store._engine.writer.continue_as(uuid4())  # type: ignore[attr-defined]  # it is PostgreSQL's
    branch = await store.log.begin(RUN)
    assert branch is not None
    assert (branch.why, branch.is_alert) == (OLDER, True)
    assert branch.tip == Head(left.log, left.size, left.root)
    await seal(store)
    await store.close()


@on_sqlite
async def test_a_state_that_was_deleted_beside_its_tip_is_an_alert(state: InFolder) -> None:
    await sealed(state)
    left = state.tip.read()
    (state.folder / DATABASE).unlink()
    store, branch = await begun(state)
    await store.log.restored("it was deleted", by=1000)
    await seal(store)
    await store.close()
    assert left is not None
    assert branch is not None
    assert (branch.before, branch.size, branch.is_alert) == (left.log, 0, True)
    assert branch.tip == left, "the alert says what the tip knew"
    assert [fact["log"] for fact in continued(state)] == [left.log]
    explained(state, sealed=True)


@on_sqlite
async def test_a_state_that_comes_back_to_a_tip_of_its_past_says_so(state: State) -> None:
    await sealed(state)
    there, left = state.back_up(), state.tip.read()
    await sealed(there)
    state.put_back(there)
    state.put_tip(left)
    store, branch = await begun(state)
    await store.close()
    assert branch is not None
    assert (branch.why, branch.is_alert) == (NO_TIP, False), "nothing is missing"


@on_sqlite
async def test_a_process_that_ends_between_the_seal_and_the_tip_goes_on(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sealed(state)
    log = log_of(state)

    def end(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(TipFile, "write", end)
        await sealed(state)
    store, branch = await begun(state)
    await store.close()
    assert branch is None, "an older tip fits: it only knows less"
    assert log_of(state) == log


async def test_a_tip_with_another_root_does_not_fit(state: State) -> None:
    """A copy of the state has sealed other entries, and its tip came back with an older state."""
    await sealed(state)
    left = state.tip.read()
    assert left is not None
    state.put_tip(Head(left.log, left.size, bytes(32)))
    store, branch = await begun(state)
    await store.close()
    assert branch is not None
    assert (branch.why, branch.is_alert, branch.before) == (OLDER, True, left.log)


@pytest.mark.parametrize(
    ("forgery", "what"),
    [
        ('update entry set text = replace(text, \'"via":"poll"\', \'"via":"pole"\')', "entry"),
        ("update meta set value = x'0000000000000000' where name = 'frontier'", "frontier"),
        ("update meta set value = 'no' where name = 'frontier'", "frontier"),
        ("update head set root = zeroblob(32)", "root"),
    ],
)
async def test_entries_that_do_not_give_the_newest_head_go_on_in_a_new_log(
    state: State, forgery: str, what: str
) -> None:
    await sealed(state)
    log = log_of(state)
    forge(state, forgery)
    store, branch = await begun(state)
    if branch is None:
        with pytest.raises(EvidenceBroken):
            await seal(store)
        branch = await store.log.continue_damaged()
    head = (await seal(store)).head
    await store.close()
    assert branch.is_alert
    assert branch.why.startswith(("damaged", OLDER)), what
    assert head.log == log_of(state) != log
    assert len(continued(state)) >= 1
    await sealed(state)
    assert log_of(state) == head.log, "it goes on from there"


async def test_entries_that_are_missing_cannot_be_continued(state: State) -> None:
    await sealed(state)
    forge(state, "delete from entry where n = 1")
    store, _ = await begun(state)
    with pytest.raises(EvidenceBroken):
        await seal(store)
    with pytest.raises(EvidenceBroken, match="entry 1 is missing"):
        await store.log.continue_damaged()
    await store.add("okta", Page.of(()), proof=Proof(covers=(span(0, 1),)))
    await store.close()


async def test_whether_the_last_stop_was_orderly_is_a_fact(state: State) -> None:
    store, _ = await begun(state)
    await store.log.end(RUN.run)
    await store.close()
    store, _ = await begun(state)
    await store.close()  # killed
    store, _ = await begun(state)
    await seal(store)
    await store.close()
    [instance] = rows(state, "select text from entry where unit = 'instance'")
    bodies = [fact for fact in json.loads(instance[0])["facts"] if fact["fact"] != "configured"]
    assert [fact["fact"] for fact in bodies] == ["started", "stopped", "started", "started"]
    assert [fact.get("orderly") for fact in bodies] == [None, None, True, False]


async def test_a_configuration_is_a_fact_when_it_is_another_one(state: State) -> None:
    store, _ = await begun(state)
    assert not await store.log.configure(RUN.configured)
    other = facts.configured(digest=bytes(32), settings={"sources.okta.settle": "5m"})
    assert await store.log.configure(other)
    assert not await store.log.configure(other)
    await store.close()
    found = rows(state, "select text from fact where text like '%configured%' order by id")
    assert [json.loads(text)["settings"] for (text,) in found] == [{}, other["settings"]]


async def test_a_configuration_that_fills_several_lines_is_written_once(state: State) -> None:
    long = {f"sources.s{number}.settle": "5m" * 60 for number in range(900)}
    store, _ = await begun(state)
    assert await store.log.configure(facts.configured(digest=bytes(32), settings=long))
    await seal(store)
    assert len(rows(state, "select 1 from entry where text like '%configured%'")) > 1
    assert not await store.log.configure(facts.configured(digest=bytes(32), settings=long))
    assert await store.log.configure(RUN.configured)
    await store.close()


async def test_no_row_that_says_so_hides_another_configuration(state: State) -> None:
    store, _ = await begun(state)
    await seal(store)
    await store.close()
    other = facts.configured(digest=bytes(32), settings={"sources.okta.settle": "5m"})
    # Where the newest one was kept besides.
    said = f"insert into meta values ('configured', '{facts.text(other)}')"
    forge(state, said)
    store = await opened(state)
    await store.log.begin(Run("1" * 32, {}, other, None))
    await store.close()
    [(text,)] = rows(state, "select text from fact where text like '%configured%'")
    assert json.loads(text)["settings"] == other["settings"]


async def test_a_head_that_cannot_be_read_does_not_end_the_service(state: State) -> None:
    await sealed(state)
    forge(state, "update head set word = 'x'")
    store, branch = await begun(state)
    assert branch is None, "the entries have the root that the tip tells of"
    with pytest.raises(EvidenceBroken, match="not a head"):
        await seal(store)
    await store.close()


@pytest.mark.parametrize(
    ("edit", "what"),
    [("ahead = 'x'", "has taken"), ("sources = 'x'", "reads"), ("sources = '5'", "reads")],
)
async def test_a_sink_that_cannot_be_read_says_where_to_look(
    state: State, edit: str, what: str
) -> None:
    await sealed(state)
    forge(state, f"update sink set {edit}")
    with pytest.raises(StateError, match=f"what the sink splunk {what} is damaged"):
        await begun(state)
    assert not [each.name for each in threading.enumerate() if each.name.startswith("store-")]
