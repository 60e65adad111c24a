"""With a key: what was changed in the state before it was sealed is noticed where it is read."""

import asyncio
import json
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

import pytest
from tests.conftest import make_event
from tests.support.states import State, rows
from tests.support.stores import NOON, backlog, opened, span

from auditrelay.events.page import Page
from auditrelay.evidence import facts
from auditrelay.evidence.heads import Head, Keys, is_signed, succession
from auditrelay.service.seal import head_event
from auditrelay.settings.reserved import ALERTS
from auditrelay.store import DeadLetter, Proof, RejectedEvent
from auditrelay.store.packing import pack, unpack
from auditrelay.store.sealing import Run
from auditrelay.store.sql.store import SqlStore

KEY, OTHER = Keys(b"k" * 32), Keys(b"o" * 32)


async def begun(state: State, keys: Keys | None, before: Keys | None = None) -> SqlStore:
    store = await opened(state, keys=keys)
    configured = facts.configured(digest=bytes(32), settings={})
    await store.log.begin(Run("0" * 32, {}, configured, before))
    await store.start_source(ALERTS, NOON)
    await store.start_source("okta", NOON)
    await store.start_sink("splunk", ["okta", ALERTS])
    return store


async def filled(state: State, keys: Keys | None) -> None:
    """Leave a state with a page that waits, of which one event was taken, and a dead letter."""
    store = await begun(state, keys)
    page = Page.of([make_event(number, source="okta") for number in range(3)])
    bad = DeadLetter(make_event(9, source="okta"), "not_normalized", "", None, 0, NOON, NOON)
    proof = Proof(covers=(span(-60, 60),))
    await store.add("okta", page, proof=proof, bad=[bad])
    await store.log.seal(head_event, Head if keys is None else keys.head)
    [first, *_] = await backlog(store)
    await store.settle("splunk", [(first.first, first.first + 1)])
    await store.close()


def forge(state: State, statement: str, *values: object) -> None:
    with state.raw() as db:
        assert db.execute(statement, values).rowcount > 0


def codes(state: State, keys: Keys | None) -> set[str]:
    with state.view(keys) as view:
        return {each.code for each in view.check().findings}


def names(found: Iterable[Any]) -> list[str]:
    return [json.loads(text)["fact"] for (text,) in found]


async def test_what_is_ours_has_its_tag(state: State) -> None:
    await filled(state, KEY)
    assert codes(state, KEY) == set()
    for table in ("fact", "spool", "sink", "feed", "dead_letter"):
        found = rows(state, f"select tag from {table}")  # names of ours
        assert found, table
        assert all(tag is not None for (tag,) in found), table
    store = await begun(state, KEY)
    assert (await store.log.state()).broken is None
    await store.close()


async def test_without_a_key_there_are_no_tags(state: State) -> None:
    await filled(state, None)
    assert codes(state, None) == set()
    assert rows(state, "select 1 from spool where tag is not null") == []


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("update sink set position = position + 1", "position"),
        ("update sink set tag = null", "position"),
        ("update feed set since = since + 1", "position"),
        ("update dead_letter set reason = 'other'", "letters"),
        ("update dead_letter set dropped = 1", "letters"),
        ("update spool set sha = zeroblob(32)", "spool"),
        ("update spool set tag = zeroblob(32)", "spool"),
        ("update fact set text = replace(text, '1', '2')", "state"),
        ("update fact set tag = null", "state"),
    ],
)
async def test_a_row_that_was_changed_is_found(state: State, statement: str, code: str) -> None:
    await filled(state, KEY)
    forge(state, statement)
    try:
        assert code in codes(state, KEY)
    except (ValueError, KeyError):
        pytest.fail("a changed row must not end the check")
    store = await begun(state, KEY)
    assert (await store.log.state()).broken is not None
    await store.close()


async def test_a_position_that_was_moved_goes_back_to_the_sealed_one(state: State) -> None:
    await filled(state, KEY)
    forge(state, "update sink set position = 1000")
    store = await begun(state, KEY)
    pages = await backlog(store)
    uids = [event.uid for page in pages for event in page.events if event.source == "okta"]
    assert uids == [make_event(number).uid for number in range(3)], "repeated, and none is lost"
    assert "position of the sink splunk" in str((await store.log.state()).broken)
    await store.close()


