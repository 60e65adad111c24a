"""Replicas in one process, on rows in memory and on one clock: who works when, and who does not."""

import asyncio
from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import combinations
from typing import Any
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs
from tests.service.rows import FakeInstance, FakeMembership, Rows, overlap
from tests.support.clock import FakeClock

from auditrelay.errors import ConfigError, Fenced, StoreFull
from auditrelay.service.member import REST, Member
from auditrelay.service.membership import FREE, PULSE, SELF, SETTLED, Loss
from auditrelay.store.leases import KEEPER, Lease
from auditrelay.store.replicas import LIFE, Card, Served, Waiting
from auditrelay.telemetry.metrics import TAKEOVERS, Metrics

SOURCES = [f"source {n}" for n in range(4)]
UNITS = [*SOURCES, "sink x", "sink y", KEEPER]


def card(units: list[str] = UNITS, *, command: bool = False, seat: str | None = None) -> Card:
    serves = {unit: Served("") for unit in units}
    return Card(name="r", version="1", serves=serves, command=command, seat=seat)


class Played:
    """A replica of the test, whose turns the test takes."""

    def __init__(self, rows: Rows, clock: FakeClock, tasks: asyncio.TaskGroup, of: Card) -> None:
        self.rows = rows
        self.membership = FakeMembership(rows)
        self.instance = FakeInstance()
        self.metrics = Metrics(shared=True)
        self.member = Member(self.membership, self.instance, of, clock=clock, metrics=self.metrics)
        self.member.begin(tasks)
        self.frozen = False

    @property
    def id(self) -> UUID:
        assert self.member.me is not None
        return self.member.me

    def count(self, name: str, **labels: str) -> float:
        text = self.metrics.render()[0].decode()
        shown = ",".join(f'{key}="{value}"' for key, value in labels.items())
        series = f"auditrelay_{name}_total{{{shown}}} " if labels else f"auditrelay_{name}_total "
        (line,) = (line for line in text.splitlines() if line.startswith(series))
        return float(line.rpartition(" ")[2])

    @property
    def running(self) -> set[str]:
        return set(self.instance.running)

    def has_drained(self) -> bool:
        return self.member._drained

    async def turn(self) -> None:
        if self.frozen:
            return
        registered = self.member._registering.is_done
        await self.member.turn()
        await settle()
        if self.member._registering.is_done is not registered:  # it is in a hurry then
            await self.member.turn()
            await settle()


async def settle() -> None:
    """Let tasks do what they can without anything else happening."""
    for _ in range(20):
        await asyncio.sleep(0)


class Fleet:
    """Replicas on the same rows."""

    def __init__(self, clock: FakeClock, tasks: asyncio.TaskGroup) -> None:
        self.clock = clock
        self.rows = Rows(clock)
        self.replicas: list[Played] = []
        self._tasks = tasks

    async def add(self, of: Card | None = None) -> Played:
        new = Played(self.rows, self.clock, self._tasks, of or card())
        self.replicas.append(new)
        await new.turn()
        return new

    async def pass_(self, seconds: float) -> None:
        """Let so much time pass, with a turn of every replica each second."""
        for _ in range(round(seconds / PULSE)):
            self.clock.advance(PULSE)
            for each in self.replicas:
                await each.turn()
            self.check()

    def check(self) -> None:
        """No unit runs twice among those that may send."""
        good = [each for each in self.replicas if each.member.good()]
        running = [unit for each in good for unit in each.running]
        assert len(running) == len(set(running)), running
        assert not any(overlap(a, b) for a, b in combinations(running, 2)), running


@asynccontextmanager
async def _fleet(clock: FakeClock) -> AsyncIterator[Fleet]:
    async with asyncio.TaskGroup() as tasks:
        yield Fleet(clock, tasks)


@pytest.fixture
async def fleet(clock: FakeClock) -> AsyncIterator[Fleet]:
    async with _fleet(clock) as made:
        yield made


async def test_the_first_replica_takes_everything_at_once(fleet: Fleet) -> None:
    one = await fleet.add()
    assert one.running == set(UNITS)
    assert not one.member.joined.is_set()  # they are being built
    await one.turn()
    assert one.member.joined.is_set()
    assert one.member.good()


