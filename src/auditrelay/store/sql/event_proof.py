"""The proof of one event: when it was accepted and taken by each sink, for a check off line."""

import base64
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

from auditrelay.errors import RelayError
from auditrelay.evidence.facts import chain
from auditrelay.evidence.heads import Head
from auditrelay.evidence.tree import leaf, path
from auditrelay.store import Fact
from auditrelay.store.expected import OfInstance, OfSink
from auditrelay.store.keys import TIMELESS_AT, time_of
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.evidence import entries, newest_word
from auditrelay.store.sql.facts import INSTANCE, of_source, sink_of
from auditrelay.store.sql.readers import FOREVER


def event_proof(db: Connection, uid: str) -> dict[str, Any]:
    """
    Return the proof of the event *uid* (40 hex digits), as ``evidence check`` reads it.

    It has the entries that say that the event was accepted, and that each sink which gets it has
    taken or refused it, with their paths to the newest head, and of the event's page all keys.
    Raises RelayError if there is no proof.
    """
    word = newest_word(db)
    if word is None:
        raise RelayError(
            "there is no evidence yet: the first seal is within 5 minutes of the start"
        )
    head = Head.parse(word)
    row = db.execute(
        "select source.id, name, position, key from known join source on source.id = known.source "
        "where substr(key, 9) = ? order by source.id limit 1",
        (bytes.fromhex(uid),),
    ).fetchone()
    if row is None:
        raise RelayError(
            f"no event {uid} is known: it was never accepted, is older than spool.remember, or is "
            "one of auditrelay itself"
        )
    owner, source, place, key = row
    if place < 0:
        raise RelayError(
            f"the record {uid} of {source} is no event, and was put aside: no sink gets it; see: "
            "auditrelay dead-letters list"
        )
    n, fact, index = _accepted(db, uid, source, place, head.size)
    pages = _keys(db, owner, fact["pages"])
    digests = [sha256(each).digest() for each in pages]
    if chain(digests).hex() != fact["uids"]:
        raise RelayError(
            f"not all events that were accepted with {uid} are known as they were (they are "
            "forgotten after spool.remember); run: auditrelay coverage --check"
        )
    leaves = [leaf(text.encode()) for number, text in entries(db) if number < head.size]

    def part(number: int) -> dict[str, Any]:
        (text,) = db.execute("select text from entry where n = ?", (number,)).fetchone()
        return {"n": number, "line": text, "path": [each.hex() for each in path(leaves, number)]}

    at = time_of(key)
    return {
        "v": 1,
        "uid": uid,
        "at": None if at == TIMELESS_AT else at,
        "source": source,
        "accepted": part(n),
        "page": {
            "d": chain(digests[:index]).hex(),
            "keys": base64.b64encode(pages[index]).decode("ascii"),
            "after": [each.hex() for each in digests[index + 1 :]],
        },
        "sinks": {
            name: _lines(numbers, part)
            for name, numbers in _settled_by(db, source, place, head.size).items()
        },
        "head": word,
    }


def _accepted(
    db: Connection, uid: str, source: str, place: int, size: int
) -> tuple[int, dict[str, Any], int]:
    """Return the entry below *size* that says that *place* was accepted, the fact, and its page."""
    query = "select n, text from entry where unit = ? and n < ? order by n"
    for n, text in db.execute(query, (of_source(source), size)):
        for fact in json.loads(text)["facts"]:
            if fact["fact"] == "accepted":
                for index, (first, count) in enumerate(fact["pages"]):
                    if first <= place < first + count:
                        return n, fact, index
    raise RelayError(
        f"event {uid} of {source} is in no entry: it is not sealed yet (within the hour), or was "
        "accepted before there was evidence"
    )


def _keys(db: Connection, owner: int, pages: Sequence[Sequence[int]]) -> list[bytes]:
    """Return the known keys of each of *pages*, joined."""
    end = max(first + count for first, count in pages)
    at = dict(
        db.execute(
            "select position, key from known where source = ? and position >= ? and position < ?",
            (owner, min(first for first, _ in pages), end),
        )
    )
    return [
        b"".join(at.get(place, b"") for place in range(first, first + count))
        for first, count in pages
    ]


def _settled_by(db: Connection, source: str, place: int, size: int) -> dict[str, list[int]]:
    """
    Return by sink the lines of the first entry that says that it has taken or refused *place*.

    A sink's position also passes what it does not get: events of sources that it is not fed, or was
    not yet, and what was pruned while it was not configured.
    """
    instance, sinks = OfInstance(), defaultdict[str, OfSink](OfSink)
    last: dict[str, int] = {}
    found: dict[str, list[int]] = {}
    for unit, lines in _whole_entries(db, size):
        numbers = [n for n, _ in lines]
        facts = [Fact(body, line["at"], n) for n, line in lines for body in line["facts"]]
        name, state = sink_of(unit), lines[-1][1]["state"]
        if name is None:
            for fact in facts:
                instance.take(fact)
            continue
        for fact in facts:
            sinks[name].take(fact)
            if fact.body["fact"] == "back":
                sinks[name].come_back(instance.pruned)
        before, last[unit] = last.get(unit), numbers[-1]
        done = (pair for fact in facts for pair in fact.body.get("done", ()))
        lost = any(start <= place < end for start, end in sinks[name].lost)
        fed = state["since"].get(source, FOREVER) <= place and not lost
        if fed and name not in found and any(start <= place < start + n for start, n in done):
            # Otherwise its first line would look like a further one, see the checker.
            stood = before is not None and lines[0][1]["since"] == lines[0][1]["at"]
            found[name] = [before, *numbers] if before is not None and stood else numbers
    return found


def _whole_entries(
    db: Connection, size: int
) -> Iterator[tuple[str, list[tuple[int, dict[str, Any]]]]]:
    """Yield the entries below *size* of the instance and of sinks, with all lines of each."""
    open_lines: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    query = (
        "select n, unit, text from entry where (unit = ? or unit like 'sink %') and n < ? "
        "order by n"
    )
    for n, unit, text in db.execute(query, (INSTANCE, size)):
        line = json.loads(text)
        open_lines.setdefault(unit, []).append((n, line))
        if line["state"] is not None:  # it stands in the last line
            yield unit, open_lines.pop(unit)


def _lines(numbers: Sequence[int], part: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """Return the last of the lines with these *numbers*, and the others if there are any."""
    *others, last = map(part, numbers)
    return {**last, "more": others} if others else last


def is_refused(proved: Mapping[str, Any], uid: str) -> bool:
    """Return whether the lines of a sink, as they are *proved*, say that it has refused *uid*."""
    return any(
        fact["fact"] == "dead" and uid in fact["each"]
        for each in (proved, *proved.get("more", ()))
        for fact in json.loads(each["line"])["facts"]
    )