@pytest.mark.parametrize("keys", [KEY, None])
async def test_a_page_that_was_changed_is_not_delivered(state: State, keys: Keys | None) -> None:
    await filled(state, keys)
    forge(state, "update spool set events = zeroblob(9) where first = 0")
    store = await begun(state, keys)
    pages = await backlog(store)
    assert {page.source for page in pages} == {ALERTS}
    gaps = [each for each in await store.ledger("okta") if each.gap]
    assert [each.gap for each in gaps] == ["damaged"]
    assert "page at place 0" in str((await store.log.state()).broken)
    bodies = names(rows(state, "select text from fact where unit = 'source okta' order by id"))
    assert bodies[-2:] == ["void", "gap"]
    assert codes(state, keys) == set(), "what is left is explained"
    # It is read again: its uids are not known any more.
    page = Page.of([make_event(number, source="okta") for number in range(3)])
    added = await store.add("okta", page, proof=Proof(covers=(span(-60, 60),)))
    assert len(added.new) == 3
    assert [each.gap for each in await store.ledger("okta") if each.gap] == []
    await store.log.seal(head_event, Head if keys is None else keys.head)
    await store.close()
    assert codes(state, keys) == set()


@pytest.mark.parametrize("unit", ["source okta", "source stranger", "sink stranger", "nothing"])
async def test_facts_that_are_not_ours_are_not_sealed(state: State, unit: str) -> None:
    await filled(state, KEY)
    forged = facts.text(facts.forgot(before=471108154711, events=1))
    forge(state, "insert into fact (unit, at, text) values (?, 1, ?)", unit, forged)
    store = await begun(state, KEY)
    await store.log.seal(head_event, KEY.head)
    assert (await store.log.state()).broken is not None
    for table in ("fact", "entry"):
        assert rows(state, f"select 1 from {table} where text like '%471108154711%'") == []
    units = {name for (name,) in rows(state, "select distinct unit from entry")}
    ours = {"instance", "source okta", f"source {ALERTS}", "sink splunk"}
    assert units == ours, "a foreign fact names no unit of the log"
    await store.close()


@pytest.mark.parametrize(
    "word",
    [
        "substr(word, 1, length(word) - 137) || '-'",
        f"substr(word, 1, length(word) - 128) || '{'0' * 128}'",
    ],
    ids=["without its signature", "with another one"],
)
async def test_a_head_that_is_not_signed_as_it_was_is_found(state: State, word: str) -> None:
    await filled(state, KEY)
    assert codes(state, KEY) == set()
    state.unguard()
    forge(state, f"update head set word = {word}")  # constants
    assert codes(state, KEY) == {"rewritten", "state"}


async def test_a_key_that_replaces_another_is_vouched_for(state: State) -> None:
    await filled(state, KEY)
    store = await begun(state, OTHER, KEY)
    assert (await store.log.state()).broken is None
    sealed = await store.log.seal(head_event, OTHER.head)
    await store.close()
    assert sealed.head.is_signed_by(OTHER.public)
    found = [
        fact
        for (text,) in rows(state, "select text from entry where unit = 'instance' order by n")
        for fact in json.loads(text)["facts"]
        if fact["fact"] == "key"
    ]
    first, second = found
    assert (first["public"], first["before"], first["signature"]) == (KEY.public.hex(), None, None)
    assert (second["public"], second["before"]) == (OTHER.public.hex(), KEY.key_id)
    signature = bytes.fromhex(second["signature"])
    assert is_signed(KEY.public, signature, succession(OTHER.public))
    assert codes(state, OTHER) == set(), "all tags are those of the new key"


async def test_a_change_before_the_key_was_replaced_is_found(state: State) -> None:
    await filled(state, KEY)
    forge(state, "update spool set tag = zeroblob(32)")
    store = await begun(state, OTHER, KEY)
    assert (await store.log.state()).broken is not None
    await store.close()


@pytest.mark.parametrize(("before", "after"), [(None, KEY), (KEY, None), (KEY, OTHER)])
async def test_a_key_that_comes_goes_or_is_lost(
    state: State, before: Keys | None, after: Keys | None
) -> None:
    await filled(state, before)
    store = await begun(state, after)
    assert (await store.log.state()).broken is None
    await store.close()
    [(text,)] = rows(state, 'select text from fact where text like \'%"fact":"key"%\'')
    fact = json.loads(text)
    assert fact["public"] == ("" if after is None else after.public.hex())
    assert fact["before"] == (None if before is None else before.key_id)
    assert fact["signature"] is None
    assert codes(state, after) == set()


