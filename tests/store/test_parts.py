"""Which sources a part of a sink has, and which number of parts counts."""

import pytest

from auditrelay.store.parts import (
    Part,
    in_force,
    is_superseded,
    name_of,
    part_of,
    peer_of,
    sink_units,
)

SOURCES = [f"source-{number}" for number in range(300)]


@pytest.mark.parametrize("parts", [2, 3, 7, 64])
def test_each_source_is_of_one_part_and_no_part_has_most_of_them(parts: int) -> None:
    all_parts = [Part(number, parts) for number in range(parts)]
    shares = [list(filter(part.has, SOURCES)) for part in all_parts]
    assert sorted(source for share in shares for source in share) == sorted(SOURCES)
    assert max(map(len, shares)) < 3 * len(SOURCES) / parts


def test_which_part_a_source_is_of_is_the_same_in_every_version() -> None:
    """Two replicas that do not agree on it would deliver a source twice, or not at all."""
    assert [[p for p in range(3) if Part(p, 3).has(name)] for name in ("a", "voice", "zoo")] == [
        [0],
        [2],
        [0],
    ]


def test_the_parts_share_out_what_there_is() -> None:
    assert [Part(number, 3).share(8) for number in range(3)] == [3, 3, 2]
    assert [Part(number, 4).share(4) for number in range(4)] == [1, 1, 1, 1]


def test_units_name_the_sink_and_its_part() -> None:
    assert sink_units("x.y", 1) == ["sink x.y"]
    assert sink_units("x.y", 3) == ["sink x.y 0/3", "sink x.y 1/3", "sink x.y 2/3"]
    assert [part_of(unit) for unit in sink_units("x", 2)] == [Part(0, 2), Part(1, 2)]
    assert [part_of(unit) for unit in ("sink x", "source x", "keeper")] == [None] * 3
    assert {peer_of(unit) for unit in sink_units("x", 3)} == {"sink x"}
    assert [name_of(unit) for unit in ("sink x 1/2", "source y", "keeper")] == ["x", "y", ""]


def test_the_largest_number_of_parts_counts() -> None:
    numbers = in_force([["sink x", "sink y 0/2", "source x"], ["sink x 2/3", "sink y"], ["sink z"]])
    assert numbers == {"sink x": 3, "sink y": 2, "sink z": 1}
    assert [
        unit for unit in ("sink x", "sink x 0/2", "sink x 0/3") if is_superseded(unit, numbers)
    ] == [
        "sink x",
        "sink x 0/2",
    ]
    others = ("sink z", "source x", "keeper", "sink unknown", "sink unknown 0/9")
    assert not any(is_superseded(unit, numbers) for unit in others)
