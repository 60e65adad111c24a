"""What is true of the parts without a server, for anything that may be given to them."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from urllib.parse import urlsplit

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from tests.support.scripted import feed

from auditrelay.descriptions.model import Order
from auditrelay.errors import ConfigError, Refused
from auditrelay.sources.described.addresses import OurAddresses, checked
from auditrelay.sources.described.bodies import Bodies
from auditrelay.sources.described.sieve import Sieve
from auditrelay.sources.described.source import spans_of
from auditrelay.window import Interval, micros, moment

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
OURS = OurAddresses(
    ("https://gw.example:8443/acme", "https://api.acme.example"), ("/v1/events", "/v1/more")
)

PIECES = st.lists(
    st.sampled_from(
        [
            "https:",
            "http:",
            "//",
            "/",
            "\\",
            "api.acme.example",
            "gw.example:8443",
            "evil.example",
            "@",
            ":443",
            "/acme",
            "/v1/events",
            "/v1/more",
            "..",
            "%2e%2e",
            "?c=1",
            "#",
            ";",
            " ",
            "\t",
        ]
    ),
    max_size=8,
).map("".join)


@given(PIECES | st.text(max_size=60))
@example("https://api.acme.example/v1/events?c=1")
@example("https://api.acme.example\\@evil.example/v1/events")
@example("https://api.acme.example#@evil.example/v1/events")
@example("https:///v1/events")
@example("////evil.example/v1/events")
def test_any_address_leads_to_a_page_of_ours_or_nowhere(address: str) -> None:
    try:
        found = OURS.next(checked(address), "/v1/events")
    except (Refused, ValueError):
        return
    assert found.path in ("/v1/events", "/v1/more")
    whole = urlsplit(f"https://gw.example:8443/acme{found.path}?{found.query}")
    assert (whole.hostname, whole.port) == ("gw.example", 8443)
    assert "://" not in found.path


TIMES = st.lists(st.none() | st.integers(-50, 50), max_size=40)


def interval(start: int, end: int) -> Interval:
    return Interval(NOON + timedelta(seconds=start), NOON + timedelta(seconds=end))


def pages(times: list[int | None], size: int) -> list[list[int | None]]:
    at = [None if each is None else micros(NOON) + each * 10**6 for each in times]
    return [at[start : start + size] for start in range(0, len(at), size)]


@given(TIMES, st.integers(1, 7), st.sampled_from(["newest_first", "oldest_first"]), st.booleans())
def test_of_a_list_in_order_a_sieve_shows_all_that_is_inside(
    times: list[int | None],
    size: int,
    order: Order,
    at_once: bool,  # hypothesis gives it
) -> None:
    known = sorted((each for each in times if each is not None), reverse=order == "newest_first")
    sieve = Sieve(interval(-10, 10), order, filters=True, at_once=at_once)
    shown = 0
    for page in pages(list(known), size):
        records, is_over = sieve.sift([b"{}"] * len(page), page)
        shown += len(records)
        if is_over:
            break
    assert shown == sum(-10 <= each < 10 for each in known)


@given(TIMES, st.integers(1, 7), st.sampled_from(["newest_first", "oldest_first", "none"]))
def test_of_any_list_a_page_that_has_something_inside_is_never_the_end_after_disorder(
    times: list[int | None], size: int, order: Order
) -> None:
    sieve = Sieve(interval(-10, 10), order, filters=True, at_once=False)
    for page in pages(times, size):
        records, is_over = sieve.sift([b"{}"] * len(page), page)
        inside = [at for at in page if at is None or moment(at) in _Inside(interval(-10, 10))]
        assert len(records) == len(inside)
        if is_over:
            assert all(at is None or moment(at) not in _Inside(interval(-10, 10)) for at in page)


class _Inside:
    def __init__(self, window: Interval) -> None:
        self.window = window

    def __contains__(self, at: datetime) -> bool:
        return self.window.start <= at < self.window.end


DAY = timedelta(days=1)


@given(
    st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001  # hypothesis wants bounds without a zone
    st.timedeltas(timedelta(seconds=2), timedelta(days=30)),
    st.timedeltas(timedelta(days=4), timedelta(days=40)),
    st.sampled_from([timedelta(milliseconds=1), timedelta(seconds=1), DAY]),
)
def test_spans_contain_the_window_and_are_not_too_long(
    start: datetime, length: timedelta, longest: timedelta, granule: timedelta
) -> None:
    assume(length <= longest)
    window = Interval(start, start + length)
    spans = spans_of(window, granule, longest)
    assert spans[0].start < window.start
    assert spans[-1].end >= window.end
    assert all(other.start <= one.end for one, other in pairwise(spans))
    counted = DAY if granule == DAY else timedelta(0)
    assert all(span.length + counted <= longest for span in spans)
    assert len(spans) <= (6 if granule == DAY else 2)
    assert len(spans_of(window, granule, None)) == 1


@pytest.mark.parametrize("at", ["", "events", "data.events"])
def test_a_spot_among_the_records_is_a_mistake_that_is_said(at: str) -> None:
    path = "0.id" if not at else f"{at}.0.id"
    description = feed(records={"at": at}, pages={"from": f"body:{path}"})
    bodies = Bodies(feed(records={"at": at}, pages={"from": "header:x"}))
    spot = description.pages.from_
    assert spot is not None
    with pytest.raises(ConfigError, match=r"pages.from: .* write \"last:PATH\""):
        bodies.spot(spot, "pages.from")
