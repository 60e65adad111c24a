"""Replicas whose settings of a unit differ for longer than a roll-out."""

from datetime import timedelta

from tests.support.situations import NOW, replica

from auditrelay.service.disagreements import ROLL_OUT, Disagreements
from auditrelay.store.parts import sink_units
from auditrelay.store.replicas import Replica, Served

TICK = timedelta(seconds=1)


def serving(name: str, digest: str, *, alive: bool = True, command: bool = False) -> Replica:
    return replica(
        name,
        serves={"source x": Served(digest), "source y": Served("same")},
        expires_in=8.0 if alive else -1.0,
        command=command,
    )


def test_what_differs_for_ten_minutes_is_a_disagreement() -> None:
    of = Disagreements()
    of.saw([serving("a", "1"), serving("b", "2")], NOW)
    assert of.lasting(NOW + ROLL_OUT - TICK) == {}
    of.saw([serving("a", "1"), serving("b", "3")], NOW + ROLL_OUT)
    assert of.lasting(NOW + ROLL_OUT) == {"source x": NOW}


def test_agreement_in_between_ends_it() -> None:
    of = Disagreements()
    of.saw([serving("a", "1"), serving("b", "2")], NOW)
    of.saw([serving("a", "1"), serving("b", "1")], NOW + TICK)
    of.saw([serving("a", "1"), serving("b", "2")], NOW + 2 * TICK)
    assert of.lasting(NOW + ROLL_OUT + TICK) == {}
    assert of.lasting(NOW + ROLL_OUT + 2 * TICK) == {"source x": NOW + 2 * TICK}


def test_the_dead_and_commands_do_not_count() -> None:
    of = Disagreements()
    of.saw(
        [serving("a", "1"), serving("b", "2", alive=False), serving("c", "3", command=True)], NOW
    )
    assert of.lasting(NOW + ROLL_OUT) == {}


def test_another_number_of_parts_is_a_disagreement_about_the_sink() -> None:
    of, later = Disagreements(), NOW + ROLL_OUT
    some = replica("a", serves={unit: Served("3") for unit in sink_units("x", 3)})
    of.saw([some, some], NOW)
    assert of.lasting(later) == {}
    of.saw([some, replica("b", serves={"sink x": Served("1")})], NOW)
    assert of.lasting(later) == {"sink x": NOW}