async def test_an_open_fact_that_is_gone_is_missed_before_the_seal_and_at_it(
    state: State,
) -> None:
    store = await begun(state, KEY)
    await store.log.seal(head_event, KEY.head)
    for number in range(3):
        configured = facts.configured(digest=bytes(32), settings={"number": number})
        await store.log.configure(configured)
    forge(state, "delete from fact where text like '%\"number\":2%'")  # the last: no hole
    assert codes(state, KEY) == {"state"}
    assert (await store.log.state()).broken is None
    await store.log.seal(head_event, KEY.head)
    assert "wait to be sealed are missing" in str((await store.log.state()).broken)
    assert codes(state, KEY) == set(), "what is there now is counted from the new head on"
    await store.close()


async def test_facts_that_come_while_a_seal_is_drafted_are_counted(state: State) -> None:
    store = await begun(state, KEY)

    async def configure(number: int) -> None:
        configured = facts.configured(digest=bytes(32), settings={"number": number})
        await store.log.configure(configured)

    for number in range(20):
        sealing = asyncio.ensure_future(store.log.seal(head_event, KEY.head))
        await asyncio.sleep(0)
        await configure(number)
        await sealing
        await configure(-number)
    assert codes(state, KEY) == set()
    await store.close()
    store = await begun(state, KEY)
    assert (await store.log.state()).broken is None
    await store.close()


async def test_a_check_without_the_key_says_that_it_compares_no_tags(state: State) -> None:
    await filled(state, KEY)
    with state.view() as view:
        checked = view.check()
    assert checked.whole
    [note] = checked.findings
    assert (note.level, note.code) == ("note", "key")
    assert "were not compared" in note.what


def change_a_page(state: State, keys: Keys | None) -> None:
    """Blame another event, and with a key make what no key is needed for again."""
    [(blob,)] = rows(state, "select events from spool where first = 0")
    page, _ = unpack(blob, 0, 3)
    forged, _ = pack(Page.of([make_event(77, source="okta"), *list(page)[1:]]))
    sha = rows(state, "select sha from spool where first = 0")[0][0]
    if keys is not None:
        sha = sha256(forged).digest()
    forge(state, "update spool set events = ?, sha = ? where first = 0", forged, sha)


@pytest.mark.parametrize("keys", [KEY, None])
async def test_a_page_that_was_changed_is_not_sent_again_from_the_spool(
    state: State, keys: Keys | None
) -> None:
    await filled(state, keys)
    store = await begun(state, keys)
    change_a_page(state, keys)
    assert await store.spooled_events("okta", span(-60, 60)) is None, "it is read at the source"
    assert "page at place 0" in str((await store.log.state()).broken)
    assert [each.gap for each in await store.ledger("okta") if each.gap] == ["damaged"]
    await store.close()
    assert codes(state, keys) == set(), "what is left is explained"


@pytest.mark.parametrize("keys", [KEY, None])
async def test_a_record_is_not_compared_with_one_that_was_changed(
    state: State, keys: Keys | None
) -> None:
    await filled(state, keys)
    store = await begun(state, keys)
    change_a_page(state, keys)
    assert await store.contents.spooled([0, 1]) == {}
    assert "page at place 0" in str((await store.log.state()).broken)
    await store.close()
    assert codes(state, keys) == set()


@pytest.mark.parametrize("keys", [KEY, None])
async def test_a_dead_letter_is_not_made_of_an_event_that_was_changed(
    state: State, keys: Keys | None
) -> None:
    await filled(state, keys)
    store = await begun(state, keys)
    change_a_page(state, keys)  # after the sink has read it
    rejected = RejectedEvent(1, "invalid", "no", 400, 1, NOON, NOON, reduced=True)
    await store.settle("splunk", [(0, 3)], [rejected])
    with state.view(keys) as view:
        assert view.dead_letters(sinks=["splunk"]) == []
    assert "page at place 0" in str((await store.log.state()).broken)
    assert [each.gap for each in await store.ledger("okta") if each.gap] == ["damaged"]
    page = Page.of([make_event(number, source="okta") for number in range(3)])
    added = await store.add("okta", page, proof=Proof(covers=(span(-60, 60),)))
    assert len(added.new) == 3, "it comes again"
    await store.close()
    assert codes(state, keys) == set()
