"""What a sink is not sent is settled, and the evidence says by which glob: no more, no less."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.states import State
from tests.support.stores import explained, seal

from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.evidence.auditor import program
from auditrelay.store import Proof
from auditrelay.store.sql import evidence
from auditrelay.store.sql.event_proof import event_proof
from auditrelay.store.sql.store import SqlStore

Make = Callable[..., AuditEvent]


async def filled(store: SqlStore, event: Make) -> list[AuditEvent]:
    """Six events: two were sent, three excluded by two globs, and one waits."""
    events = [event(number) for number in range(6)]
    await store.add("voice", Page.of(events), proof=Proof())
    await store.settle("splunk", [(0, 1), (2, 3)], excluded={"session.*": [(1, 2), (3, 4)]})
    await store.settle("splunk", [], excluded={"user.read": [(4, 5)]})
    return events


STATUSES = ["delivered", "excluded", "delivered", "excluded", "excluded", "waiting"]


async def test_it_has_a_status_of_its_own_before_and_after_the_seal(
    store: SqlStore, event: Make, state: State
) -> None:
    events = await filled(store, event)
    for sealed in (False, True):
        if sealed:
            await seal(store)
        found = await store.delivery_status("voice", events)
        assert [each and each["splunk"] for each in found] == STATUSES
        explained(state)


async def test_the_entry_says_what_was_excluded_and_the_state_counts_it(
    store: SqlStore, event: Make, state: State
) -> None:
    await filled(store, event)
    await seal(store)
    with state.view() as view:
        (entry,) = [
            json.loads(line) for _, line in view.read(evidence.entries) if '"sink splunk"' in line
        ]
    assert [fact for fact in entry["facts"] if fact["fact"] == "excluded"] == [
        {"fact": "excluded", "glob": "session.*", "places": [[1, 1], [3, 1]], "events": 2},
        {"fact": "excluded", "glob": "user.read", "places": [[4, 1]], "events": 1},
    ]
    assert {"fact": "delivered", "done": [[0, 5]]} in entry["facts"]
    assert (entry["state"]["excluded"], entry["state"]["position"]) == (3, 5)


async def test_the_proof_of_an_event_says_that_it_was_not_sent(
    store: SqlStore, event: Make, state: State, tmp_path: Path, capsys: Any
) -> None:
    events = await filled(store, event)
    await seal(store)

    def proof(number: int) -> str:
        with state.raw() as db:
            found = event_proof(db, events[number].uid)
        (tmp_path / "p.json").write_text(json.dumps(found))
        assert program.main([str(tmp_path / "p.json")]) == 0
        return str(capsys.readouterr().out)

    assert "splunk took it by" in proof(0)
    assert 'splunk was not sent it, as its exclude has "session.*": settled by' in proof(3)
    assert "splunk" not in proof(5), "it waits"
