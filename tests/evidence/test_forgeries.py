"""
Every forgery that the design knows, with the code by which it is found, or that it is not.

The numbers are those of docs/evidence.md. Each has a deed, and where that is noticed: in the state
by ``coverage --check``, alone or with the heads that the SIEMs have; by the auditor's program with
what SIEMs and vendors hold; at the next start of the service; or by the next seal. An empty set
says that it goes unseen there.
"""

import contextlib
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from hashlib import sha256
from inspect import isawaitable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec
import pytest
from tests.conftest import make_event
from tests.support.histories import HOUR, SINKS, SOURCES, History, Shown, run
from tests.support.states import ENGINES, Engine, InFolder, State, maker, on_each
from tests.support.stores import NOON

from auditrelay.errors import EvidenceBroken, StateError
from auditrelay.events.page import Page
from auditrelay.evidence import facts
from auditrelay.evidence.auditor import program
from auditrelay.evidence.heads import Head, Keys
from auditrelay.evidence.tree import Frontier, leaf
from auditrelay.store import DeadLetter, KnownFile, Proof
from auditrelay.store.packing import pack, unpack
from auditrelay.store.sql import ledger
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.event_proof import event_proof
from auditrelay.store.sql.facts import insert
from auditrelay.store.sqlite.tip import TIP
from auditrelay.window import Interval, micros, moment

HOURS: Final = 6
ALL: Final = Interval(NOON, NOON + 24 * HOUR)


# --- the honest state -----------------------------------------------------------------------------


async def live(history: History) -> State:
    """
    Let some hours pass with something of everything, sealed each hour; leave some of it open.

    Returns a copy of the state as it was two hours before.
    """
    older = list[State]()
    await history.begin()
    for hour in range(HOURS):
        now = NOON + hour * HOUR
        for source in SOURCES:
            is_late = (hour, source) == (1, "okta")
            history.happen(source, 4, late=2 * HOUR if is_late else timedelta())
        history.clock.advance(HOUR)
        for source in {2: SOURCES, 4: ["okta"]}.get(hour, ()):  # the last one stays open
            await history.declare(source, Interval(now, now + HOUR), "vendor_retention")
        for source in SOURCES:
            await history.poll(source)
        if hour in BEFORE_DELIVERY:
            await BEFORE_DELIVERY[hour](history)
        await history.deliver("splunk", refuse=3 if hour == 1 else 0)
        await history.deliver("elastic")
        if hour == 4:
            with TemporaryDirectory() as yearly:  # before uids are forgotten
                history.export(Path(yearly))
            await history.store.prune(history.clock.now())
        if hour == HOURS - 1:
            await _some_more(history)
        await history.seal()
        if hour == 3:
            older.append(history.state.copy())
    await history.deliver("splunk", 3)  # so some waits of what is sealed
    await history.deliver("elastic")
    await _some_more(history)
    return older[0]


async def _operate(history: History) -> None:
    """Replay a dead letter, and drop one; a third stays."""
    with history.view() as view:
        letters = [each.id for each in view.dead_letters(sinks=["splunk"])]
    await history.store.replay(letters[:1])
    await history.store.drop(letters[1:2], history.clock.now())


async def _read_again(history: History) -> None:
    """Fill a gap by a backfill, and one by a resweep, which finds late events; one is gone."""
    await history.read("voice", Interval(NOON + 2 * HOUR, NOON + 3 * HOUR), via="backfill")
    await history.resweep("okta")
    await _vanish(history)


async def _put_aside(history: History) -> None:
    """Read a record that is no event, and a file."""
    now = history.clock.now()
    event = make_event(90_000, source="voice", at=micros(NOON + HOUR) + 30)
    letter = DeadLetter(event, "bad_row", "no", None, 1, now, now)
    proof = Proof(file=KnownFile(b"k" * 32, "a.csv"))
    await history.store.add("voice", Page.of([]), bad=[letter], proof=proof)


async def _vanish(history: History) -> None:
    """Let a vendor take back an event, and find that out."""
    span = Interval(NOON + 3 * HOUR, NOON + 4 * HOUR)
    gone, *rest = history.shown("okta", span)
    shown = {bytes.fromhex(each.uid) for each in rest}
    await history.store.record_deleted("okta", span, shown, 1 << 40)
    history.vendors["okta"] = [each for each in history.vendors["okta"] if each.event is not gone]


async def _some_more(history: History) -> None:
    for source in SOURCES:
        history.happen(source, 3)
    history.clock.advance(600)
    for source in SOURCES:
        await history.poll(source)


BEFORE_DELIVERY: Final = {1: _put_aside, 3: _operate, 4: _read_again}
"""What else is done in which hour."""


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    """The engine of the state."""
    engine: Engine = request.param
    return engine


@pytest.fixture(scope="module")
def states(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Engine, bool], tuple[History, State]]]:
    """
    The state as a kill leaves it, with what is outside of it, and the state two hours before.

    There is one on each engine, with a key and without one; it is made for the first who asks.
    """
    made = dict[tuple[Engine, bool], tuple[History, State]]()

    def honest(engine: Engine, keyed: bool) -> tuple[History, State]:
        if (engine, keyed) not in made:
            state = maker(engine, request)(tmp_path_factory.mktemp("honest") / "state")
            keys = Keys(bytes(range(32))) if keyed else None
            history = History(state, keys=keys, retention=2 * HOUR, remember=4 * HOUR)
            made[engine, keyed] = history, run(_killed(history))
        return made[engine, keyed]

    yield honest
    for history, _ in made.values():
        history.state.drop()


async def _killed(history: History) -> State:
    older = await live(history)
    await history.kill()
    return older


# --- those who look -------------------------------------------------------------------------------


