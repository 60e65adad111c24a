"""A restore by the recipe, or a kill at any moment, is never taken for a forgery; a forgery is."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from tests.support.histories import SINKS, SOURCES, History, export, run
from tests.support.states import State, on_sqlite

from auditrelay.errors import RelayError, StateError
from auditrelay.evidence.auditor import program
from auditrelay.evidence.heads import Head, Keys
from auditrelay.store.sql import export as exporting
from auditrelay.store.sqlite.tip import TipFile

Findings = set[tuple[str, str]]


async def work(history: History, hours: int = 1) -> None:
    """Let something happen, be read, sealed and delivered."""
    for _ in range(hours):
        for source in SOURCES:
            history.happen(source)
        history.clock.advance(3600)
        for source in SOURCES:
            await history.poll(source)
        await history.seal()
        for sink in SINKS:
            await history.deliver(sink)


def audit(history: History, folder: Path, pins: Sequence[bytes] = ()) -> Findings:
    """Return level and code of what the auditor finds with the heads of a SIEM."""
    witness = history.siems["splunk"].splunk(folder / "splunk.csv")
    export(history.state, folder / "export")
    report = program.check([folder / "export"], [witness], [*pins], {}, [])
    return {(each["level"], each["code"]) for each in report["findings"]}


def given(history: History) -> Findings:
    """Return what ``coverage --check --head`` finds with the heads of a SIEM."""
    words = [("a SIEM", Head.parse(word)) for word in history.siems["splunk"].words]
    return {(each.level, each.code) for each in history.check(words).findings}


@pytest.mark.parametrize("explains", [True, False])
@pytest.mark.parametrize("killed", [True, False])
def test_a_restore_from_before_the_first_seal_is_a_branch(
    state: State, tmp_path: Path, explains: bool, killed: bool
) -> None:
    history = History(state)

    async def story() -> None:
        await history.begin()
        saved = history.state.back_up()
        await work(history, 2)
        await history.end()
        history.state.put_back(saved)
        if killed:
            # Before the tip is written, which in a database is committed with the branch.
            with history.killing(1, before=state.engine == "postgres"):
                assert not await history.live(history.begin())
        branch = await history.begin()
        assert branch is not None
        assert branch.size == 0
        assert not branch.is_alert
        assert ("bad", "head_foreign") not in given(history)
        if explains:
            await history.store.log.restored("the disk died", 0)
        await work(history, 2)
        await history.end()

    run(story())
    level = "note" if explains else "bad"
    assert audit(history, tmp_path) == {(level, "branch")}
    assert given(history) == {(level, "branch")}, "one for all heads of the log that was left"


@pytest.mark.parametrize("pinned", [True, False])
def test_heads_from_before_a_key_stay_honest_if_a_backup_is_older_than_the_key(
    state: State, tmp_path: Path, pinned: bool
) -> None:
    history = History(state)

    async def story() -> None:
        await history.begin()
        await work(history)
        saved = history.state.back_up()
        await work(history, 2)
        await history.end()
        history.keys = Keys(b"k" * 32)
        await history.begin()
        await work(history, 2)
        await history.end()
        history.state.put_back(saved)
        history.keys = Keys(b"n" * 32)  # the other one is lost
        await history.begin()
        await history.store.log.restored("the disk died", 0)
        await work(history, 2)
        await history.end()

    run(story())
    pins = [Keys(each * 32).public for each in (b"k", b"n")] if pinned else []
    assert audit(history, tmp_path, pins) == {("note", "branch"), ("note", "downtime")}


def test_a_state_without_entries_that_is_put_back_beside_its_tip_is_an_alert(
    state: State,
    tmp_path: Path,
) -> None:
    history = History(state)

    async def story() -> None:
        await history.begin()
        saved = history.state.back_up()
        await work(history)
        await history.end()
        kept = history.state.tip.read()
        history.state.put_back(saved)
        history.state.put_tip(kept)
        branch = await history.begin()
        assert branch is not None
        assert branch.is_alert
        await work(history)
        await history.end()

    run(story())
    assert ("bad", "branch") in audit(history, tmp_path)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_a_kill_while_a_state_begins_makes_no_branch(
    state: State, tmp_path: Path, first: bool, before: bool
) -> None:
    history = History(state)

    async def story() -> None:
        if not first:
            await history.begin()
            await history.end()
        with history.killing(1, before=before):
            assert not await history.live(history.begin())
        assert await history.begin() is None
        await work(history)
        await history.end()

    run(story())
    assert audit(history, tmp_path) == set()


def killed_at_the_seal(history: History, *, before: bool) -> Callable[[], Any]:
    async def story() -> None:
        await history.begin()
        await work(history)
        history.clock.advance(3600)
        await history.poll("okta")
        with history.killing(1, before=before):
            assert not await history.live(history.seal())
        newest = history.state.tip.read()
        with history.view() as view:
            state = view.evidence()
        assert newest is not None
        assert newest.size <= state.entries, "a tip that is newer than the state is a roll-back"
        assert await history.begin() is None
        assert (await history.store.log.state()).broken is None
        await work(history)
        await history.end()

    return story


@pytest.mark.parametrize("before", [True, False])
def test_a_kill_on_either_side_of_the_commit_of_a_seal_makes_no_branch(
    state: State, tmp_path: Path, before: bool
) -> None:
    history = History(state)
    run(killed_at_the_seal(history, before=before)())
    assert audit(history, tmp_path) == set()
    assert history.check().whole


@on_sqlite
def test_a_state_does_not_begin_without_a_tip(state: State, tmp_path: Path) -> None:
    history = History(state)

    async def story() -> None:
        full = OSError(28, "No space left on device")
        with (
            mock.patch.object(TipFile, "write", side_effect=full),
            pytest.raises(StateError, match="No space left on device"),
        ):
            await history.begin()
        await history.end()
        assert await history.begin() is None
        await work(history)
        await history.end()

    run(story())
    assert audit(history, tmp_path) == set()


def test_nothing_is_exported_between_a_restore_and_its_first_seal(
    state: State, tmp_path: Path
) -> None:
    history = History(state)

    def exported(folder: Path) -> None:
        folder.mkdir()
        with history.view() as view:
            view.in_snapshot(lambda db: exporting.export(db, folder))

    async def story() -> None:
        await history.begin()
        await work(history)
        saved = history.state.back_up()
        await work(history)
        await history.end()
        history.state.put_back(saved)
        assert await history.begin() is not None
        with pytest.raises(RelayError, match="of which nothing is sealed yet"):
            exported(tmp_path / "early")
        assert list((tmp_path / "early").iterdir()) == []
        assert ("bad", "branch") in given(history)
        assert ("bad", "head_foreign") not in given(history)
        await history.store.log.restored("the disk died", 0)
        await work(history)
        exported(tmp_path / "exported")
        await history.end()

    run(story())
    witness = history.siems["splunk"].splunk(tmp_path / "splunk.csv")
    report = program.check([tmp_path / "exported"], [witness], [], {}, [])
    assert report["whole"], report["findings"]


def test_who_claims_another_log_without_saying_so_is_found(state: State, tmp_path: Path) -> None:
    history = History(state)

    async def story() -> None:
        await history.begin()
        await work(history)
        saved = history.state.back_up()
        await work(history)
        await history.end()
        history.state.put_back(saved)
        await history.begin()
        await history.end()
        with history.state.raw() as db:
            assert db.execute("delete from fact where text like '%continued%'").rowcount == 1
        await history.begin()
        await work(history)
        await history.end()

    run(story())
    assert ("bad", "branch") in audit(history, tmp_path)