async def test_a_second_one_gets_its_share_little_by_little(fleet: Fleet) -> None:
    one = await fleet.add()
    two = await fleet.add()
    await fleet.pass_(SETTLED - 1)
    assert two.running == set()
    assert two.member.joined.is_set()
    await fleet.pass_(30)
    for each in (one, two):
        assert len(each.running & set(SOURCES)) == 2
        assert len([unit for unit in each.running if unit.startswith("sink")]) == 1
    assert {why for _, why in one.instance.lost} == {Loss.MOVED}
    before = one.running
    await fleet.pass_(60)
    assert one.running == before


async def test_replicas_that_start_together_share_without_moving(fleet: Fleet) -> None:
    two = [Played(fleet.rows, fleet.clock, fleet._tasks, card()) for _ in range(2)]
    fleet.replicas += two
    for each in two:
        await each.member._join()
    await fleet.pass_(3)
    assert [len(each.running & set(SOURCES)) for each in two] == [2, 2]
    assert not [each for one in two for each in one.instance.lost]


async def test_what_a_killed_replica_held_runs_elsewhere_within_13_seconds(fleet: Fleet) -> None:
    one, two = await fleet.add(), await fleet.add()
    held = one.running
    one.frozen = True
    await fleet.pass_(LIFE - 1)
    assert two.running == set()
    await fleet.pass_(3)
    assert two.running == held
    assert two.membership.ended == [{one.id}]


async def test_a_frozen_replica_stops_sending_before_another_takes_over(fleet: Fleet) -> None:
    one, two = await fleet.add(), await fleet.add()
    one.frozen = True
    for _ in range(13):
        await fleet.pass_(1)  # which checks that nothing runs twice
    assert not one.member.good()
    assert two.running == set(UNITS)
    one.frozen = False
    await one.turn()
    assert one.running == set()
    assert set(one.instance.lost) == {(unit, Loss.FENCED) for unit in UNITS}
    assert one.id == one.instance.ids[-1]  # it is still that replica


async def test_by_its_own_clock_a_replica_without_database_sends_nothing_after_7_seconds(
    fleet: Fleet,
) -> None:
    one = await fleet.add()
    one.membership.partitioned = True
    await fleet.pass_(SELF - 1)
    assert one.member.good()
    await fleet.pass_(1)
    assert not one.member.good()
    assert one.running == set(UNITS)  # it is still its own, as far as it knows


async def test_after_an_outage_of_the_database_no_replica_is_robbed(fleet: Fleet) -> None:
    one, two = await fleet.add(), await fleet.add()
    await fleet.pass_(60)
    before = fleet.rows.leases.copy()
    fleet.rows.reachable = False
    await fleet.pass_(3 * LIFE)
    fleet.rows.reachable = True
    fleet.replicas.reverse()
    await fleet.pass_(60)
    assert fleet.rows.leases == before
    assert one.member.good()
    assert two.member.good()


async def test_a_database_with_another_clock_after_a_failover_changes_nothing(fleet: Fleet) -> None:
    one = await fleet.add()
    await fleet.add()
    await fleet.pass_(60)
    before = fleet.rows.leases.copy()
    for hours in (1, -1, 5):
        fleet.rows.ahead = timedelta(hours=hours)
        await fleet.pass_(30)
        assert fleet.rows.leases == before
        assert one.member.reach.offset == timedelta(hours=hours)


async def test_a_frozen_replica_that_holds_the_lock_of_all_writes_delays_no_pulse(
    fleet: Fleet,
) -> None:
    one, two = await fleet.add(), await fleet.add()
    fleet.rows.locked_by, one.frozen = one.id, True
    three = await fleet.add(card([*UNITS, "source new"]))  # it wants to take this one, and waits
    beats = three.membership.beats
    await fleet.pass_(13)
    assert three.membership.beats >= beats + 3
    assert two.running | three.running == {*UNITS, "source new"}


async def test_who_starts_on_the_seat_of_a_killed_one_goes_on_at_once(fleet: Fleet) -> None:
    one = await fleet.add(card(seat="boot:1:2"))
    one.frozen = True
    again = await fleet.add(card(seat="boot:1:2"))
    assert again.running == set(UNITS)


