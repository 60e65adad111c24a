"""The plan, the witness, the guard: what replicas conclude from the rows that they see."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditrelay.service.membership import (
    BEAT,
    FREE,
    MOVE_EVERY,
    SELF,
    SETTLED,
    Free,
    Guard,
    Moves,
    Witness,
    lost,
    plan,
    rolled_back,
    unknown_to_us,
)
from auditrelay.store.leases import KEEPER, Lease
from auditrelay.store.parts import sink_units
from auditrelay.store.replicas import LIFE, LeaseRow, Replica, Served

A, B, C, D = (UUID(int=number) for number in range(1, 5))


def replica(
    number: UUID,
    serves: Sequence[str] = (),
    *,
    beats: int = 0,
    expires_in: float = LIFE,
    draining: bool = False,
    command: bool = False,
) -> Replica:
    return Replica(
        id=number,
        name=f"replica-{number.int}",
        version="1",
        started=datetime(2026, 1, 1, tzinfo=UTC),
        beats=beats,
        expires_in=expires_in,
        draining=draining,
        command=command,
        serves={unit: Served("") for unit in serves},
    )


def held(planned: dict[str, UUID]) -> list[LeaseRow]:
    return [LeaseRow(unit=unit, holder=by, token=UUID(int=9)) for unit, by in planned.items()]


UNITS = [f"{kind} {number}" for kind in ("source", "sink") for number in range(9)] + [KEEPER]


def of_kind(kind: str, units: Sequence[str]) -> list[str]:
    return [unit for unit in units if unit.startswith(kind)]


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[Replica], list[str], list[LeaseRow]]:
    """Replicas that serve different units, of which any may hold anything."""
    ids = [UUID(int=number) for number in range(1, draw(st.integers(1, 5)) + 1)]
    replicas = [
        replica(
            each,
            draw(st.lists(st.sampled_from(UNITS), unique=True)),
            draining=draw(st.integers(0, 5)) == 0,
            command=draw(st.integers(0, 5)) == 0,
            expires_in=draw(st.sampled_from([LIFE, LIFE, LIFE, -1.0])),
        )
        for each in ids
    ]
    holders = st.sampled_from([None, *ids, UUID(int=99)])
    rows = [
        LeaseRow(unit=unit, holder=draw(holders), wanted_by=draw(holders))
        for unit in draw(st.lists(st.sampled_from(UNITS), unique=True))
    ]
    return replicas, UNITS, rows


def able(replicas: Sequence[Replica]) -> list[Replica]:
    return [each for each in replicas if each.fresh and not each.draining and not each.command]


PARTED = [*UNITS[:3], "sink x", *sink_units("x", 2), *sink_units("x", 3), "sink y", "sink z"]


def test_the_parts_of_a_sink_go_to_different_replicas_whatever_else_they_hold() -> None:
    units = [*UNITS, *sink_units("x", 3)]
    replicas = [replica(each, units) for each in (A, B, C)]
    planned = plan(replicas, units, [LeaseRow(unit=unit, holder=A) for unit in units])
    assert {planned[unit] for unit in sink_units("x", 3)} == {A, B, C}
    more = [*sink_units("x", 3), *sink_units("y", 4)]
    planned = plan([replica(each, more) for each in (A, B)], more, [])
    for sink in ("sink x", "sink y"):
        shares = Counter(by for unit, by in planned.items() if unit.startswith(sink))
        assert max(shares.values()) == 2


def test_of_a_sink_the_largest_number_of_parts_that_is_served_is_planned() -> None:
    replicas = [
        replica(A, ["sink x", "sink y"]),
        replica(B, [*sink_units("x", 2), "sink y"]),
        replica(C, sink_units("x", 3), draining=True),
    ]
    planned = plan(replicas, PARTED, [LeaseRow(unit="sink x", holder=A)])
    assert set(planned) == {*sink_units("x", 2), "sink y"}
    assert {planned[unit] for unit in sink_units("x", 2)} == {B}
    planned = plan([replicas[0]], PARTED, [])
    assert planned == {"sink x": A, "sink y": A}


@given(situations())
def test_what_is_served_has_a_taker_who_serves_it_and_may_take(
    situation: tuple[list[Replica], list[str], list[LeaseRow]],
) -> None:
    replicas, units, rows = situation
    planned = plan(replicas, units, rows)
    taking = {each.id: each for each in able(replicas)}
    assert set(planned) == {
        unit for unit in units if any(unit in each.serves for each in taking.values())
    }
    assert all(unit in taking[by].serves for unit, by in planned.items())


@given(situations())
def test_no_chain_of_moves_would_make_it_more_even(
    situation: tuple[list[Replica], list[str], list[LeaseRow]],
) -> None:
    replicas, units, rows = situation
    planned = plan(replicas, units, rows)
    taking = able(replicas)
    for kind in ("source", "sink", KEEPER):
        mine = {unit: by for unit, by in planned.items() if unit.startswith(kind)}
        loads = Counter(mine.values())
        for start in taking:
            reached = {start.id}
            for _ in taking:  # every step follows all units to all that serve them
                reached |= {
                    other.id
                    for other in taking
                    for unit, by in mine.items()
                    if by in reached and unit in other.serves
                }
            assert all(loads[start.id] - loads[to] <= 1 for to in reached)


@given(situations(), st.randoms())
def test_all_replicas_make_the_same_plan_whatever_the_order_of_the_rows(
    situation: tuple[list[Replica], list[str], list[LeaseRow]], random: st.DataObject
) -> None:
    replicas, units, rows = situation
    planned = plan(replicas, units, rows)
    for each in (replicas, units := list(units), rows):
        random.shuffle(each)  # type: ignore[attr-defined]  # hypothesis's Random
    assert plan(replicas, units, rows) == planned


@given(situations())
def test_a_plan_that_was_carried_out_does_not_change(
    situation: tuple[list[Replica], list[str], list[LeaseRow]],
) -> None:
    replicas, units, rows = situation
    planned = plan(replicas, units, rows)
    assert plan(replicas, units, held(planned)) == planned


@given(st.integers(1, 5), st.integers(0, 40), st.integers(0, 40))
def test_a_new_replica_gets_its_share_and_nothing_else_moves(
    replicas: int, sources: int, sinks: int
) -> None:
    units = [f"source {n}" for n in range(sources)] + [f"sink {n}" for n in range(sinks)]
    before = [replica(UUID(int=n), units) for n in range(1, replicas + 1)]
    planned = plan(before, units, [])
    new = replica(UUID(int=99), units)
    after = plan([*before, new], units, held(planned))
    for kind in ("source", "sink"):
        moved = [unit for unit in of_kind(kind, units) if after[unit] != planned[unit]]
        assert {after[unit] for unit in moved} <= {new.id}
        assert len(moved) == len(of_kind(kind, units)) // (replicas + 1)


@given(st.integers(2, 5), st.integers(0, 40))
def test_what_a_dead_replica_had_is_shared_and_nothing_else_moves(
    replicas: int, sources: int
) -> None:
    units = [f"source {n}" for n in range(sources)]
    all_ = [replica(UUID(int=n), units) for n in range(1, replicas + 1)]
    planned = plan(all_, units, [])
    dead, *others = all_
    after = plan(others, units, held(planned))
    for unit in units:
        assert after[unit] == planned[unit] or planned[unit] == dead.id
    loads = Counter(after.values())
    assert not units or max(loads.values()) - min(loads[each.id] for each in others) <= 1


def test_a_unit_that_is_being_moved_counts_where_it_comes_to() -> None:
    both = [replica(A, ["sink x"]), replica(B, ["sink x"])]
    for wanted in (A, B):
        rows = [LeaseRow(unit="sink x", holder=A, wanted_by=wanted)]
        assert plan(both, ["sink x"], rows) == {"sink x": wanted}
    rows = [LeaseRow(unit="sink x", holder=A, wanted_by=C)]  # which is gone
    assert plan(both, ["sink x"], rows) == {"sink x": A}


def test_a_unit_of_many_is_planned_in_milliseconds() -> None:
    units = [f"source {n}" for n in range(300)] + [f"sink {n}" for n in range(30)]
    before = [replica(UUID(int=n), units) for n in (1, 2)]
    planned = plan(before, units, [])
    after = plan([*before, replica(C, units)], units, held(planned))
    assert Counter(by for unit, by in after.items() if unit.startswith("source")) == {
        A: 100,
        B: 100,
        C: 100,
    }


# -- the witness -----------------------------------------------------------------------------------


def test_who_beats_no_more_is_dead_after_its_life_and_not_before() -> None:
    witness = Witness()
    for second in range(12):
        rows = [replica(A, beats=5), replica(B, beats=second // 3)]
        witness.saw(rows, float(second), second + 0.2)
        assert witness.dead() == ({A} if second >= 11 else set())  # seen at 0.2 at the latest


def test_a_pulse_without_answer_makes_it_begin_again() -> None:
    witness = Witness()
    for second in range(9):
        witness.saw([replica(A)], float(second), float(second))
    witness.interrupted()
    assert witness.dead() == set()
    for second in range(10, 20):
        witness.saw([replica(A)], float(second), float(second))
        assert witness.dead() == set()
    witness.saw([replica(A)], 20.0, 20.0)
    assert witness.dead() == {A}


def test_of_the_time_for_which_it_was_frozen_itself_hardly_any_counts() -> None:
    witness = Witness()
    witness.saw([replica(A)], 0.0, 0.0)
    witness.saw([replica(A)], 3600.0, 3600.0)
    assert witness.dead() == set()
    for second in range(1, 7):
        witness.saw([replica(A)], 3600.0 + second, 3600.0 + second)
        assert witness.dead() == set()  # BEAT of the hour, and these
    witness.saw([replica(A)], 3607.0, 3607.0)
    assert witness.dead() == {A}


def test_beats_that_went_back_with_a_lost_tail_are_a_sign_of_life() -> None:
    witness = Witness()
    for second in range(10):
        witness.saw([replica(A, beats=7)], float(second), float(second))
    witness.saw([replica(A, beats=6)], 10.0, 10.0)
    assert witness.dead() == set()


def test_a_slow_answer_counts_from_when_it_came() -> None:
    witness = Witness()
    witness.saw([replica(A)], 0.0, 4.0)
    for sent in (4.0, 8.0, 12.0):  # 1 second more each than BEAT
        witness.saw([replica(A)], sent, sent + 4.0)
        assert witness.dead() == set()


# -- the guard -------------------------------------------------------------------------------------


def test_a_beat_is_good_for_less_than_its_life_from_when_it_was_sent() -> None:
    guard = Guard()
    assert not guard.good(0.0)
    guard.renew(100.0, LIFE)
    assert guard.good(100.0 + SELF - 0.01)
    assert not guard.good(100.0 + SELF)
    guard.renew(102.0, LIFE - 2.0)  # a pulse that was no beat
    assert not guard.good(100.0 + SELF)
    guard.renew(103.0, LIFE)
    assert guard.good(103.0 + SELF - 0.01)
    guard.end()
    assert not guard.good(103.0)


def test_a_beat_that_waited_for_a_lock_is_good_for_less() -> None:
    guard = Guard()
    guard.renew(100.0, LIFE - 5.0)
    assert guard.good(100.0 + SELF - 5.01)
    assert not guard.good(100.0 + SELF - 5.0)


def test_a_clock_of_the_database_that_was_set_back_gives_no_longer_life() -> None:
    guard = Guard()
    guard.renew(100.0, LIFE + 3600)
    assert not guard.good(100.0 + SELF)


# -- what was lost ---------------------------------------------------------------------------------


def test_a_lease_is_lost_with_its_token_or_its_row() -> None:
    leases = [Lease(unit, 1, UUID(int=n)) for n, unit in enumerate(("a", "b", "c", "d"))]
    rows = [
        LeaseRow(unit="a", epoch=2, token=UUID(int=0)),  # only the token matters
        LeaseRow(unit="b", epoch=1, token=UUID(int=7)),
        LeaseRow(unit="c"),
    ]
    assert [lease.unit for lease in lost(leases, rows)] == ["b", "c", "d"]


@pytest.mark.parametrize(
    ("known", "writes", "fewer"), [(5, 4, True), (5, 5, False), (5, 6, False), (5, None, False)]
)
def test_fewer_writes_than_were_known_were_lost(
    known: int, writes: int | None, fewer: bool
) -> None:
    assert rolled_back(known, writes) is fewer


def test_what_names_us_and_is_not_held_is_unknown() -> None:
    rows = [
        LeaseRow(unit="a", holder=A),
        LeaseRow(unit="b", holder=A),
        LeaseRow(unit="c", holder=B),
    ]
    assert [row.unit for row in unknown_to_us(A, {"a"}, rows)] == ["b"]


# -- free, moves -----------------------------------------------------------------------------------


def test_what_is_free_for_long_is_unclaimed() -> None:
    free = Free()
    rows = [
        LeaseRow(unit="a"),
        LeaseRow(unit="b", holder=A),
        LeaseRow(unit="c", holder=B),
        LeaseRow(unit="d", holder=C),
    ]
    alive = [replica(A), replica(B)]
    free.saw(rows, alive, {B}, 0.0)
    assert free.units() == {"a", "c", "d"}
    assert free.unclaimed(FREE - 0.01) == set()
    free.saw([LeaseRow(unit="a", holder=A), *rows[1:]], alive, {B}, FREE)
    assert free.unclaimed(FREE) == {"c", "d"}
    free.saw(rows, alive, {B}, FREE + 1)
    assert free.unclaimed(FREE + 1) == {"c", "d"}


def test_the_keeper_moves_little_and_not_before_the_replicas_were_the_same_for_a_while() -> None:
    units = [f"source {n:02}" for n in range(60)]
    rows = held(dict.fromkeys(units, A))
    both = [replica(A, units), replica(B, units)]
    planned = plan(both, units, rows)
    moves = Moves()
    assert not moves.due(both, planned, rows, (), 0.0)
    assert not moves.due(both, planned, rows, (), SETTLED - 0.01)
    first = moves.due(both, planned, rows, (), SETTLED)
    assert set(first.values()) == {B}
    assert len(first) == 3
    assert not moves.due(both, planned, rows, (), SETTLED + MOVE_EVERY - 0.01)
    second = moves.due(both, planned, rows, (), SETTLED + MOVE_EVERY)
    assert len(second) == 3
    third = [*both, replica(C, units)]
    assert not moves.due(third, planned, rows, (), SETTLED + 2 * MOVE_EVERY)


def test_the_keeper_waits_for_what_it_is_moving_and_spares_what_is_busy() -> None:
    units = [f"source {n}" for n in range(4)]
    both = [replica(A, units), replica(B, units)]
    rows = held(dict.fromkeys(units, A))
    planned = plan(both, units, rows)
    elsewhere = {unit for unit, by in planned.items() if by == B}
    moves = Moves()
    moves.due(both, planned, rows, (), 0.0)
    assert not moves.due(both, planned, rows, elsewhere, 100.0)
    one = moves.due(both, planned, rows, (), 200.0)
    assert len(one) == 1
    moving = [
        LeaseRow(unit=row.unit, holder=A, token=row.token, wanted_by=one.get(row.unit))
        for row in rows
    ]
    assert not moves.due(both, plan(both, units, moving), moving, (), 300.0)


@pytest.mark.parametrize("draining", [False, True])
def test_the_keeper_moves_nothing_from_a_command_or_one_that_drains(draining: bool) -> None:
    rows = held({"source 1": A})
    replicas = [
        replica(A, ["source 1"], draining=draining, command=not draining),
        replica(B, ["source 1"]),
    ]
    moves = Moves()
    planned = plan(replicas, ["source 1"], rows)
    assert planned == {"source 1": B}
    moves.due(replicas, planned, rows, (), 0.0)
    assert not moves.due(replicas, planned, rows, (), 100.0)


def test_beats_leave_room_for_one_to_fail() -> None:
    assert 2 * BEAT < SELF < LIFE
