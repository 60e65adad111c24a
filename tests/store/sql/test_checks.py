"""An edit of the state without its evidence is found; the state as it is, is whole."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
from tests.conftest import make_event
from tests.support.states import ENGINES, Engine, State, forge, maker
from tests.support.stores import MINUTE, NOON, explained, opened, seal, span

from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.evidence import facts
from auditrelay.evidence.heads import Head
from auditrelay.store import DeadLetter, KnownFile, Proof, RejectedEvent
from auditrelay.store.sql import intake
from auditrelay.store.sql import seal as sealing
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.evidence import heads
from auditrelay.store.sql.facts import insert
from auditrelay.store.sql.store import SqlStore

Make = Callable[..., AuditEvent]


@pytest.fixture(scope="module")
def kept() -> Iterator[dict[Engine, State]]:
    """The states that were filled: one on each engine, of which each test has a copy."""
    kept = dict[Engine, State]()
    yield kept
    for state in kept.values():
        state.drop()


@pytest.fixture(params=ENGINES)
async def filled(request: pytest.FixtureRequest, kept: dict[Engine, State]) -> AsyncIterator[State]:
    """A state with something of everything, partly sealed."""
    engine: Engine = request.param
    if engine not in kept:
        folder = request.getfixturevalue("tmp_path_factory").mktemp("filled")
        kept[engine] = maker(engine, request)(folder / "state")
        await fill(kept[engine])
    state = kept[engine].copy()
    yield state
    state.forget()


async def fill(state: State) -> None:
    event = make_event
    store = await opened(state)
    await store.start_source("voice", NOON - timedelta(days=7))
    await store.start_sink("splunk", ["voice"])
    letter = DeadLetter(event(60), "bad_row", "no", None, 1, NOON, NOON)
    await store.add(
        "voice",
        Page.of([event(number) for number in range(4)]),
        proof=Proof(covers=(span(0, 5),), gaps=((span(7, 9), "retention"),)),
        notice=lambda *_: event(90),
        bad=[letter],
    )
    file = Proof(file=KnownFile(b"k" * 32, "a.csv"), covers=(span(5, 6),))
    await store.add("voice", Page.of([event(7)]), via="export a.csv", proof=file)
    await store.resweep_done("voice", timedelta(hours=1), NOON + MINUTE)
    shown = {bytes.fromhex(event(number).uid) for number in (1, 2, 3)}
    await store.record_deleted("voice", span(0, 5), shown, 99)
    refused = RejectedEvent(0, "invalid", "no", 400, 1, NOON, NOON)
    await store.settle("splunk", [(0, 2)], [refused])
    await seal(store)
    await store.add("voice", Page.of([event(20), event(21)]))
    await store.close()
    explained(state, sealed=True)


def codes(state: State) -> set[str]:
    with state.view() as view:
        return {each.code for each in view.check().findings}


FILES = "parcel"
OF_ZERO = sha256(bytes(1)).hexdigest()

FORGERIES: dict[str, tuple[Sequence[str], str]] = {
    "ledger entry deleted": (["delete from coverage where gap is null"], "ledger"),
    "its count raised": (["update coverage set events = events + 1 where gap is null"], "ledger"),
    "a gap covered up": (["update coverage set gap = null"], "ledger"),
    "a gap moved": (['update coverage set "end" = "end" - 1 where gap is not null'], "ledger"),
    "an entry deleted": (["delete from entry where n = 1"], "order"),
    "the last one deleted": (["delete from entry where n = (select max(n) from entry)"], "cut"),
    "an entry edited": (
        ["update entry set text = replace(text, '\"events\":5', '\"events\":4')"],
        "rewritten",
    ),
    "two entries exchanged": (
        [
            "update entry set n = -1 where n = 1",
            "update entry set n = 1 where n = 2",
            "update entry set n = 2 where n = -1",
        ],
        "order",
    ),
    "a head edited": (["update head set root = zeroblob(32)"], "rewritten"),
    "a head deleted": (["delete from head"], "nothing"),
    "frontier edited": (
        ["update meta set value = zeroblob(40) where name = 'frontier'"],
        "order",
    ),
    "log renamed": (["update meta set value = 'x' where name = 'log'"], "order"),
    "uid deleted": (["delete from known where position = 1"], "known"),
    "open uid deleted": (["delete from known where position = 7"], "known"),
    "uid inserted": (
        ["insert into known select source, zeroblob(28), 99, null from known limit 1"],
        "known",
    ),
    "uid exchanged": (
        ["update known set key = cast(substr(key, 1, 27) || x'00' as blob) where position = 1"],
        "known",
    ),
    "a bad record's uid deleted": (["delete from known where position < 0"], "known"),
    "forgotten_before moved": (
        ["insert into meta values ('forgotten_before', 1152921504606846976)"],
        "state",
    ),
    "prune floor moved": (["insert into meta values ('pruned', 99)"], "state"),
    "start moved": (["update source set started = started + 1000 where name = 'voice'"], "state"),
    "resweeps marked as done": (["update resweep set until = until + 1000"], "state"),
    "deleted events hidden": (["delete from vanished"], "state"),
    "file digest exchanged": ([f"update {FILES} set key = zeroblob(32)"], "state"),
    "feed narrowed": (["delete from feed where source = 'voice'"], "state"),
    "waiting page deleted": (["delete from spool where first = 7"], "spool"),
    "sealed page deleted": (["delete from spool where first = 0"], "spool"),
    "waiting page edited": (["update spool set events = zeroblob(9) where first = 7"], "spool"),
    "page and digest edited": (
        [f"update spool set events = x'00', sha = x'{OF_ZERO}' where first = 0"],
        "spool",
    ),
    "page invented": (
        [
            (
                'insert into spool select 99, 1, source, 0, 1, events, "only", sha, tag '
                "from spool limit 1"
            )
        ],
        "spool",
    ),
    "place moved on": (
        ["update meta set value = value + 1 where name = 'next_position'"],
        "spool",
    ),
    "page for one sink alone": (
        ['update spool set "only" = (select id from sink) where first = 7'],
        "spool",
    ),
    "position moved back": (["update sink set position = 1"], "position"),
    "position beyond the end": (["update sink set position = 1000"], "position"),
    "dead letter deleted": (["delete from dead_letter where sink is not null"], "letters"),
    "dead letter dropped": (["update dead_letter set dropped = 1 where sink > 0"], "letters"),
    "bad record deleted": (["delete from dead_letter where sink is null"], "letters"),
    "dead letter invented": (
        ["update dead_letter set uid = 'ab' where sink is not null"],
        "letters",
    ),
    "open facts deleted": (["delete from fact"], "spool"),
    "open fact edited": (
        ["update fact set text = replace(text, '\"pages\":[[7,2]]', '\"pages\":[[7,1]]')"],
        "spool",
    ),
    "head said to be younger": (["update head set at = at + 1"], "rewritten"),
    "head of another log": (
        [f"update head set word = replace(word, substr(word, 6, 32), '{'0' * 32}')"],
        "rewritten",
    ),
    "place of a head moved": (["update head set place = 1"], "state"),
    "entry filed under another unit": (
        ["update entry set unit = 'source other' where unit = 'source voice'"],
        "order",
    ),
    "spool said to be full": (
        ["update meta set value = 1125899906842624 where name = 'spool_bytes'"],
        "state",
    ),
    "run said to have stopped": (["insert into meta values ('runs', 0)"], "state"),
    "sink ended": (["update sink set ends = 2"], "state"),
    "sink fed with nothing": (["update sink set sources = '[]'"], "state"),
    "sink invented": (
        ["insert into sink (name, sources, position) values ('ghost', '[]', 0)"],
        "state",
    ),
    "ranges ahead reversed": (["update sink set ahead = '[[5, 1]]'"], "position"),
    "dead letter moved to no sink": (
        ["update dead_letter set sink = 99 where sink is not null"],
        "letters",
    ),
    "bad record dropped": (["update dead_letter set dropped = 1 where sink is null"], "letters"),
    "bad record hidden": (["update dead_letter set replayed = 1 where sink is null"], "letters"),
    "bad record renamed": (["update dead_letter set uid = 'ab' where sink is null"], "letters"),
    "a bad record's uid exchanged": (
        ["update known set key = zeroblob(28) where position < 0"],
        "known",
    ),
    "event of a dead letter damaged": (["update dead_letter set event = x'00'"], "letters"),
    "event of a dead letter exchanged": (
        [
            (
                "update dead_letter set event = (select event from dead_letter where sink is null)"
                " where sink is not null"
            )
        ],
        "letters",
    ),
    "dead letter of another source": (
        ["update dead_letter set source = 'x' where sink is not null"],
        "letters",
    ),
    "deleted event exchanged": (
        [
            (
                "update vanished set key = zeroblob(28) "
                "where key = (select key from vanished order by key limit 1)"
            )
        ],
        "state",
    ),
    "uids of our own put in": (
        ["insert into own_page select 99, id, 0, zeroblob(28) from source limit 1"],
        "known",
    ),
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_a_forgery_is_found(filled: State, forgery: str) -> None:
    statements, code = FORGERIES[forgery]
    forge(filled, *statements)
    assert code in codes(filled), codes(filled)


async def test_removing_the_evidence_itself_is_no_success(filled: State) -> None:
    forge(filled, "delete from entry", "delete from head", "delete from fact")
    with filled.view() as view:
        checked = view.check()
    assert not checked.whole
    assert "nothing" in {each.code for each in checked.findings}


async def test_each_finding_says_where_what_and_what_to_do(filled: State) -> None:
    forge(filled, *(statement for each, _ in FORGERIES.values() for statement in each[:1]))
    with filled.view() as view:
        findings = view.check().findings
    assert len(findings) > 5
    for each in findings:
        assert each.level == "bad"
        assert each.what
        assert "copy" in each.do or "start the service" in each.do


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("update entry set text = 'x' where n = 1", "form"),
        ("update entry set text = '{}' where n = 1", "form"),
        ("update entry set text = replace(text, '\"facts\":[', '\"facts\":[1,')", "form"),
        ("update entry set text = replace(text, '\"pages\"', '\"leaves\"')", "form"),
        (f"update entry set text = '{'[' * 100_000}' where n = 1", "form"),
        ("update fact set text = 'x'", "state"),
        ("update fact set text = '{\"fact\":\"continued\"}', unit = 'instance'", "form"),
        ('update fact set text = \'{"fact":"accepted"}\'', "state"),
        ("update sink set ahead = 'x'", "state"),
        ("delete from meta where name = 'frontier'", "order"),
        ("delete from meta where name = 'log'", "order"),
        ("delete from meta where name = 'next_position'", "spool"),
        ("delete from meta where name = 'spool_bytes'", "state"),
        ("update head set word = 'x'", "rewritten"),
    ],
)
async def test_what_cannot_be_read_is_a_finding_too(
    filled: State, statement: str, code: str
) -> None:
    with filled.view() as view:
        head = Head.parse(view.read(heads)[-1].word)
    forge(filled, statement)
    assert code in codes(filled), codes(filled)
    with filled.view() as view:
        given = view.check([("a SIEM", head)])
    assert not given.whole


async def test_the_heads_that_fit_that_contradict_and_that_are_absent_are_counted(
    store: SqlStore, state: State
) -> None:
    made = [(await seal(store)).head for _ in range(4)]
    await store.close()

    def counted(*given: tuple[str, Head]) -> tuple[int, int, int, int]:
        with state.view() as view:
            found = view.check(given).as_json()["heads"]
        return found["given"], found["fit"], found["absent"], found["contradict"]

    siem = [("a SIEM", head) for head in made]
    assert counted() == (4, 4, 0, 0)
    assert counted(*siem) == (8, 8, 0, 0)
    assert counted(siem[0], siem[3]) == (6, 6, 2, 0)
    assert counted(("one", made[0]), ("another", made[3])) == (6, 6, 0, 0), "a word is no file"
    assert counted(("a SIEM", Head("0" * 32, 1, bytes(32)))) == (5, 4, 0, 0), "of another log"
    assert counted(("a SIEM", Head(made[0].log, made[0].size, bytes(32)))) == (5, 4, 0, 1)
    with state.view() as view:
        [note] = view.check([siem[0], siem[3]]).findings
    assert (note.level, note.code, note.where) == ("note", "head_absent", "a SIEM")
    assert f"2 heads between others are missing, such as that over {made[1].size}" in note.what
    forge(state, f"update head set root = zeroblob(32) where size = {made[1].size}")
    assert counted() == (4, 3, 0, 1)


# --- bugs that a test must find


@contextlib.contextmanager
def planted(module: Any, name: str, bug: Callable[..., Any]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, bug)
        yield


async def test_a_page_left_out_of_the_pages_is_found(
    store: SqlStore, event: Make, state: State
) -> None:
    def without_the_last(bodies: Any) -> Any:
        return [
            {**body, "pages": body["pages"][:-1]} if len(body.get("pages", ())) > 1 else body
            for body in merge(bodies)
        ]

    merge = facts.merge
    for number in range(3):
        await store.add("voice", Page.of([event(number)]))
    with planted(facts, "merge", without_the_last):
        await seal(store)
    assert "spool" in codes(state)


async def test_sorted_keys_of_a_page_are_found(store: SqlStore, event: Make, state: State) -> None:
    with planted(facts, "digest", lambda keys: digest(sorted(keys))):
        await store.add("voice", Page.of([event(2), event(1)]))
    assert codes(state) == {"nothing", "known"}


digest = facts.digest


async def test_a_fact_that_is_written_later_is_found(
    store: SqlStore, event: Make, state: State
) -> None:
    with planted(intake, "insert", lambda *_: None):  # killed before it was written
        await store.add("voice", Page.of([event(1)]), proof=Proof(covers=(span(0, 5),)))
    assert {"known", "spool", "ledger"} <= codes(state)


async def test_a_seal_that_takes_later_facts_is_found(
    store: SqlStore, event: Make, state: State
) -> None:
    real = sealing._write

    def takes_all(db: Connection, *rest: Any) -> None:
        real(db, *rest)
        db.execute("delete from fact where unit = 'source voice'")

    await store.add("voice", Page.of([event(1)]))
    adding: list[Any] = []
    draft = sealing.draft

    def then_one_more(db: Connection, *rest: Any) -> Any:
        made = draft(db, *rest)
        with state.raw() as other:
            late = facts.looked_again(delay=9, until=9)
            other.execute("insert into resweep select 1, 9000000, 9")
            insert(other, "source voice", [late], 0)
        return made

    with planted(sealing, "draft", then_one_more), planted(sealing, "_write", takes_all):
        await seal(store)
    assert adding == []
    assert "state" in codes(state)
