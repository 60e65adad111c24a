"""Entries: canonical lines of a bounded length, in which nothing is missing."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditrelay.evidence import facts
from auditrelay.evidence.entries import MAX_LINE, lines
from auditrelay.evidence.facts import Body

LOG = "7346c92ec83c0c19152a6840060797e1"
HASH = bytes(32)
WORST = (1 << 63) - 1


def entered(unit: str, bodies: list[Body], state: Body, n: int = 3, seq: int = 2) -> list[Any]:
    """Return what the lines of an entry say, after a look at each as a checker has it."""
    made = lines(unit, bodies, state, log=LOG, n=n, seq=seq, since=5, at=9)
    read = [json.loads(line, parse_float=pytest.fail) for line in made]
    for number, (line, entry) in enumerate(zip(made, read, strict=True)):
        assert line == json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
        assert line.isascii()
        assert len(line) <= MAX_LINE
        assert (entry["n"], entry["seq"]) == (n + number, seq + number)
        assert (entry["at"], entry["since"]) == (9, 9 if number else 5)
        assert (entry["unit"], entry["log"], entry["v"]) == (unit, LOG, 1)
    *further, last = read
    assert [entry["state"] for entry in further] == [None] * len(further)
    assert last["state"] == state
    return read


def test_the_line_of_an_entry() -> None:
    body = facts.looked_again(delay=3600, until=5)
    made = lines("sink a", [body, body], {"position": 7}, log=LOG, n=0, seq=1, since=None, at=9)
    fact = '{"delay":3600,"fact":"looked_again","until":5}'
    assert made == [
        f'{{"at":9,"facts":[{fact},{fact}],"log":"{LOG}","n":0,"seq":1,"since":null,'
        '"state":{"position":7},"unit":"sink a","v":1}'.encode()
    ]


def test_an_entry_without_facts_is_one_line() -> None:
    (entry,) = entered("source okta", [], {"accepted": 0})
    assert entry["facts"] == []


def test_units_are_written_as_they_are_named() -> None:
    entered('source "\u00fc"', [], {})


BODIES = st.one_of(
    st.builds(
        lambda count, reason: facts.dead(reason=reason, uids=["0f" * 20] * count),
        st.integers(0, 4000),
        st.text(max_size=50),
    ),
    st.builds(
        lambda count: facts.replayed(
            first=0, count=count, uids=["0f" * 20] * count, stored=HASH, by=None
        ),
        st.integers(1, 3000),
    ),
    st.builds(
        lambda count: facts.delivered(done=[(WORST - at, 1) for at in range(count)]),
        st.integers(0, 4000),
    ),
    st.builds(
        lambda count: facts.configured(
            digest=HASH, settings={f"sources.{number}.settle": "5m" for number in range(count)}
        ),
        st.integers(0, 4000),
    ),
    st.builds(
        lambda count: facts.found(
            started=0,
            events=7,
            uids=HASH,
            head=None,
            records=[[number, WORST, "covered", None] for number in range(count)],
        ),
        st.integers(0, 3000),
    ),
    st.just(facts.looked_again(delay=3600, until=5)),
)


def total(bodies: list[Body]) -> dict[str, Any]:
    """Return what *bodies* say, however they are cut."""
    said: dict[str, Any] = {"events": 0, "pages": [], "settings": {}}
    for body in bodies:
        said["events"] += body.get("events", 0)
        said["pages"] += body.get("pages", [])
        said["settings"] |= body.get("settings", {})
        for name in ("each", "done", "records"):
            said.setdefault(name, []).extend(
                (body["fact"], body.get("reason"), item) for item in body.get(name, [])
            )
    return said


@settings(max_examples=30, deadline=None)
@given(st.lists(BODIES, max_size=6), st.integers(0, MAX_LINE - 400))
def test_nothing_is_lost_by_going_on_in_a_further_entry(bodies: list[Body], length: int) -> None:
    bodies = json.loads(json.dumps(bodies))
    state = {"ahead": "x" * length}
    read = entered("sink splunk", bodies, state)
    written = [fact for entry in read for fact in entry["facts"]]
    assert total(written) == total(bodies)
    if len(json.dumps(bodies)) + length > 4 * MAX_LINE:
        assert len(read) >= 4


def test_a_line_is_short_enough_with_the_longest_numbers() -> None:
    bodies = [facts.dead(reason="\U0001f600" * 500, uids=["0f" * 20] * 20_000)]
    made = lines(
        "sink " + "x" * 64, bodies, {"a": 1}, log=LOG, n=1 << 40, seq=1 << 40, since=WORST, at=WORST
    )
    assert len(made) > 14
    assert max(map(len, made)) <= MAX_LINE


def test_facts_that_fit_are_not_spread_over_more_lines_than_they_need() -> None:
    body = facts.looked_again(delay=3600, until=5)
    needed = len(facts.text(body)) * 5000 / MAX_LINE
    assert len(entered("source okta", [body] * 5000, {})) <= needed + 2


def test_what_no_entry_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="the state of sink splunk is longer than an entry"):
        lines("sink splunk", [], {"a": "x" * MAX_LINE}, log=LOG, n=0, seq=1, since=None, at=0)
    long = {"fact": "restored", "reason": "x" * MAX_LINE}
    with pytest.raises(ValueError, match="too long and cannot be cut"):
        lines("instance", [long], {}, log=LOG, n=0, seq=1, since=None, at=0)
