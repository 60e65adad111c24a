"""
Every shipped description works: ten misbehaviours of its vendor, and what must come of each.

The double is made of the same file, so this shows that the engine copes with it, not that it is
true; for that it has its sources, its examples, and the probes of `auditrelay check`.
"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from tests.contract.described.conftest import DescribedRig, reading
from tests.support.clock import FakeClock
from tests.support.extent import extent

from auditrelay.descriptions import FOLDER, PAGES, shipped
from auditrelay.descriptions.load import named
from auditrelay.errors import Refused, Retryable, WalkBroken
from auditrelay.events.forms import FORMS
from auditrelay.sandbox import faults
from auditrelay.sandbox.stored import Stored, first_at

FEEDS = [(name, feed) for name in shipped() for feed in named(name).feeds or (None,)]
HOUR = timedelta(hours=1)
TURNS = ("repeats", "endless")


@pytest.fixture(params=FEEDS, ids=[f"{name}:{feed}" if feed else name for name, feed in FEEDS])
async def rig(request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[DescribedRig]:
    """A rig of each feed of each shipped description."""
    name, feed = request.param
    page = PAGES / (f"{name}.{feed}.json" if feed else f"{name}.json")
    async with reading(clock, FOLDER / f"{name}.toml", feed, page) as made:
        yield made


async def test_every_record_is_an_event_with_all_that_it_must_say(rig: DescribedRig) -> None:
    rig.fill(13)
    events = await rig.events()
    assert len({event.uid for event in events}) >= 13
    assert {event.time_quality for event in events} == {"source"}
    assert not {warning for event in events for warning in event.warnings} - {"no_id"}
    for event in events:
        assert all(form(event) for form in FORMS.values())
    assert await rig.shown() == rig.made()


async def test_a_siem_knows_each_event_by_what_the_double_says(rig: DescribedRig) -> None:
    """By this the demo counts what is lost and what is repeated."""
    rig.fill(13)
    assert rig.feed is not None
    events = await rig.events()
    known = sorted(rig.double.known_ids())
    assert len(known) >= 13
    for form, native in (
        ("cim", "native_event_id"),
        ("datadog", f"vendor.{rig.feed.vendor}.id"),
        ("ecs", "event.id"),
    ):
        stored = Stored()
        stored.marked = True
        for event in events:
            document = orjson.loads(orjson.dumps(FORMS[form](event)))
            stored.add(document, event.uid, first_at(document, [native]))
        assert sorted(stored.by_native_id.elements()) == known, form


async def test_pages_may_be_as_large_as_auditrelay_asks_for_by_default(rig: DescribedRig) -> None:
    rig.fill(3)
    assert await rig.shown(rig.build(page_size=None)) == rig.made()


async def test_records_on_the_bounds_are_shown_whether_they_are_included_or_not(
    rig: DescribedRig,
) -> None:
    for at in (rig.window.start, rig.window.end - timedelta(microseconds=1)):
        rig.double.add(at)
    for inclusive in (True, False):
        rig.double.switches.lower_inclusive = rig.double.switches.upper_inclusive = inclusive
        assert await rig.shown() == rig.made()


async def test_a_late_row_is_shown_by_the_next_walk(rig: DescribedRig) -> None:
    rig.fill(3)
    now = rig.clock.seconds()
    late = datetime.fromtimestamp(now - 3 * 3600, UTC)  # it was recorded within the window, too
    rig.double.add(rig.window.start + HOUR, visible_from=late)
    assert await rig.shown() == rig.made()
    assert len(rig.made()) == 4


@pytest.mark.parametrize(
    ("rig", "turns"),
    [
        pytest.param(feed, turns, id=f"{':'.join(filter(None, feed))}-{turns}")
        for number, feed in enumerate(FEEDS)
        for turns in extent(TURNS[number % 2 :][:1], TURNS)
    ],
    indirect=["rig"],
)
async def test_pages_that_lead_nowhere_end(rig: DescribedRig, turns: str) -> None:
    rig.fill(13)
    rig.double.switches.turns = turns  # type: ignore[assignment]  # one of them
    error = await rig.whole_or_error()
    assert error is None or isinstance(error, WalkBroken | Retryable)
    assert rig.double.requests < 150
    rig.double.switches.turns = "right"
    assert await rig.shown() == rig.made()


async def test_too_many_requests_are_waited_for(rig: DescribedRig) -> None:
    rig.fill(9)
    source = rig.build()
    rig.double.switches.rate = 6
    rig.double.switches.throttle = "first"
    rig.double.switches.retry_after = "reset header"
    shown = []
    for _ in range(6):
        try:
            shown.append(await rig.shown(source))
        except Retryable:
            rig.clock.advance(61)
    assert shown == [rig.made()] * len(shown)
    assert len(shown) > 2
    assert max(rig.clock.waits, default=0) < 200, "no wait of years"


async def test_a_refusal_holds_the_source_and_says_what_to_do(rig: DescribedRig) -> None:
    rig.fill(3)
    rig.double.switches.refuse = 403
    with pytest.raises(Refused) as caught:
        await rig.shown()
    assert caught.value.status == 403
    assert "; " in str(caught.value), "what the operator should do"


async def test_wrong_credentials_are_refused_and_shown_nowhere(rig: DescribedRig) -> None:
    rig.fill(3)
    auth = rig.double.description.auth
    wrong = {
        name: "wrong-secret-of-another"
        for name in rig.double.description.secrets
        if name != auth.get("key")  # which would not be a key at all
    }
    if not wrong:
        assert rig.double.identity.server is not None
        rig.double.identity.server.client.claims["sub"] = "another@else.example"
    with pytest.raises(Refused) as caught:
        await rig.shown(rig.build(**wrong))
    assert caught.value.status in (400, 401)
    assert "wrong-secret" not in str(caught.value)


async def test_a_token_that_ends_in_mid_walk_is_renewed(rig: DescribedRig) -> None:
    server = rig.double.identity.server
    if server is None:
        pytest.skip("it needs no token")
    rig.fill(13)
    rig.double.before_page[2] = server.revoke
    source = rig.build()
    assert await rig.shown(source) == rig.made()
    server.revoke()
    assert await rig.shown(source) == rig.made()


async def test_no_record_is_lost_to_transient_failures(rig: DescribedRig) -> None:
    rig.fill(13)
    for number, action in enumerate((faults.html(200), faults.reset(), faults.html(503)), 1):
        rig.double.faults.add(action, nth=2 * number)
    assert await rig.shown() == rig.made()


async def test_finely_everything_is_shown_as_well(rig: DescribedRig) -> None:
    rig.fill(5)
    pages = [page async for page in rig.build().walk(rig.window, finely=True)]
    assert {record for page in pages for record in page.records} >= set(rig.made())
    assert pages[-1].last
