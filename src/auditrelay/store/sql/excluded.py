"""What sinks were not sent, since their ``exclude`` said so, by the facts about it."""

from bisect import bisect
from collections.abc import Iterable, Iterator
from operator import itemgetter

from auditrelay.store.expected import Part, joined
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.evidence import facts_of
from auditrelay.store.sql.facts import of_sink


class ExcludedPlaces:
    """The places in the spool of what each of *sinks* was not sent."""

    def __init__(self, db: Connection, sinks: Iterable[str]) -> None:
        self._of = {sink: joined(_of_sink(db, sink)) for sink in sinks}

    def has(self, sink: str, place: int) -> bool:
        """Return whether *sink* was not sent the event at *place*."""
        places = self._of[sink]
        number = bisect(places, place, key=itemgetter(0)) - 1
        return number >= 0 and place < places[number][1]


def _of_sink(db: Connection, sink: str) -> Iterator[Part]:
    for fact in facts_of(db, of_sink(sink), merged=False, about="excluded"):
        for first, count in fact.body["places"]:
            yield first, first + count
