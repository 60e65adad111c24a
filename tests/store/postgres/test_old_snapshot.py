"""Another session holds a snapshot: old rows stay, and what is written often grows slower."""

import statistics
import time
from uuid import uuid4

import pytest
from tests.support.extent import ALL
from tests.support.shared_state import connected, raw, rows

pytestmark = pytest.mark.process

COMMITS = 15_000
"""Five minutes at fifty a second."""

SLOWER = 10
"""How many times longer a write may take in the end."""


@pytest.mark.skipif(not ALL, reason="minutes, and it measures")
def test_what_is_updated_all_the_time_stays_fast_enough_under_an_old_snapshot(
    database: str,
) -> None:
    me, took = uuid4(), []
    rows(database, "insert into writer values (%s, 0)", me)
    rows(database, "insert into sink (name, sources, position) values ('splunk', '[]', 0)")
    with raw(database) as old:
        old.execute("begin isolation level repeatable read")
        old.execute("select count(*) from auditrelay.sink")
        with connected(database) as db:
            for number in range(COMMITS):
                began = time.monotonic()
                db.begin(write=True)
                db.execute("update sink set position = ? where name = 'splunk'", (number,))
                db.execute("select fence(?, ?, ?::text[], ?::uuid[])", (me, number, [], []))
                db.commit()
                took.append(time.monotonic() - began)
        old.execute("rollback")
    first, last = (statistics.median(each) for each in (took[:1000], took[-1000:]))
    assert last < SLOWER * first, (first, last)
