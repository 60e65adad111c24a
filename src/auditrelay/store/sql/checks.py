"""
Compare the evidence with itself, and the state with what the evidence says that it must be.

L1: the entries give every head. L2: ledger, start, resweeps, deleted events, files and feeds are
what the facts say. L3: every known uid lies in one accepted page, and none is missing. L4: every
page that is not pruned is in the spool, and unchanged. L5: no sink is behind its sealed position.
L6: every dead letter is there. L7: with a key, each row that may change has its tag. Works on
a connection, within one snapshot.
"""

import contextlib
import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Any, Final

from auditrelay.errors import StateError
from auditrelay.evidence.heads import Head
from auditrelay.evidence.tree import Frontier, leaf
from auditrelay.store import Fact
from auditrelay.store.expected import (
    OfInstance,
    OfSink,
    OfSource,
    Pages,
    facts_in,
    joined,
    without,
)
from auditrelay.store.sql import branches, meta, row_checks, tags
from auditrelay.store.sql.check_report import FAULTS, Checked, Finding, Left, bad
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.evidence import StoredHead, heads
from auditrelay.store.sql.facts import of_sink, of_source, sink_of, source_of
from auditrelay.store.sql.known import FORGOTTEN
from auditrelay.store.sql.readers import reader_of
from auditrelay.store.sql.row_checks import Made
from auditrelay.store.sql.spool import PRUNED
from auditrelay.store.sql.unit_checks import check_sink, check_source, digest_of_pages

_MOST: Final = 20
"""How many findings of one kind are reported one by one."""


def check(db: Connection) -> Checked:
    """Return what of the state in *db* contradicts the evidence, or the evidence itself."""
    return _Check(db).run()


_NOT_COMPARED: Final = Finding(
    "note",
    "key",
    None,
    None,
    None,
    "the state has tags of a key, and the configuration has none: they were not compared",
    "run it with the configuration of the service, whose evidence.key is set",
)

_TAGGED: Final = {
    "fact": "state",
    "spool": "spool",
    "sink": "position",
    "feed": "position",
    "dead_letter": "letters",
}
"""By table the code of a row that has another tag than its own."""

_TABLES: Final = {
    "fact": "the open fact",
    "spool": "the page at place",
    "sink": "the sink",
    "feed": "the feed",
    "dead_letter": "the dead letter",
}