@dataclass
class Case:
    """A copy of all of it for one forgery, and what comes out."""

    history: History
    folder: Path
    older: State
    """The state as it was two hours before."""
    found: dict[str, set[str]] = field(default_factory=dict)
    notes: set[str] = field(default_factory=set)
    text: str = ""
    """What the auditor's program prints."""

    @property
    def state(self) -> State:
        return self.history.state

    @property
    def exported(self) -> Path:
        return self.folder / "export"

    # -- means of forgery

    @contextlib.contextmanager
    def db(self) -> Iterator[Connection]:
        """Open the state to write, as root can."""
        self.state.unguard()
        with self.state.raw() as db:
            yield db

    def sql(self, *statements: str) -> None:
        with self.db() as db:
            for statement in statements:
                assert db.execute(statement).rowcount != 0, f"it forges nothing: {statement}"

    def edit(self, *, journal: Callable[[list[bytes]], list[bytes]]) -> None:
        """Edit the lines of the export on its way to the auditor."""
        file = self.history.export(self.exported) / "journal.ndjson"
        lines = file.read_bytes().splitlines(keepends=True)
        made = journal(list(lines))
        assert made != lines
        file.write_bytes(b"".join(made))

    async def go_on(self, *, hours: int = 2) -> None:
        """Let the service run on the state, forged or not, and seal."""
        history = self.history
        await self.start()
        try:
            await work(history, hours)
        finally:
            await history.end()

    async def start(self) -> None:
        """Start the service, and keep what it says of it."""
        branch = await self.history.begin()
        said = self.found["start"] = set()
        if branch is not None:
            said.add("alert" if branch.is_alert else "warning")
        if (await self.history.store.log.state()).broken is not None:
            said.add("broken")

    # -- those who look

    def look(self) -> None:
        """Let the state be checked, and let the auditor look."""
        with contextlib.suppress(StateError):
            findings = self.history.check().findings
            self.found["state"] = {each.code for each in findings if each.level == "bad"}
            # As cron does it, with the heads that the SIEMs have.
            words = [word for siem in self.history.siems.values() for word in siem.words]
            given = self.history.check([("a SIEM", Head.parse(word)) for word in words])
            self.found["heads"] = {each.code for each in given.findings if each.level == "bad"}
        self.audit()

    def audit(self) -> None:
        siems, folder = self.history.siems, self.folder
        files = {"splunk": siems["splunk"].splunk(folder / "splunk.csv")}
        files["elastic"] = siems["elastic"].elastic(folder / "elastic.ndjson")
        lists = [self.history.list_vendor(name, ALL, folder / name) for name in SOURCES]
        if not self.exported.exists():
            try:
                self.history.export(self.exported)
            except (StateError, ValueError):
                return
        given = [self.exported], list(files.values()), self.history.pins, files, lists
        report = program.check(*given)
        findings = report["findings"]
        self.found["auditor"] = {each["code"] for each in findings if each["level"] == "bad"}
        self.notes = {each["code"] for each in findings if each["level"] == "note"}
        self.text = "\n".join([each["what"] for each in findings] + report["lines"])


async def work(history: History, hours: int) -> None:
    """Do the usual for some *hours*."""
    for _ in range(hours):
        for source in SOURCES:
            history.happen(source)
        history.clock.advance(HOUR)
        for source in SOURCES:
            await history.poll(source)
        for sink in SINKS:
            await history.deliver(sink)
        await history.seal()
        for sink in SINKS:
            await history.deliver(sink)


@pytest.fixture
def make(
    engine: Engine, states: Callable[[Engine, bool], tuple[History, State]], tmp_path: Path
) -> Iterator[Callable[[bool], Case]]:
    """Copy the state, with a key or without one, for a case."""

    def made(keyed: bool) -> Case:
        honest, older = states(engine, keyed)
        twins.append(honest.twin())
        return Case(twins[-1], tmp_path, older)

    twins = list[History]()
    yield made
    for twin in twins:
        twin.state.forget()


# --- deeds ----------------------------------------------------------------------------------------


def sql(*statements: str) -> Callable[[Case], None]:
    return lambda case: case.sql(*statements)


def in_export(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Case], None]:
    return lambda case: case.edit(journal=change)


def replaced(old: bytes, new: bytes) -> Callable[[Case], None]:
    """Replace text in the first entry that has it."""

    def change(lines: list[bytes]) -> list[bytes]:
        at = next(n for n, line in enumerate(lines) if old in line)
        return [*lines[:at], lines[at].replace(old, new, 1), *lines[at + 1 :]]

    return in_export(change)


OKTA: Final = "(select id from source where name = 'okta')"
VOICE: Final = "(select id from source where name = 'voice')"
SPLUNK: Final = "(select id from sink where name = 'splunk')"
WAITING: Final = f"(select position from sink where id = {SPLUNK})"
LAST_PAGE: Final = "(select max(first) from spool)"


def exchange_two_with_equal_xor(case: Case) -> None:
    with case.db() as db:
        rows = db.execute(f"select key from known where source = {OKTA} limit 4").fetchall()
        for (key,), (other,) in zip(rows[::2], rows[1::2], strict=True):
            mask = bytes(27) + b"\1"
            for old in (key, other):
                new = bytes(a ^ b for a, b in zip(old, mask, strict=True))
                db.execute("update known set key = ? where key = ?", (new, old))


def exchange_for_a_forgotten_place(which: str, case: Case) -> None:
    """Delete a uid that is known, and put another one in where one was forgotten."""
    with case.db() as db:
        (place,) = db.execute(
            f"select {which}(position) from known where source = {OKTA} and position >= 0"
        ).fetchone()
        known = f"known where source = {OKTA} and position = {place}"
        source, key = db.execute(f"select source, key from {known}").fetchone()
        db.execute(f"delete from {known}")
        db.execute("insert into known values (?, ?, 1, null)", (source, key[:8] + bytes(20)))