async def test_a_lease_whose_token_changed_is_dropped_and_nothing_else(fleet: Fleet) -> None:
    one = await fleet.add()
    fleet.rows.change("source 1", token=uuid4(), holder=uuid4())
    other = Played(fleet.rows, fleet.clock, fleet._tasks, card([]))
    await other.turn()
    fleet.rows.change("source 1", holder=other.id)
    await one.turn()
    assert one.running == set(UNITS) - {"source 1"}
    assert one.instance.lost == [("source 1", Loss.FENCED)]


async def test_the_answer_to_a_take_that_was_lost_leads_to_a_new_token(fleet: Fleet) -> None:
    fleet.rows.lost_answers = 2  # the keeper is taken apart from the others
    one = await fleet.add()
    assert one.running == {KEEPER}, "the next pulse has seen that it is ours"
    tokens = {row.unit: row.token for row in fleet.rows.leases.values()}
    assert fleet.rows.held_by(one.id) == set(UNITS)
    await one.turn()
    assert one.running == set(UNITS)
    for unit in set(UNITS) - {KEEPER}:
        token = one.instance.running[unit].token
        assert token == fleet.rows.leases[unit].token != tokens[unit]


async def test_a_token_that_changed_while_the_lease_is_ours_ends_what_ran_and_begins_again(
    fleet: Fleet,
) -> None:
    one = await fleet.add()
    fleet.rows.change("sink x", token=uuid4())
    await one.turn()
    assert one.instance.lost == [("sink x", Loss.FENCED)]
    await one.turn()
    assert one.instance.running["sink x"].token == fleet.rows.leases["sink x"].token


async def test_when_the_database_lost_what_we_wrote_everything_is_dropped(fleet: Fleet) -> None:
    one = await fleet.add()
    before = one.id
    fleet.rows.writes[before] = one.instance.known_writes = 5
    await one.turn()
    assert one.instance.lost == []
    fleet.rows.writes[before] = 4
    await one.turn()  # it finds out
    await one.turn()  # and joins again
    assert set(one.instance.lost) == {(unit, Loss.ROLLED_BACK) for unit in UNITS}
    assert one.id != before
    assert before not in fleet.rows.replicas
    await one.turn()
    assert one.running == set(UNITS)


async def test_a_write_that_is_committed_while_a_pulse_is_under_way_is_not_lost(
    fleet: Fleet,
) -> None:
    one = await fleet.add()
    before, pulse = one.id, one.membership.pulse

    async def slow(**options: object) -> object:
        seen = await pulse(**options)  # type: ignore[arg-type]  # as they come
        one.instance.known_writes += 1
        fleet.rows.writes[one.id] += 1
        return seen

    one.membership.pulse = slow  # type: ignore[assignment,method-assign]  # the same
    for _ in range(3):
        await one.turn()
    assert one.instance.lost == []
    assert one.id == before


async def test_a_pulse_that_fails_now_and_then_is_no_witness(fleet: Fleet) -> None:
    one, two = await fleet.add(), await fleet.add()
    one.frozen = True
    for _ in range(4):
        await fleet.pass_(5)
        two.membership.partitioned = True
        await fleet.pass_(1)
        two.membership.partitioned = False
    assert two.running == set()
    await fleet.pass_(LIFE + 3)
    assert two.running == set(UNITS)


async def test_what_a_take_has_got_whose_answer_is_on_its_way_is_not_keyed_again(
    fleet: Fleet,
) -> None:
    one = Played(fleet.rows, fleet.clock, fleet._tasks, card(["sink x"]))
    take, answered = one.membership.take, asyncio.Event()

    async def slow(*arguments: object) -> list[Lease]:
        leases = await take(*arguments)  # type: ignore[arg-type]  # as they come
        await answered.wait()
        return leases

    one.membership.take = slow  # type: ignore[assignment,method-assign]  # the same
    await one.turn()
    token = fleet.rows.leases["sink x"].token
    await one.turn()
    answered.set()
    await one.turn()
    assert fleet.rows.leases["sink x"].token == token
    assert one.instance.running["sink x"].token == token


async def test_what_a_take_got_for_the_replica_that_we_were_is_not_ours(fleet: Fleet) -> None:
    one = Played(fleet.rows, fleet.clock, fleet._tasks, card(["sink x"]))
    take, answered = one.membership.take, asyncio.Event()

    async def slow(*arguments: object) -> list[Lease]:
        leases = await take(*arguments)  # type: ignore[arg-type]  # as they come
        await answered.wait()
        return leases

    one.membership.take = slow  # type: ignore[assignment,method-assign]  # the same
    await one.turn()
    old = fleet.rows.leases["sink x"].token
    one.member.rejoin(Loss.ROLLED_BACK)
    await one.turn()
    answered.set()
    for _ in range(3):
        await one.turn()
    assert one.instance.running["sink x"].token == fleet.rows.leases["sink x"].token != old
    assert one.instance.lost == []


