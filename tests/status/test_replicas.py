"""Who is alive, who holds what, and what only the holder knows."""

from datetime import timedelta

from tests.support.situations import NOW, held, replica, situation

from auditrelay.status.replicas import (
    Holders,
    failing_of,
    holders_of,
    parts_of,
    replicas_of,
    throughput_of,
    unheld_since,
)
from auditrelay.store.leases import KEEPER
from auditrelay.store.replicas import Served
from auditrelay.window import iso


def test_the_replicas_are_listed_by_age_with_what_they_hold_and_commands_are_none() -> None:
    young = replica("a", expires_in=-1.0)
    old = replica("b", started=NOW - timedelta(days=1), info={"stuck": ["voice"], "offset": 2.5})
    command = replica("c", command=True)
    seen = situation(
        [young, old, command], held("source z", "b"), held("sink x", "b"), held(KEEPER, "a")
    )
    first, second = replicas_of(seen)
    assert (first.name, first.alive, first.units) == ("b", True, ("sink x", "source z"))
    assert (first.since, first.stuck) == (iso(old.started), ("voice",))
    assert first.clock_offset_seconds == 2.5
    assert (second.name, second.alive, second.units) == ("a", False, (KEEPER,))


def test_a_unit_is_held_by_a_live_replica_or_by_none() -> None:
    seen = situation(
        [replica("a"), replica("dead", expires_in=-1.0)],
        held("source x", "a"),
        held("source y", "dead"),
        held("source z", None),
        held("source t", "tidied"),
    )
    found = holders_of(seen, {})
    assert {peer: each.listed for peer, each in found.items()} == {
        "source x": "a",
        "source y": None,
        "source z": None,
        "source t": None,
    }
    assert [peer for peer, each in found.items() if each.all] == ["source x"]


def test_a_sink_in_parts_is_held_by_several_and_whole_if_all_parts_are() -> None:
    rows = [held("sink x", None), held("sink x 0/2", "a"), held("sink x 1/2", "b")]
    seen = situation([replica("b"), replica("a"), replica("dead", expires_in=-1.0)], *rows)
    assert holders_of(seen, {"sink x": 2}) == {"sink x": Holders(("a", "b"), all=True)}
    assert unheld_since(seen, {"sink x": 2}) == {}, (
        "it is in two parts, and so no replica has it whole"
    )
    rows[2] = held("sink x 1/2", "dead")
    seen = situation(list(seen.replicas), *rows)
    assert holders_of(seen, {"sink x": 2}) == {"sink x": Holders(("a",), all=False)}
    assert list(unheld_since(seen, {"sink x": 2})) == ["sink x 1/2"]
    assert list(unheld_since(seen, {"sink x": 1})) == ["sink x"]


def test_a_sink_is_in_as_many_parts_as_those_serve_that_may_hold_it() -> None:
    served = {unit: Served("") for unit in ("sink x 0/3", "sink y")}
    others = {"sink x 0/9": Served("")}
    seen = situation(
        [
            replica("a", serves=served),
            replica("b", serves=others, draining=True),
            replica("c", serves=others, command=True),
            replica("d", serves=others, expires_in=-1.0),
        ]
    )
    configured = {"sink x": 2, "sink y": 2, "sink z": 4}
    assert parts_of(seen, configured) == {"sink x": 3, "sink y": 1, "sink z": 4}


def test_since_when_no_replica_holds_it() -> None:
    given = NOW - timedelta(minutes=3)
    seen = situation(
        [replica("a"), replica("dead", expires_in=-40.0)],
        held("source x", "a", given),
        held("source y", "dead", given),  # it worked until its last beat expired
        held("source z", None, given),
        held("source t", "tidied", given),  # it is not known any more when it died
    )
    assert unheld_since(seen, {}) == {
        "source y": NOW - timedelta(seconds=40),
        "source z": given,
        "source t": None,
    }


def test_what_a_holder_says_of_its_throughput_counts_and_nothing_that_others_say() -> None:
    seen = situation(
        [
            replica("a", info={"throughput": {"sink x": [1, 2], "sink y": [9]}}),
            replica("b", info={"throughput": {"sink y": [3]}}),
            replica("dead", expires_in=-1.0, info={"throughput": {"sink z": [4]}}),
        ],
        held("sink x", "a"),
        held("sink y", "b"),
        held("sink z", "dead"),
    )
    assert throughput_of(seen) == {"x": (1, 2), "y": (3,)}


def test_what_the_parts_of_a_sink_deliver_is_added_up_minute_by_minute() -> None:
    seen = situation(
        [
            replica("a", info={"throughput": {"sink x 0/3": [1, 2, 3], "sink x 2/3": [10]}}),
            replica("b", info={"throughput": {"sink x 1/3": [100, 200]}}),
        ],
        held("sink x 0/3", "a"),
        held("sink x 1/3", "b"),
        held("sink x 2/3", "a"),
    )
    assert throughput_of(seen) == {"x": (1, 102, 213)}


def test_why_nothing_is_sealed_is_what_the_live_keeper_says() -> None:
    said = {"failing": ["the disk is full", iso(NOW)]}
    others = [replica("a", info=said), replica("b")]
    assert failing_of(situation(others, held(KEEPER, "a"))) == ("the disk is full", NOW)
    assert failing_of(situation(others, held(KEEPER, "b"))) is None
    assert failing_of(situation(others, held(KEEPER, None))) is None