def forget_what_is_not_old(case: Case) -> None:
    """Delete a uid, and say in a fact that it was old."""
    with case.db() as db:
        (before,) = db.execute("select value from meta where name = 'forgotten_before'").fetchone()
        (place,) = db.execute(
            f"select min(position) from known where source = {OKTA} and position >= 0"
        ).fetchone()
        db.execute(f"delete from known where source = {OKTA} and position = {place}")
        insert(db, "source okta", [facts.forgot(before=before, events=1)], micros(NOON))


def rewrite(case: Case, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edit entries, and make all roots and heads again; without the key, they are not signed."""
    with case.db() as db:
        frontier, roots = Frontier(), dict[int, bytes]()
        sizes = {size for (size,) in db.execute("select size from head")}
        (log,) = db.execute("select value from meta where name = 'log'").fetchone()
        for n, line in db.execute("select n, text from entry order by n").fetchall():
            entry = json.loads(line)
            assert facts.text(entry) == line
            edit(entry)
            for fact in entry["facts"]:
                if fact["fact"] == "head":
                    fact["root"] = roots[fact["size"]].hex()
            made = facts.text(entry)
            frontier.append(leaf(made.encode()))
            db.execute("update entry set text = ? where n = ?", (made, n))
            if frontier.size in sizes:
                root = roots[frontier.size] = frontier.root()
                word = Head(log, frontier.size, root).word
                row = root, word, frontier.size
                db.execute("update head set root = ?, word = ? where size = ?", row)
        db.execute("update meta set value = ? where name = 'frontier'", (frontier.dump(),))


def delete_an_event_everywhere(case: Case) -> None:
    """Of the record that was put aside nothing is left, and what counted it is counted again."""
    with case.db() as db:
        (owner,) = db.execute(f"select {VOICE}").fetchone()
        db.execute("delete from known where position < 0")
        db.execute("delete from dead_letter where sink is null")
        for start, end in db.execute(
            'select start, "end" from coverage where gap is null'
        ).fetchall():
            events = ledger.count(db, owner, start, end)
            db.execute(
                "update coverage set events = ? where source = ? and start = ?",
                (events, owner, start),
            )

    def edit(entry: dict[str, Any]) -> None:
        if entry["unit"] != "source voice":
            return
        entry["facts"] = [each for each in entry["facts"] if each["fact"] != "put_aside"]
        entry["state"]["put_aside"] = 0
        for fact in entry["facts"]:
            if fact["fact"] == "covered" and fact["start"] == micros(NOON + HOUR):
                with case.state.raw() as db:
                    span = fact["start"], fact["end"], fact["before"]
                    events, uids = ledger.digest_of(db, owner, *span)
                fact |= {"events": events, "uids": uids.hex()}

    rewrite(case, edit)


def edit_a_waiting_page(case: Case, *, sealed: bool) -> None:
    """Blame another person, and make what tells of the page again as far as it is not sealed."""
    with case.db() as db:
        order = "order by first limit 1" if sealed else "order by first desc limit 1"
        first, count, blob = db.execute(
            f"select first, count, events from spool where first >= {WAITING} and source = {VOICE} "
            f"{order}"
        ).fetchone()
        page, _ = unpack(blob, first, count)
        raw = [msgspec.Raw(b'{"id":1}'), *(event.raw for event in list(page)[1:])]
        digests = [sha256(bytes(each)).hexdigest() for each in raw]
        made = Page.of(
            [
                msgspec.structs.replace(event, raw=bare, raw_sha256=digest)
                for event, bare, digest in zip(page, raw, digests, strict=True)
            ]
        )
        forged, _ = pack(made)
        stored = sha256(forged).digest()
        row = forged, stored, first
        db.execute("update spool set events = ?, sha = ? where first = ?", row)
        for number, text in db.execute("select id, text from fact").fetchall():
            body = json.loads(text)
            if body["fact"] == "accepted" and body["pages"][0][0] == first:
                body["stored"] = stored.hex()
                body["raws"] = sha256("".join(digests).encode()).hexdigest()
                db.execute("update fact set text = ? where id = ?", (facts.text(body), number))


def replace_state(case: Case, at: State, *, tip: str | None) -> None:
    """Put an older state back, with the tip of then, of now, or with none."""
    now = case.state.tip.read()
    case.state.put_back(at, tip=tip is not None)
    if tip == "now":
        case.state.put_tip(now)


async def roll_back(case: Case, tip: str | None) -> None:
    replace_state(case, case.older, tip=tip)
    await case.go_on()


async def roll_back_and_say_why(case: Case) -> None:
    replace_state(case, case.older, tip=None)
    history = case.history
    await history.begin()
    await history.store.log.restored("the disk died", 0)
    await work(history, 2)
    await history.end()


async def run_two(case: Case) -> None:
    """Run a second instance on a copy of everything, the tip included."""
    other = case.history.twin()
    other.happen("okta", 1)
    await other.begin()
    await work(other, 2)
    await other.end()
    await case.go_on(hours=3)
    for sink in SINKS:
        case.history.siems[sink].rows = [*case.history.siems[sink].rows, *other.siems[sink].rows]


async def settle_what_waits(case: Case) -> None:
    case.sql("update sink set position = (select value from meta where name = 'next_position') "
             "where name = 'splunk'")  # fmt: skip


async def settle_and_go_on(case: Case) -> None:
    await settle_what_waits(case)
    await case.go_on()


async def invent_a_page(case: Case) -> None:
    event = make_event(95_000, source="okta", at=micros(NOON) + 99)
    blob, _ = pack(Page.of([event]))
    with case.db() as db:
        (first,) = db.execute("select value from meta where name = 'next_position'").fetchone()
        row = first, 1, micros(NOON), len(blob), blob, None, sha256(blob).digest(), None
        db.execute(f"insert into spool values (?, ?, {OKTA}, ?, ?, ?, ?, ?, ?)", row)
        db.execute("update meta set value = value + 1 where name = 'next_position'")
    await case.go_on()


def exchange(lines: list[bytes], one: int, other: int) -> list[bytes]:
    lines[one], lines[other] = lines[other], lines[one]
    return lines


def insert_an_entry(lines: list[bytes]) -> list[bytes]:
    """Insert an empty entry of a source in the middle, and number all behind it again."""
    made, seqs = [], dict[str, int]()
    for line in lines:
        entry = json.loads(line)
        made.append(entry)
        if entry["n"] == 11:
            made.append({**entry, "facts": [], "since": entry["at"], "unit": entry["unit"]})
    for n, entry in enumerate(made):
        seqs[entry["unit"]] = seqs.get(entry["unit"], 0) + 1
        entry["n"], entry["seq"] = n, seqs[entry["unit"]]
    return [facts.text(entry).encode() + b"\n" for entry in made]


def exchange_two_facts(lines: list[bytes]) -> list[bytes]:
    for n, line in enumerate(lines):
        entry = json.loads(line)
        if len(entry["facts"]) > 1:
            entry["facts"] = entry["facts"][::-1]
            lines[n] = facts.text(entry).encode() + b"\n"
            break
    return lines


def cut_the_export(case: Case) -> None:
    case.edit(journal=lambda lines: lines[:-6])
    heads = case.exported / "heads.txt"
    heads.write_text("".join(heads.read_text().splitlines(keepends=True)[:-1]))
    (case.exported / "uids.ndjson").unlink()


async def export_another(case: Case) -> None:
    other = History(InFolder(case.folder / "other"), keys=case.history.keys)
    await other.begin()
    await work(other, 2)
    await other.end()
    other.export(case.exported)


def is_head(word: str) -> Callable[[Any], bool]:
    return lambda row: word in (row[0].message or "")


def delete_a_head(case: Case) -> None:
    siem = case.history.siems["splunk"]
    doomed = is_head(siem.words[2])
    siem.rows = [row for row in siem.rows if not doomed(row)]


def tell(case: Case, head: Head) -> None:
    """Send a false head to a SIEM."""
    event = make_event(96_000, uid=head.uid, message=f"Ledger sealed: {head.word}")
    case.history.siems["splunk"].take([event], case.history.clock.now())


def tell_a_false_head(case: Case) -> None:
    head = case.history.heads[1]
    tell(case, Head(head.log, head.size, bytes(32)))


def sign_with_another_key(case: Case) -> None:
    last = case.history.heads[-1]
    tell(case, Keys(b"m" * 32).head(last.log, last.size, last.root))


def sign_with_an_older_signature(case: Case) -> None:
    first, last = case.history.heads[0], case.history.heads[-1]
    tell(case, Head(last.log, last.size, last.root, first.key_id, first.signature))


async def exchange_the_key(case: Case) -> None:
    pins = case.history.pins
    case.history.keys = Keys(b"m" * 32)
    await case.go_on()
    case.history.keep_pins(pins)


async def set_the_clock(case: Case, by: timedelta) -> None:
    """Set the clock wrong; the SIEM has its own."""
    history = case.history
    now = history.clock.now()
    history.clock.set(now + by)
    rows = len(history.siems["splunk"].rows)
    await case.go_on()
    for siem in history.siems.values():
        siem.rows = [*siem.rows[:rows], *((event, now + HOUR) for event, _ in siem.rows[rows:])]


async def leave_an_hour_out(case: Case) -> None:
    """Read nothing for an hour, and set the start of the source behind it."""
    history = case.history
    end = micros(history.clock.now()) + 3_600_000_000
    history.clock.advance(HOUR)
    history.happen("okta")
    with case.db() as db:
        db.execute("delete from coverage where source = " + OKTA)
        db.execute(f"update source set started = {end} where id = {OKTA}")
    await case.go_on()


def write_fact(case: Case, unit: str, body: facts.Body) -> None:
    with case.db() as db:
        insert(db, unit, [body], micros(case.history.clock.now()))


async def fill_unread(case: Case) -> None:
    """Say of the open gap that it was read."""
    start, end = micros(NOON + 4 * HOUR), micros(NOON + 5 * HOUR)
    write_fact(case, "source okta", facts.filled(start=start, end=end, reason="vendor_retention"))
    case.sql(f"update coverage set gap = null where source = {OKTA} and start = {start}")
    await case.go_on()


async def claim_unread(case: Case) -> None:
    """Claim to have read an hour that the vendor was never asked for."""
    history = case.history
    await history.begin()
    now = history.clock.now()
    history.happen("okta")
    history.clock.advance(HOUR)
    proof = Proof(covers=(Interval(now, now + HOUR),))
    await history.store.add("okta", Page.of([]), proof=proof)
    await work(history, 1)
    await history.end()


async def retire_and_return(case: Case) -> None:
    history = case.history
    await history.begin()
    await history.store.retire({"elastic": [*SOURCES, "auditrelay"]}, SOURCES)
    case.sql("update sink set position = ends where name = 'splunk'")
    await history.end()
    await case.go_on()


async def narrow(case: Case) -> None:
    history = case.history
    history.settings |= {
        "sinks.splunk.sources": "voice",
        "sources.okta.redact": "all",
        "sources.okta.catch_up_limit": "1h",
    }
    await history.begin()
    await history.store.retire({"splunk": ["voice", "auditrelay"], "elastic": [*SOURCES]}, SOURCES)
    await history.store.log.configure(history.configured())
    await history.seal()
    await history.end()


def delete_in_the_siem(case: Case) -> None:
    siem = case.history.siems["splunk"]
    siem.rows = [row for row in siem.rows if row[0].source != "voice"]


def add_to_the_siem(case: Case) -> None:
    siem = case.history.siems["splunk"]
    siem.take([make_event(97_000)], NOON + 2 * HOUR)


def send_twice(case: Case) -> None:
    siem = case.history.siems["splunk"]
    siem.rows = [*siem.rows, siem.rows[0]]


def change_in_the_siem(case: Case) -> None:
    siem = case.history.siems["splunk"]
    event, at = siem.rows[0]
    changed = msgspec.structs.replace(event, raw_sha256="0" * 64)
    siem.rows = [(changed, at), *siem.rows[1:]]


async def seal_anyway(case: Case, *statements: str) -> None:
    """Forge what is sealed, and let the service seal: it must not tell a head over it."""
    case.sql(*statements)
    history = case.history
    before = len(history.heads)
    await case.start()
    try:
        await history.seal()
    except EvidenceBroken:
        case.found["seal"] = {"evidence_broken"}
    await history.end()
    assert len(history.heads) == before or "seal" not in case.found, "a wrong head has left"


async def hold_heads_back(case: Case) -> None:
    history = case.history
    indexed = len(history.siems["elastic"].rows)
    await case.go_on(hours=1)
    for siem in history.siems.values():
        late = ((event, at + 5 * HOUR) for event, at in siem.rows[indexed - 9 :])
        siem.rows = [*siem.rows[: indexed - 9], *late]


async def delete_what_was_declared(case: Case, *, goes_on: bool = False) -> None:
    """Delete that an operator began a backfill: of what it has read other facts tell."""
    history = case.history
    await history.begin()
    span = Interval(NOON, NOON + HOUR)
    await history.store.begin_backfill("okta", span, [], history.clock.now())
    await history.end()
    case.sql('delete from fact where text like \'%"fact":"backfill"%\'')
    if goes_on:
        await case.go_on()


async def put_an_old_fact_back(case: Case) -> None:
    """Blame a configuration of before, whose fact had its tag."""
    history = case.history
    history.settings["sources.okta.settle"] = "1m"
    await history.begin()
    with case.db() as db:
        query = "select unit, at, text, tag from fact where text like '%configured%'"
        old = db.execute(query).fetchone()
    await history.seal()
    history.settings["sources.okta.settle"] = "2m"
    await history.store.log.configure(history.configured())
    await history.end()
    with case.db() as db:
        number = db.execute("select id from fact where text like '%configured%'").fetchone()
        put = "update fact set unit = ?, at = ?, text = ?, tag = ? where id = ?"
        assert db.execute(put, (*old, *number)).rowcount == 1


def prune_what_waits(case: Case) -> None:
    with case.db() as db:
        (end,) = db.execute("select value from meta where name = 'next_position'").fetchone()
        db.execute("delete from spool")
        db.execute("delete from meta where name = 'pruned'")
        db.execute("insert into meta values ('pruned', ?)", (end,))
    write_fact(case, "instance", facts.pruned(before=end, events=9, why="retention"))


def show_more(case: Case) -> None:
    """Let a vendor show the auditor what he has never shown us."""
    event = make_event(98_000, source="okta", at=micros(NOON + HOUR) + 5)
    for _ in range(9):
        case.history.vendors["okta"].append(Shown(event, moment(event.at)))


async def delete_the_state(case: Case, *, tip: bool = False) -> None:
    assert isinstance(case.state, InFolder)
    for file in case.state.folder.iterdir():
        if tip or file.name != TIP:
            file.unlink()
    with pytest.raises(StateError):
        case.history.check()
    await case.go_on()


async def edit_and_go_on(case: Case) -> None:
    edit_a_waiting_page(case, sealed=False)
    await case.go_on()


def put_an_entry_behind(case: Case) -> None:
    with case.db() as db:
        n, unit, text = db.execute("select * from entry order by n desc limit 1").fetchone()
        entry = json.loads(text)
        entry |= {"n": n + 1, "seq": entry["seq"] + 1, "since": entry["at"], "facts": []}
        db.execute("insert into entry values (?, ?, ?)", (n + 1, unit, facts.text(entry)))


def prove(case: Case, edit: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Prove two events, edit the proof of the first, and let the auditor look at it."""
    with case.history.view() as view:
        uids = [shown.event.uid for shown in case.history.vendors["voice"]]
        proof = view.in_snapshot(partial(event_proof, uid=uids[8]))
        other = view.in_snapshot(partial(event_proof, uid=uids[13]))
    file, heads = case.folder / "proof.json", case.folder / "heads.txt"
    heads.write_text("\n".join(case.history.siems["elastic"].words))
    for stage in ("honest", "proof"):
        file.write_text(json.dumps(proof))
        report = program.check([file], [heads], case.history.pins, {}, [])
        case.found[stage] = {each["code"] for each in report["findings"]}
        edit(proof, other)
    assert case.found.pop("honest") == set()


def use_another_path(case: Case) -> None:
    prove(case, lambda proof, other: proof["accepted"].update(path=other["accepted"]["path"]))


def use_an_inner_node(case: Case) -> None:
    """Give the two hashes below a node for an entry, and the path from there on."""

    def edit(proof: dict[str, Any], _: dict[str, Any]) -> None:
        accepted = proof["accepted"]
        own = leaf(accepted["line"].encode()).hex()
        pair = (accepted["path"][0], own) if accepted["n"] & 1 else (own, accepted["path"][0])
        accepted.update(line="".join(pair), n=accepted["n"] >> 1, path=accepted["path"][1:])

    prove(case, edit)


async def note_as_written(case: Case) -> None:
    """Change what is collected, and note the new configuration as one that is written already."""
    case.history.settings["sources.okta.settle"] = "1m"
    written = facts.text(case.history.configured())
    with case.db() as db:
        db.execute("insert into meta values ('configured', ?)", (written,))
    await case.go_on(hours=1)


# --- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Forgery:
    """A *deed*, its *numbers* in the table of the docs, and by which codes it is *found* where."""

    numbers: str
    deed: Callable[[Case], Awaitable[None] | None]
    found: Mapping[str, set[str]]
    keyed: Mapping[str, set[str]] = field(default_factory=dict)
    """What is different with a key."""
    notes: set[str] = field(default_factory=set)
    says: str = ""
    only: bool | None = None
    """Whether there is such a forgery only with a key (True) or without one (False)."""
    of_files: bool = False
    """Whether there is such a forgery only where the state is files."""


def first_line(line: bytes) -> Callable[[Case], None]:
    return in_export(lambda lines: [line, *lines[1:]])


FORGERIES: Final = {
    "ledger entry deleted": Forgery(
        "1",
        sql(f"delete from coverage where gap is null and source = {VOICE}"),
        {"state": {"ledger"}},
    ),
    "its count raised": Forgery(
        "2",
        sql("update coverage set events = events + 1 where gap is null"),
        {"state": {"ledger"}},
    ),
    "the count of what is forgotten in part raised": Forgery(
        "2",
        sql("update coverage set events = events + 1 where start = (select min(start) from late)"),
        {"state": {"ledger"}},
    ),
    "an entry deleted": Forgery(
        "3",
        sql("delete from entry where n = 10"),
        {"state": {"order"}, "auditor": {"order", "rewritten"}},
    ),
    "the last one deleted": Forgery(
        "4",
        sql("delete from entry where n = (select max(n) from entry)"),
        {"state": {"cut"}, "auditor": {"cut"}},
    ),
    "uid deleted": Forgery(
        "5",
        sql("delete from known where position = (select max(position) from known)"),
        {"state": {"known"}},
    ),
    "uid inserted": Forgery(
        "6",
        sql(f"insert into known values ({OKTA}, zeroblob(28), 9999, null)"),
        {"state": {"known"}},
    ),
    "two uids with equal exclusive-or": Forgery(
        "7", exchange_two_with_equal_xor, {"state": {"known"}}
    ),
    "a uid exchanged for one at the place of a forgotten one": Forgery(
        "6", partial(exchange_for_a_forgotten_place, "min"), {"state": {"known"}}
    ),
    "the same before the next seal": Forgery(
        "6", partial(exchange_for_a_forgotten_place, "max"), {"state": {"known"}}
    ),
    "forgotten_before moved, uids deleted": Forgery(
        "8",
        sql(
            f"update meta set value = {micros(NOON + 5 * HOUR)} where name = 'forgotten_before'",
            f"delete from known where source = {VOICE} and position < 30",
        ),
        {"state": {"state", "known"}},
    ),
    "a uid deleted, and a fact put in that it was forgotten": Forgery(
        "8", forget_what_is_not_old, {"state": {"known"}}, keyed={"state": {"known", "state"}}
    ),
    "an event deleted everywhere, all hashes made again": Forgery(
        "9",
        delete_an_event_everywhere,
        {"state": {"state"}, "heads": {"rewritten"}, "auditor": {"rewritten"}},
    ),
    "journal and ledger emptied": Forgery(
        "10",
        sql("delete from entry", "delete from head", "delete from fact", "delete from coverage"),
        {"state": {"nothing"}, "auditor": {"nothing"}},
    ),
    "source row deleted": Forgery(
        "11", sql("delete from source where name = 'okta'"), {"state": {"state"}}
    ),
    "state.db deleted": Forgery(
        "12",
        delete_the_state,
        {"start": {"alert"}, "auditor": {"branch"}},
        of_files=True,
    ),
    "state.db and tip deleted": Forgery(
        "12",
        lambda case: delete_the_state(case, tip=True),
        {"auditor": {"head_foreign"}},
        of_files=True,
    ),
    "start moved": Forgery(
        "13",
        sql("update source set started = started + 1000 where name = 'okta'"),
        {"state": {"state"}},
    ),
    "vanished emptied": Forgery("14", sql("delete from vanished"), {"state": {"state"}}),
    "state rolled back without tip": Forgery(
        "15",
        lambda case: roll_back(case, None),
        {"start": {"warning"}, "auditor": {"branch"}},
    ),
    "state rolled back under its tip": Forgery(
        "15", lambda case: roll_back(case, "now"), {"start": {"alert"}, "auditor": {"branch"}}
    ),
    "state rolled back with its tip": Forgery(
        "15", lambda case: roll_back(case, "then"), {"auditor": {"fork"}}
    ),
    "position moved past waiting events": Forgery(
        "16", settle_what_waits, {"state": set()}, keyed={"state": {"position"}}
    ),
    "position moved, and sealed": Forgery(
        "16",
        settle_and_go_on,
        {"auditor": {"not_in_siem"}},
        keyed={"start": {"broken"}, "auditor": set()},  # it repeats, and nothing is lost
    ),
    "waiting pages deleted": Forgery(
        "17", sql(f"delete from spool where first >= {WAITING}"), {"state": {"spool"}}
    ),
    "waiting events edited, once sealed": Forgery(
        "18", lambda case: edit_a_waiting_page(case, sealed=True), {"state": {"spool"}}
    ),
    "waiting events edited": Forgery(
        "18",
        lambda case: edit_a_waiting_page(case, sealed=False),
        {"state": set()},
        keyed={"state": {"spool"}},
    ),
    "waiting events edited, and sealed": Forgery(
        "18",
        edit_and_go_on,
        {"auditor": {"vendor"}},
        keyed={"start": {"broken"}, "auditor": {"spool"}},  # the page is taken out
    ),
    "uid put into known before its event": Forgery(
        "19",
        sql(f"insert into known values ({OKTA}, zeroblob(28), -1, null)"),
        {"state": {"known"}},
    ),
    "page invented in the spool": Forgery(
        "20",
        invent_a_page,
        {"state": {"spool"}, "auditor": {"only_in_siem"}},
        keyed={"start": {"broken"}, "auditor": {"spool"}},  # it is not delivered
    ),
    "entry put in behind the newest head": Forgery(
        "21",
        put_an_entry_behind,
        {"state": {"order"}},
    ),
    "entry inserted with honest form": Forgery(
        "21", in_export(insert_an_entry), {"auditor": {"rewritten"}}
    ),
    "two entries exchanged": Forgery(
        "22", in_export(lambda lines: exchange(lines, 9, 10)), {"auditor": {"order", "rewritten"}}
    ),
    "two facts exchanged": Forgery(
        "22", in_export(exchange_two_facts), {"auditor": {"rewritten"}}
    ),
    "digits changed in the export": Forgery(
        "23", replaced(b'"late":0', b'"late":1'), {"auditor": {"rewritten"}}
    ),
    "export cut": Forgery("24", cut_the_export, {"auditor": {"cut"}}),
    "bytes after the last line": Forgery(
        "25", in_export(lambda lines: [*lines, b"x"]), {"auditor": {"form"}}
    ),
    "a BOM": Forgery(
        "25",
        in_export(lambda lines: [b"\xef\xbb\xbf" + lines[0], *lines[1:]]),
        {"auditor": {"form"}},
    ),
    "a key twice": Forgery("25", replaced(b'"seq":1', b'"seq":1,"seq":1'), {"auditor": {"form"}}),
    "a number as 1e3": Forgery("25", replaced(b'"late":0', b'"late":0e3'), {"auditor": {"form"}}),
    "a NUL": Forgery(
        "25", replaced(b'"via":"poll"', b'"via":"\\u0000"'), {"auditor": {"form"}}
    ),
    "export of another instance": Forgery("26", export_another, {"auditor": {"head_foreign"}}),
    "head deleted in one SIEM": Forgery("27", delete_a_head, {"auditor": {"head_absent"}}),
    "false head sent to the SIEM": Forgery(
        "28", tell_a_false_head, {"auditor": {"fork"}}, keyed={"auditor": {"unsigned"}}
    ),
    "signature of another key": Forgery(
        "28", sign_with_another_key, {"auditor": {"key"}}, only=True
    ),
    "signature of an older head": Forgery(
        "28", sign_with_an_older_signature, {"auditor": {"key"}}, only=True
    ),
    "two daemons on copies of one state": Forgery("29", run_two, {"auditor": {"fork"}}),
    "key exchanged": Forgery("30", exchange_the_key, {"auditor": {"key"}}, only=True),
    "clock set back": Forgery(
        "31",
        lambda case: set_the_clock(case, timedelta(days=-1)),
        {"auditor": set()},
        notes={"clock"},
    ),
    "clock set forward": Forgery(
        "31",
        lambda case: set_the_clock(case, timedelta(days=1)),
        {"auditor": set()},
        notes={"late_head"},
    ),
    "source disabled, then started set past it": Forgery(
        "32", leave_an_hour_out, {"auditor": {"hole"}}
    ),
    "filled written without reading": Forgery(
        "33",
        fill_unread,
        {"auditor": {"hole"}},
        keyed={"start": {"broken"}, "state": {"ledger"}, "auditor": set()},  # it is not sealed
    ),
    "second looks marked as done": Forgery(
        "34", sql("update resweep set until = until + 1000"), {"state": {"state"}}
    ),
    "dead letters deleted": Forgery(
        "35", sql("delete from dead_letter where sink is not null"), {"state": {"letters"}}
    ),
    "dead letters marked as dropped": Forgery(
        "35",
        sql("update dead_letter set dropped = 1 where dropped is null"),
        {"state": {"letters"}},
    ),
    "sink retired and back behind the waiting events": Forgery(
        "36",
        retire_and_return,
        {"auditor": {"not_in_siem"}},
        keyed={"start": {"broken"}, "auditor": set()},  # it repeats
        notes={"configuration"},
    ),
    "feed narrowed, redact widened, catch_up_limit set": Forgery(
        "37", narrow, {"auditor": set()}, notes={"configuration"}, says="redact default -> all"
    ),
    "events deleted in the SIEM": Forgery(
        "38", delete_in_the_siem, {"auditor": {"not_in_siem"}}
    ),
    "an event added in the SIEM": Forgery("38", add_to_the_siem, {"auditor": {"only_in_siem"}}),
    "an event sent twice": Forgery("38", send_twice, {"auditor": set()}, says="1 twice"),
    "raw_sha256 changed in the SIEM": Forgery(
        "39", change_in_the_siem, {"auditor": {"changed_in_siem"}}
    ),
    "frontier edited": Forgery(
        "40",
        lambda case: seal_anyway(
            case, "update meta set value = zeroblob(40) where name = 'frontier'"
        ),
        {"start": {"alert"}},
    ),
    "one bit of a stored entry flipped": Forgery(
        "41",
        lambda case: seal_anyway(
            case, "update entry set text = replace(text, '\"late\":0', '\"late\":1') "
            "where n = (select max(n) from entry where text like '%\"late\":0%')",
        ),
        {"seal": {"evidence_broken"}, "state": {"rewritten"}, "auditor": {"rewritten"}},
    ),
    "open facts deleted": Forgery(
        "42",
        sql("delete from fact"),
        {"state": {"known", "spool"}},
        keyed={"state": {"known", "spool", "state"}},
    ),
    "an open fact deleted that nothing else explains": Forgery(
        "42", delete_what_was_declared, {"state": set()}, keyed={"state": {"state"}}
    ),
    "the same, and sealed": Forgery(
        "42",
        lambda case: delete_what_was_declared(case, goes_on=True),
        {"start": set(), "state": set(), "auditor": set()},
        keyed={"start": {"broken"}},
    ),
    "an open fact exchanged for one from before the seal": Forgery(
        "42", put_an_old_fact_back, {"state": set()}, keyed={"state": {"state"}}
    ),
    "window claimed that was never read": Forgery(
        "43", claim_unread, {"state": set(), "auditor": {"vendor"}}
    ),
    "heads held back": Forgery("44", hold_heads_back, {"auditor": set()}, notes={"late_head"}),
    "restored said to cover a roll-back": Forgery(
        "45",
        roll_back_and_say_why,
        {"auditor": {"only_in_siem"}},
        notes={"branch"},
        says="the disk died",
    ),
    "prune floor moved over waiting pages": Forgery("46", prune_what_waits, {"state": {"spool"}}),
    "the path of another event": Forgery("47", use_another_path, {"proof": {"form"}}),
    "an inner node as an entry": Forgery("47", use_an_inner_node, {"proof": {"form"}}),
    "file digest exchanged": Forgery(
        "48", sql(
            f"insert into parcel values ({VOICE}, zeroblob(32), 'a.csv', 0)",
            f"delete from parcel where source = {VOICE} and key <> zeroblob(32)",
        ), {"state": {"state"}}
    ),
    "the newest head said to be younger": Forgery(
        "49",
        sql("update head set at = at + 1000 where size = (select max(size) from head)"),
        {"state": {"rewritten"}},
    ),
    "a head said to be in another event": Forgery(
        "49", sql("update head set place = 0"), {"state": {"state"}}
    ),
    "a head in the state without its signature": Forgery(
        "50",
        sql("update head set word = substr(word, 1, length(word) - 137) || '-'"),
        {"state": {"rewritten"}},
        only=True,
    ),
    "a sink ended": Forgery(
        "51", sql("update sink set ends = 0 where name = 'splunk'"), {"state": {"state"}}
    ),
    "a sink fed with nothing": Forgery(
        "51", sql("update sink set sources = '[]' where name = 'splunk'"), {"state": {"state"}}
    ),
    "a bad record marked as dropped": Forgery(
        "52", sql("update dead_letter set dropped = 1 where sink is null"), {"state": {"letters"}}
    ),
    "the event of a dead letter damaged": Forgery(
        "52",
        sql("update dead_letter set event = x'00' where dropped is null"),
        {"state": {"letters"}},
    ),
    "another configuration noted as written": Forgery(
        "53", note_as_written, {"auditor": set()}, notes={"configuration"}, says="5m -> 1m"
    ),
    "an entry that cannot be read": Forgery(
        "54", sql("update entry set text = 'x' where n = 5"), {"state": {"form", "rewritten"}}
    ),
    "an open fact that cannot be read": Forgery(
        "54",
        sql("update fact set text = 'x' where id = (select max(id) from fact)"),
        {"state": {"state"}},
    ),
    "what tells a changed record deleted": Forgery(
        "55", sql("update known set digest = null"), {"state": set(), "auditor": set()}
    ),
    "what finds a uid whatever its time is deleted": Forgery(
        "55", sql("delete from uid_log"), {"state": set(), "auditor": set()}
    ),
    "times of the status page edited": Forgery(
        "56",
        sql("update coverage set recorded = 0", "delete from late"),
        {"state": set(), "auditor": set()},
    ),
}  # fmt: skip


CASES: Final = [
    (name, keyed)
    for name, forgery in FORGERIES.items()
    for keyed in (False, True)
    if forgery.only in {None, keyed}
]


@pytest.mark.parametrize(("engine", "name", "keyed"), on_each(CASES, every=9), indirect=["engine"])
def test_a_forgery_is_found_or_known_not_to_be(
    name: str, keyed: bool, make: Callable[[bool], Case]
) -> None:
    forgery, case = FORGERIES[name], make(keyed)
    if forgery.of_files and case.state.engine != "sqlite":
        return
    done = forgery.deed(case)
    if isawaitable(done):
        run(done)
    case.look()
    for where, codes in {**forgery.found, **(forgery.keyed if keyed else {})}.items():
        found = case.found.get(where, set())
        assert codes <= found, f"{where}: {found}\n{case.text}"
        if not codes:
            assert not found, f"it is found after all, {where}: {found}\n{case.text}"
    assert forgery.notes <= case.notes, case.text
    assert forgery.says in case.text


@pytest.mark.parametrize("keyed", [False, True], ids=["without a key", "with a key"])
def test_the_untouched_state_is_whole_and_goes_on_whole(
    keyed: bool, make: Callable[[bool], Case]
) -> None:
    case, nothing = make(keyed), set[str]()
    case.look()
    assert case.found == {"state": nothing, "heads": nothing, "auditor": nothing}, case.text
    assert "no_witness" not in case.notes
    for life in range(3):
        run(case.go_on())
        case.exported.rename(case.folder / f"export {life}")
        case.look()
        assert set().union(*case.found.values()) == nothing, case.text


def test_the_table_of_the_docs_has_what_was_found() -> None:
    text = (Path(__file__).parents[2] / "docs/evidence.md").read_text()
    table = text.partition("## Forgeries")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| (\d+) \|[^|]*\|(.*)\|$", table, flags=re.MULTILINE))
    numbers = [str(number) for number in range(1, 57)]
    assert list(rows) == numbers
    assert {each.numbers for each in FORGERIES.values()} == set(numbers)
    wrong = []
    for name, forgery in FORGERIES.items():
        codes = set(re.findall(r"`([a-z_]+)`", rows[forgery.numbers]))
        found = forgery.notes.union(*forgery.found.values(), *forgery.keyed.values())
        if missing := found - codes - {"alert", "warning", "broken"}:
            wrong.append(f"{forgery.numbers}, {name}: {sorted(missing)}")
    assert wrong == []