async def test_what_cannot_end_in_good_order_is_given_all_the_same(fleet: Fleet) -> None:
    one = await fleet.add(card(["sink x"]))
    one.instance.unruly = StoreFull("no room")
    one.member.drain()
    await one.turn()
    assert one.instance.lost == [("sink x", Loss.FENCED)]
    assert fleet.rows.holder("sink x") is None


async def test_a_replica_whose_count_of_writes_is_gone_joins_as_another(fleet: Fleet) -> None:
    one = await fleet.add()
    before = one.id
    del fleet.rows.writes[before]
    for _ in range(3):
        await one.turn()
    assert one.id != before
    assert one.running == set(UNITS)


async def test_a_replica_that_was_tidied_away_joins_as_another(fleet: Fleet) -> None:
    one = await fleet.add()
    before = one.id
    fleet.rows.remove(before)
    await one.turn()
    await one.turn()
    assert one.id != before
    assert set(one.instance.lost) == {(unit, Loss.FENCED) for unit in UNITS}
    await one.turn()
    assert one.running == set(UNITS)


async def test_the_keeper_counts_old_versions_of_rows_each_minute(
    fleet: Fleet, clock: FakeClock
) -> None:
    one, two = await fleet.add(), await fleet.add()
    fleet.rows.old_rows = 7
    assert (one.member.old_rows, two.member.old_rows) == (0, 0)
    for rows, counted in ((7, 7), (None, 0)):
        fleet.rows.old_rows = rows
        for _ in range(61):
            clock.advance(1)
            for each in (one, two):
                await each.turn()
        holder, other = (one, two) if fleet.rows.holder(KEEPER) == one.id else (two, one)
        assert (holder.member.old_rows, other.member.old_rows) == (counted, 0)


async def test_a_replica_that_drains_gives_everything_and_leaves(
    fleet: Fleet, clock: FakeClock
) -> None:
    two = await fleet.add()
    one = await fleet.add(card(["source only"]))
    assert one.running == {"source only"}
    one.instance.slow = asyncio.Event()
    one.member.drain()
    await one.turn()
    assert fleet.rows.replicas[one.id].draining
    assert fleet.rows.holder("source only") == one.id  # it still lands what is in flight
    assert not one.has_drained()
    one.instance.slow.set()
    await settle()
    assert fleet.rows.holder("source only") is None
    assert one.instance.lost == [("source only", Loss.DRAINED)]
    assert one.has_drained()
    await one.turn()
    assert one.running == set()  # it takes nothing again
    assert two.running == set(UNITS)


async def test_the_loop_ends_once_everything_was_given_away(clock: FakeClock) -> None:
    rows = Rows(clock)
    membership, instance = FakeMembership(rows), FakeInstance()
    member = Member(membership, instance, card(), clock=clock)

    async def drain() -> None:
        await member.joined.wait()
        member.drain()

    async with asyncio.timeout(10):
        await asyncio.gather(member.keep_pulsing(), drain())
    assert rows.replicas == {}
    assert not any(row.holder for row in rows.leases.values())
    assert not member.good()


async def test_without_a_database_a_drain_ends_all_the_same(clock: FakeClock) -> None:
    rows = Rows(clock)
    member = Member(FakeMembership(rows), instance := FakeInstance(), card(), clock=clock)

    async def drain() -> None:
        await member.joined.wait()
        rows.reachable = False
        member.drain()

    async with asyncio.timeout(10):
        await asyncio.gather(member.keep_pulsing(), drain())
    assert instance.running == {}


async def test_a_unit_that_is_lost_while_it_lands_its_requests_is_ended_at_once(
    fleet: Fleet,
) -> None:
    one = await fleet.add()
    one.instance.slow = asyncio.Event()
    one.member.drain()
    await one.turn()
    assert one.instance.lost == []
    fleet.rows.change("sink x", token=uuid4(), holder=uuid4())
    await one.turn()
    assert one.instance.lost == [("sink x", Loss.FENCED)]
    one.instance.slow.set()
    await settle()