class _Check:
    """One check of the state in *db*."""

    def __init__(self, db: Connection) -> None:
        self._db = db
        self._findings: list[Finding] = []
        self._sources: dict[str, OfSource] = {}
        self._sinks: dict[str, OfSink] = {}
        self._instance = OfInstance()
        self._removals: dict[str, int] = {}
        """By source that an operator has removed: the place before which all of it is gone."""
        self._fit = 0
        """How many stored heads have the root that the entries give."""
        self._forgot: int | None = None
        """Before which time uids were forgotten, of whatever source."""
        self._sealed: dict[str, dict[str, Any]] = {}
        """By unit its last entry with a state."""

    def run(self) -> Checked:
        """Check all of it."""
        db = self._db
        log = meta.find_text(db, branches.LOG)
        size = self._log()
        newest = db.execute("select at, word from head order by size desc limit 1").fetchone()
        (count,) = db.execute("select count(*) from head").fetchone()
        if not size or newest is None:
            self._say("nothing", "the log has no entries, or no head: nothing was sealed yet")
        for number, unit, at, text in db.execute("select id, unit, at, text from fact order by id"):
            with self._reading("state", "the open fact", where=f"fact {number}"):
                self._take(unit, Fact(json.loads(text), at, None))
        with self._reading("state", "what the instance has"):
            self._check_instance(log)
            row_checks.check_numbers(db, self._instance, self._say)
        for (name,) in db.execute("select name from source"):
            self._sources.setdefault(name, OfSource())
        row_checks.check_strangers(db, self._sinks, self._say)
        with self._reading("spool", "what is in the spool"):
            pages = self._check_places()
            self._check_spool(pages)
            units = {first: unit for first, (unit, _, _) in pages.items()}
            row_checks.check_head_places(db, units, self._say)
            row_checks.check_own_pages(db, pages, self._say)
        for name, source in sorted(self._sources.items()):
            sealed, start = self._sealed.get(of_source(name)), self._instance.start
            with self._reading("state", "what it has", where=of_source(name)):
                check_source(db, name, source, sealed, start=start, say=self._say)
        for name, sink in sorted(self._sinks.items()):
            sealed = self._sealed.get(of_sink(name))
            with self._reading("state", "what it has", where=of_sink(name)):
                check_sink(db, name, sink, sealed, removals=self._removals, say=self._say)
        with self._reading("letters", "a dead letter"):
            row_checks.check_letters(db, self._sources, self._say)
        with self._reading("state", "what was deleted at the sources"):
            row_checks.check_deleted(db, self._say)
        self._check_tags()
        left: tuple[Left, ...] = ()
        with self._reading("form", "what a log goes on from"):
            found = self._branches()
            self._findings += [each.finding() for each in found]
            left = found
        at, word = newest or (None, None)
        findings = tuple(self._findings)
        return Checked(log, size, at, word, count, self._fit, count - self._fit, findings, left)

    def _branches(self) -> tuple[Left, ...]:
        """Return the logs that were left, each with what operators have said since its branch."""
        return tuple(
            Left(left, tuple(why for entry, why in self._instance.said if entry >= n))
            for n, left in self._instance.branches
        )

    @contextlib.contextmanager
    def _reading(
        self, code: str, what: str, *, entry: int | None = None, where: str | None = None
    ) -> Iterator[None]:
        """Say in this block that *what* is read there is not as we write it, if it is not."""
        try:
            yield
        except (*FAULTS, StateError) as fault:
            said = f"{what} is not as auditrelay writes it ({type(fault).__name__})"
            self._say(code, said, entry=entry, where=where)

    def _check_tags(self) -> None:
        keys = self._db.keys
        if keys is None:
            if self._instance.key:
                self._findings.append(_NOT_COMPARED)
            return
        if keys.public.hex() != self._instance.key:
            # All tags would be wrong, which says nothing about any of the rows.
            self._say("key", "the key of the configuration is not the one that is in force")
            return
        for table, name in tags.all_wrong(self._db):
            what = f"{_TABLES[table]} {name} has not the tag of the key: we did not write it"
            self._say(_TAGGED[table], what, where=f"{table} {name}")
        if not tags.are_open_whole(self._db):
            self._say("state", tags.OPEN_WRONG, where="meta.open_facts")

    def _say(self, code: str, what: str, **more: Any) -> None:
        found = sum(each.code == code for each in self._findings)
        if found < _MOST:
            self._findings.append(bad(code, what, **more))

    def _take(self, unit: str, fact: Fact) -> None:
        removed = fact.body["fact"] == "operator" and fact.body["did"] == "forget"
        if (name := source_of(unit)) is not None:
            source = self._sources.setdefault(name, OfSource())
            source.take(fact)
            if fact.body["fact"] == "forgot":
                self._forgot = max(self._forgot or fact.body["before"], fact.body["before"])
            if removed:
                self._sources[name] = source.after_removal()
                self._removals[name] = fact.body["place"]
        elif (name := sink_of(unit)) is not None:
            sink = self._sinks.setdefault(name, OfSink())
            sink.take(fact)
            if fact.body["fact"] == "back":
                sink.come_back(self._instance.pruned)
            if removed:
                self._sinks[name] = sink.after_removal()
        else:
            self._instance.take(fact)

    # -- L1 --------------------------------------------------------------------------------------

    def _log(self) -> int:
        """Check entries against heads; return how many entries there are."""
        stored = {head.size: head for head in heads(self._db)}
        roots: dict[int, str] = {}
        made: dict[int, Made] = {}
        frontier, seqs, last_at = Frontier(), dict[str, tuple[int, int]](), 0
        for n, filed, line in self._db.stream("select n, unit, text from entry order by n"):
            if n != frontier.size:
                self._say("order", f"entry {frontier.size} is missing", entry=frontier.size)
                break
            entry: dict[str, Any] = {}
            with self._reading("form", "the entry", entry=n):
                entry, bodies = facts_in(n, line)
                unit = entry["unit"]
                seq, since = seqs.get(unit, (0, None))
                if (entry["n"], entry["seq"], entry["since"]) != (n, seq + 1, since):
                    self._say(
                        "order", f"the entry does not follow the one before it of {unit}", entry=n
                    )
                if filed != unit:
                    what = f"the entry is filed under {filed}, and its line names {unit}"
                    self._say("order", what, entry=n)
                if entry["at"] < last_at:
                    self._say("order", "the entry is older than the one before it", entry=n)
                last_at = entry["at"]
                seqs[unit] = entry["seq"], last_at
                if entry["state"] is not None:
                    self._sealed[unit] = entry
                for each in bodies:
                    self._take(unit, each)
            frontier.append(leaf(line.encode()))
            if frontier.size in stored:
                roots[frontier.size] = frontier.root().hex()
                made[frontier.size] = Made(last_at, entry.get("log", ""), self._instance.key)
        self._check_heads(stored, roots, made, frontier)
        return frontier.size

    def _check_heads(
        self,
        stored: dict[int, StoredHead],
        roots: dict[int, str],
        made: dict[int, Made],
        frontier: Frontier,
    ) -> None:
        for size, head in stored.items():
            if size not in made:
                what = f"there are {frontier.size} entries, and the newest head is over {size}"
                self._say("cut", what, entry=frontier.size, at=head.at)
                continue
            try:
                word = Head.parse(head.word)
            except ValueError as error:
                self._say("rewritten", str(error), where=f"head {size}", at=head.at)
                continue
            if not (roots[size] == head.root.hex() == word.root.hex() and word.size == size):
                what = f"the entries give another root than the head over the first {size} tells"
                self._say("rewritten", what, where=f"head {size}", at=head.at)
                continue
            self._fit += 1
            row_checks.check_head(self._db, head, word, made[size], self._say)
        if stored and max(stored) < frontier.size:
            self._say("order", "there are entries behind the newest head", entry=max(stored))
        for entry, size, root in self._instance.heads:
            if size not in stored or roots.get(size) != root:
                what = f"the head over the first {size} entries is missing, or is another one"
                self._say("rewritten", what, entry=entry)
        if meta.find_bytes(self._db, branches.FRONTIER) != frontier.dump():
            self._say("order", "the frontier is not that of the entries", where="meta.frontier")

    # -- L2, what the instance has ---------------------------------------------------------------

    def _check_instance(self, log: str | None) -> None:
        if log is None:
            self._say("order", "the log has no name", where="meta.log")
        known = {log, *(left.body["log"] for _, left in self._instance.branches)}
        for unit, entry in self._sealed.items() if log is not None else ():
            if entry["log"] not in known:
                self._say("order", f"the last entry of {unit} is of another log than {log}")
        for name, found, must in (
            (FORGOTTEN, meta.find(self._db, FORGOTTEN), self._forgot),
            (PRUNED, meta.find(self._db, PRUNED) or 0, self._instance.pruned),
        ):
            if found != must:
                self._say("state", f"it is {found}, and facts say {must}", where=f"meta.{name}")

    # -- L4 --------------------------------------------------------------------------------------

    def _all_pages(self) -> Iterator[tuple[str, Pages]]:
        for name, source in self._sources.items():
            for each in source.pages:
                yield f"source {name}", each
        for name, sink in self._sinks.items():
            for each in sink.pages:
                yield f"sink {name}", each

    def _check_places(self) -> dict[int, tuple[str, int, Pages]]:
        """Check that every place has one fact; return by first place each page."""
        pages = {
            first: (unit, count, each)
            for unit, each in self._all_pages()
            for first, count in each.places
        }
        total = sum(len(each.places) for _, each in self._all_pages())
        if total != len(pages):
            self._say("spool", f"{total - len(pages)} pages have two facts")
        at = self._instance.start
        for first in sorted(pages):
            unit, count, each = pages[first]
            if first != at:
                what = f"place {at} follows, and the next page that facts tell of is at {first}"
                self._say("spool", what, where=unit, entry=each.fact.entry, at=each.fact.at)
            at = first + count
        end = meta.read(self._db, "next_position")
        if at != end:
            what = f"facts tell of the places before {at}, and there are those before {end}"
            self._say("spool", what, where="meta.next_position")
        return pages

    def _check_spool(self, pages: dict[int, tuple[str, int, Pages]]) -> None:
        found: dict[int, bytes] = {}
        query = (
            "select first, count, (select name from source where id = spool.source), "
            '(select name from sink where id = spool."only"), sha, events from spool '
            "where first >= ? order by first"
        )
        for first, count, source, only, sha, blob in self._db.stream(
            query, (self._instance.start,)
        ):
            unit, size, _ = pages.get(first, (None, None, None))
            whose = f"source {source}" if only is None else f"sink {only}"
            if (unit, size) != (whose, count):
                what = f"facts do not tell of the page at place {first}: {count} events of {whose}"
                self._say("spool", what, where=f"spool {first}")
            found[first] = sha256(blob).digest()
            if found[first] != sha:
                what = f"the page at place {first} of {whose} was changed"
                self._say("spool", what, where=f"spool {first}")
        floor = self._instance.pruned
        for unit, each in self._all_pages():
            self._check_pages(unit, each, found, floor)
        for name, sink in self._sinks.items():
            row = self._db.execute("select 1 from sink where name = ?", (name,)).fetchone()
            if row is not None and not sink.removed:
                self._check_floor(name, sink, floor)

    def _check_floor(self, name: str, sink: OfSink, floor: int) -> None:
        """Check that no page was pruned that the sink *name* still waits for."""
        reader = reader_of(self._db, name)
        waits = reader.progress.open_ranges(self._instance.start, min(floor, reader.ends))
        waits = [part for each in waits for part in without([each], joined(sink.lost))]
        for unit, each in self._all_pages() if waits else ():
            since = sink.feeds.get(source_of(unit) or "")
            for first, count in each.places:
                fed = unit == f"sink {name}" or (since is not None and first >= since)
                if fed and not each.removed and without([(first, first + count)], waits) == []:
                    what = f"the page at place {first} was pruned, and {name} has not settled it"
                    self._say("spool", what, where="meta.pruned", entry=each.fact.entry)
                    return

    def _check_pages(self, unit: str, pages: Pages, found: dict[int, bytes], floor: int) -> None:
        body, fact = pages.fact.body, pages.fact
        digests = [found.get(first) for first, _ in pages.places]
        if sink_of(unit) is not None:
            floor = max(floor, *self._removals.values(), 0)
        for (first, count), digest in zip(pages.places, digests, strict=True):
            void = any(first in each.void for each in self._sources.values())
            if digest is None and first >= floor and not pages.removed and not void:
                what = f"the page at place {first}, {count} events of {unit}, is missing"
                self._say("spool", what, where=f"spool {first}", entry=fact.entry, at=fact.at)
        whole = [digest for digest in digests if digest is not None]
        if (
            len(whole) == len(digests)
            and digests
            and digest_of_pages(fact, whole) != body["stored"]
        ):
            what = f"the pages from place {pages.places[0][0]} on are not those that were stored"
            self._say("spool", what, where=unit, entry=fact.entry, at=fact.at)
