"""
Compare the known uids with those that sealed facts counted, by the times of the events.

By their places they cannot all be compared once some are forgotten: which ones no fact tells. So a
uid could be taken out, and another one put in at the place of one that is forgotten.
"""

from typing import Protocol

from auditrelay.store.expected import OfSource, Part, joined, without
from auditrelay.store.sql import ledger
from auditrelay.store.sql.connection import Connection
from auditrelay.window import iso, moment


class _Say(Protocol):
    def __call__(self, code: str, what: str, *, entry: int | None, at: int) -> None:
        """Say what does not fit, by an *entry* of that time."""


def check_counted(db: Connection, owner: int, expected: OfSource, say: _Say) -> list[Part]:
    """
    Say in which spans others are known than were counted; return the places of those.

    Of what is forgotten in part nothing is said. The newest fact of a span has the last word: it
    counted what the ones before it had, and what was found since.
    """
    doubted, done = list[Part](), list[Part]()
    oldest = expected.forgot_before or 0
    for fact in reversed(expected.counted):
        start, end, before = (fact.body[name] for name in ("start", "end", "before"))
        if start < oldest or not without([(start, end)], done):
            continue
        done = joined([*done, (start, end)])
        events, uids = ledger.digest_of(db, owner, start, end, before)
        if (events, uids.hex()) != (fact.body["events"], fact.body["uids"]):
            span = f"{iso(moment(start))} to {iso(moment(end))}"
            what = f"the uids of {span} are not those that were counted"
            say("known", what, entry=fact.entry, at=fact.at)
            places = ledger.places_in(db, owner, start, end)
            doubted += ((place, place + 1) for place in places)
    return doubted