async def test_a_unit_that_is_lost_while_it_is_built_is_ended(fleet: Fleet) -> None:
    new = Played(fleet.rows, fleet.clock, fleet._tasks, card(["sink x"]))
    new.instance.slow = asyncio.Event()
    await new.turn()
    assert not new.member.joined.is_set()
    fleet.rows.change("sink x", token=uuid4())
    await new.turn()
    assert new.instance.lost == [("sink x", Loss.FENCED)]
    assert new.running == set()
    new.instance.slow.set()
    await new.turn()
    await new.turn()
    assert new.instance.running["sink x"].token == fleet.rows.leases["sink x"].token


async def test_what_is_not_served_any_more_is_given_away_and_what_is_new_is_taken(
    fleet: Fleet,
) -> None:
    one = await fleet.add(card(["source 1", "source 2"]))
    one.member.serve(card(["source 2", "source 3"]).serves)
    await one.turn()
    await one.turn()
    assert one.running == {"source 2", "source 3"}
    assert one.instance.lost == [("source 1", Loss.MOVED)]
    assert fleet.rows.holder("source 1") is None


async def test_a_command_takes_all_that_it_serves_and_the_plan_leaves_it_there(
    fleet: Fleet,
) -> None:
    command = await fleet.add(card(["source 1", "sink x"], command=True))
    assert command.running == {"source 1", "sink x"}
    other = await fleet.add()
    await fleet.pass_(60)
    assert command.running == {"source 1", "sink x"}
    assert other.running == set(UNITS) - command.running


async def test_what_its_planned_holder_does_not_take_another_takes(fleet: Fleet) -> None:
    """There are four sources for two replicas, of which one beats and takes nothing."""
    idle = Played(fleet.rows, fleet.clock, fleet._tasks, card(SOURCES))

    async def take(*_: object) -> list[Lease]:
        return []

    idle.membership.take = take  # type: ignore[assignment,method-assign]  # it is the point
    fleet.replicas.append(idle)
    await idle.turn()
    one = await fleet.add(card(SOURCES))
    await fleet.pass_(FREE - 1)
    assert len(one.running) == 2
    await fleet.pass_(2)
    assert one.running == set(SOURCES)


async def test_what_cannot_begin_here_is_left_to_others_for_a_minute(fleet: Fleet) -> None:
    one = Played(fleet.rows, fleet.clock, fleet._tasks, card(["sink x"]))
    one.instance.failing = ConfigError("no such thing")
    fleet.replicas.append(one)
    await one.turn()
    assert fleet.rows.holder("sink x") == one.id
    await fleet.pass_(1)
    assert fleet.rows.holder("sink x") is None
    two = await fleet.add(card(["sink x"]))
    await fleet.pass_(FREE + 1)
    assert two.running == {"sink x"}
    two.member.drain()
    one.instance.failing = None
    await fleet.pass_(REST - 10)
    assert fleet.rows.holder("sink x") is None
    await fleet.pass_(10)
    assert one.running == {"sink x"}


async def test_a_lease_that_the_store_refuses_and_the_rows_show_as_ours_is_given_up(
    fleet: Fleet,
) -> None:
    """The store knows better: what it refuses is the replica, which joins as another one."""
    one = await fleet.add()
    before = one.id
    one.member.refused("sink x")
    await one.turn()
    await one.turn()
    await one.turn()
    assert one.id != before
    assert one.running == set(UNITS)


async def test_a_lease_that_the_store_refuses_because_it_was_taken_is_all_that_is_lost(
    fleet: Fleet,
) -> None:
    one = await fleet.add()
    before = one.id
    other = Played(fleet.rows, fleet.clock, fleet._tasks, card([]))
    await other.turn()
    fleet.rows.change("sink x", token=uuid4(), holder=other.id)
    one.instance.running.pop("sink x")
    one.member.refused("sink x")
    for _ in range(3):
        await one.turn()
    assert one.id == before
    assert one.instance.lost == [("sink x", Loss.FENCED)]


async def test_what_is_refused_while_it_begins_is_lost(fleet: Fleet) -> None:
    one = Played(fleet.rows, fleet.clock, fleet._tasks, card(["sink x"]))
    one.instance.failing = Fenced("sink x")
    await one.turn()
    first = one.id
    one.instance.failing = None
    for _ in range(3):
        await one.turn()
    assert one.id != first
    assert one.running == {"sink x"}


