"""Which sinks receive which sources, by the configurations of all live replicas."""

from tests.support.situations import replica

from auditrelay.service.configured_feeds import UNWANTED, ConfiguredFeeds
from auditrelay.settings.reserved import ALERTS
from auditrelay.store.parts import sink_units
from auditrelay.store.replicas import Served

ONE = {"source a": Served("1"), "sink x": Served("1", ("a",))}
OTHER = {"source b": Served("1"), "sink x": Served("2", ("b",)), "sink y": Served("1", ("b",))}


def test_nothing_is_known_until_all_others_have_had_their_time() -> None:
    of = ConfiguredFeeds()
    assert of.current(0) is None
    of.saw([replica("r", serves=ONE)], 100)
    assert of.current(100 + UNWANTED - 1) is None
    of.saw([replica("r", serves=ONE)], 100 + UNWANTED)
    assert of.current(100 + UNWANTED) == ({"x": ["a", ALERTS]}, ["a", ALERTS])


def test_the_configurations_of_all_live_replicas_count() -> None:
    of = ConfiguredFeeds()
    dead = replica("d", serves={"sink z": Served("1", ("a",))}, expires_in=-1.0)
    for now in (0, UNWANTED):
        of.saw([replica("r", serves=ONE), replica("s", serves=OTHER), dead], now)
    assert of.current(UNWANTED) == (
        {"x": ["a", ALERTS, "b"], "y": [ALERTS, "b"]},
        ["a", ALERTS, "b"],
    )


def test_what_no_live_replica_has_for_a_while_is_over() -> None:
    of = ConfiguredFeeds()
    of.saw([replica("r", serves=ONE), replica("s", serves=OTHER)], 0)
    for now in (UNWANTED - 1, UNWANTED):
        of.saw([replica("r", serves=ONE)], now)
    assert of.current(UNWANTED - 1) is None
    assert of.current(UNWANTED) == ({"x": ["a", ALERTS]}, ["a", ALERTS])


def test_a_sink_that_a_replica_leaves_to_others_is_configured_while_all_of_those_are_away() -> None:
    of = ConfiguredFeeds()
    leaves = replica("r", serves=ONE, info={"elsewhere": {"far": ["a"]}})
    for now in (0, UNWANTED, 9 * UNWANTED):
        of.saw([leaves], now)
    assert of.current(9 * UNWANTED) == (
        {"far": ["a", ALERTS], "x": ["a", ALERTS]},
        ["a", ALERTS],
    )


def test_each_part_of_a_sink_says_what_the_sink_receives() -> None:
    of = ConfiguredFeeds()
    parts = {unit: Served("1", ("a", "b")) for unit in sink_units("x", 2)}
    of.saw([replica("r", serves=parts)], 0)
    of.saw([replica("r", serves=parts)], UNWANTED)
    assert of.current(UNWANTED) == ({"x": ["a", ALERTS, "b"]}, ["a", ALERTS, "b"])
