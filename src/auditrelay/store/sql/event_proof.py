"""The proof of one event: when it was accepted and taken by each sink, for a check off line."""

import base64
import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

from auditrelay.errors import RelayError
from auditrelay.evidence.facts import chain
from auditrelay.evidence.heads import Head
from auditrelay.evidence.tree import leaf, path
from auditrelay.store.keys import TIMELESS_AT, time_of
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.evidence import entries, newest_word
from auditrelay.store.sql.facts import of_source, sink_of


def event_proof(db: Connection, uid: str) -> dict[str, Any]:
    """
    Return the proof of the event *uid* (40 hex digits), as ``evidence check`` reads it.

    It has the entries that say that the event was accepted and taken, with their paths to the
    newest head, and of the event's page all keys. Raises RelayError if there is no proof.
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
        "sinks": _taken(db, place, head.size, part),
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


def _taken(
    db: Connection, place: int, size: int, part: Callable[[int], dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return by sink the first entry that says that *place* is settled there."""
    taken: dict[str, dict[str, Any]] = {}
    for n, unit, text in db.execute(
        "select n, unit, text from entry where unit like 'sink %' and n < ? order by n", (size,)
    ):
        name = sink_of(unit)
        if name is not None and name not in taken:
            done = (pair for fact in json.loads(text)["facts"] for pair in fact.get("done", ()))
            if any(first <= place < first + count for first, count in done):
                taken[name] = part(n)
    return taken