async def test_sinks_are_woken_when_the_spool_has_grown(fleet: Fleet) -> None:
    one = await fleet.add()
    woken = one.instance.woken
    await fleet.pass_(3)
    assert one.instance.woken == woken
    fleet.rows.end += 1
    await one.turn()
    await one.turn()
    assert one.instance.woken == woken + 1


async def test_a_unit_that_works_for_a_command_is_not_moved(fleet: Fleet) -> None:
    one = await fleet.add()
    fleet.rows.requests = [Waiting(n, unit, "x", one.id) for n, unit in enumerate(UNITS)]
    two = await fleet.add()
    await fleet.pass_(60)
    assert two.running == set()
    assert one.instance.offered == tuple(fleet.rows.requests)
    fleet.rows.requests = []
    await fleet.pass_(60)
    assert two.running


async def test_beats_are_three_seconds_apart_and_pulses_one(fleet: Fleet) -> None:
    one = await fleet.add()
    beats = one.membership.beats
    await fleet.pass_(30)
    assert one.membership.beats == beats + 10


# --- what is counted and logged -------------------------------------------------------------------


def taken(logs: Sequence[MutableMapping[str, Any]]) -> set[tuple[str, str, str | None]]:
    """Return of each unit that was taken why that was, and from whom."""
    return {
        (line["unit"], line["reason"], line["former"])
        for line in logs
        if line["event"] == "unit_taken"
    }


def named(name: str, *, seat: str | None = None) -> Card:
    return replace(card(seat=seat), name=name)


async def test_why_and_from_whom_a_unit_was_taken(fleet: Fleet) -> None:
    with capture_logs() as logs:
        one = await fleet.add(named("one"))
    assert taken(logs) == {(unit, "free", None) for unit in UNITS}
    with capture_logs() as logs:
        two = await fleet.add(named("two"))
        await fleet.pass_(SETTLED + 30)
    moved = two.running
    assert taken(logs) == {(unit, "moved", "one") for unit in moved}
    one.frozen = True
    with capture_logs() as logs:
        await fleet.pass_(13)
    assert taken(logs) == {(unit, "dead", "one") for unit in set(UNITS) - moved}
    assert [one.count("takeovers", reason=reason) for reason in TAKEOVERS] == [len(UNITS), 0, 0]
    assert [two.count("takeovers", reason=reason) for reason in TAKEOVERS] == [
        0,
        len(UNITS) - len(moved),
        len(moved),
    ]


async def test_what_was_given_up_is_free_and_came_from_who_gave_it(fleet: Fleet) -> None:
    one, two = await fleet.add(named("one")), await fleet.add(named("two"))
    one.member.drain()
    with capture_logs() as logs:
        await fleet.pass_(10)
    assert taken(logs) == {(unit, "free", "one") for unit in UNITS}
    assert two.running == set(UNITS)


async def test_who_starts_on_the_seat_of_a_killed_one_takes_what_that_had(fleet: Fleet) -> None:
    one = await fleet.add(named("one", seat="boot:1:2"))
    one.frozen = True
    again = await fleet.add(named("one", seat="boot:1:2"))
    assert again.count("takeovers", reason="dead") == len(UNITS)


async def test_each_lease_that_was_lost_to_another_is_counted(fleet: Fleet) -> None:
    one, two = await fleet.add(), await fleet.add()
    one.frozen = True
    await fleet.pass_(13)
    one.frozen = False
    await one.turn()
    assert one.count("fenced") == len(UNITS)
    assert (two.count("fenced"), one.count("store_rolled_back")) == (0, 0)


async def test_a_database_that_lost_what_it_had_acknowledged_is_counted(fleet: Fleet) -> None:
    one = await fleet.add()
    one.instance.known_writes = 5
    fleet.rows.writes[one.id] = 4
    await one.turn()
    await one.turn()
    assert (one.count("store_rolled_back"), one.count("fenced")) == (1, 0)


async def test_what_could_not_begin_is_shown_with_the_reason(fleet: Fleet) -> None:
    one = await fleet.add(card([]))
    one.instance.failing = ConfigError("there is no such file")
    one.member.serve({"sink x": Served("")})
    await fleet.pass_(3)
    assert one.member.resting == {"sink x": "there is no such file"}
