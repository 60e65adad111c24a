"""Every kind of paging, and every sign of the end."""

import json
from typing import Any

import pytest
from tests.sources.described.conftest import Connect, Serve
from tests.support.scripted import feed, ids, page, pairs

from auditrelay.errors import Refused, Retryable, WalkBroken
from auditrelay.sandbox.messages import Response, json_response
from auditrelay.window import Interval

URL = {"kind": "url", "from": "body:next", "to": None}

# --- cursors


async def test_a_cursor_is_followed_until_there_is_none(
    serve: Serve, connect: Connect, walk: Any
) -> None:
    vendor = await serve(page([1, 2], next="a b&c=d"), page([3], next=None))
    pages = await walk(connect(vendor))
    assert ids(pages) == ["e1", "e2", "e3"]
    assert [each.last for each in pages] == [False, True]
    assert [query.get("cursor") for query in vendor.queries] == [None, "a b&c=d"]
    assert all(query["limit"] == "100" for query in vendor.queries)
    assert vendor.queries[0]["from"] == vendor.queries[1]["from"] == "2026-02-28T23:59:59.999Z"
    assert vendor.queries[0]["to"] == "2026-03-02T00:00:00.000Z"
    assert vendor.asked[0].headers["authorization"] == "Bearer t0ken"


@pytest.mark.parametrize("none", [None, "", False, 0, []])
async def test_these_say_that_there_is_no_next_page(
    serve: Serve, connect: Connect, walk: Any, none: object
) -> None:
    vendor = await serve(page([1], next=none))
    assert [each.last for each in await walk(connect(vendor))] == [True]


@pytest.mark.parametrize(
    "cursor", [7, 12345678901234567890123, -1, "007", "1.50", "\u00e9\u4e16", "%2C,", "+"]
)
async def test_a_cursor_arrives_as_it_was(
    serve: Serve, connect: Connect, walk: Any, cursor: object
) -> None:
    vendor = await serve(page([1], next=cursor), page([2]))
    assert ids(await walk(connect(vendor))) == ["e1", "e2"]
    assert vendor.queries[1]["cursor"] == str(cursor)


@pytest.mark.parametrize("cursor", [1.5, True, {"a": 1}, [["a"]], [1.5], ["a", None], ["a"] * 101])
async def test_what_is_no_cursor_is_a_bad_reply(
    serve: Serve, connect: Connect, failing: Any, cursor: object
) -> None:
    vendor = await serve(page([1], next=cursor))
    _, error = await failing(connect(vendor))
    assert isinstance(error, Retryable)
    assert error.reason == "bad_reply"
    assert "body:next: it is neither a text, nor a whole number, nor a list of these" in str(error)


async def test_a_list_is_joined_for_the_query(serve: Serve, connect: Connect, walk: Any) -> None:
    vendor = await serve(page([1], next=["1532951895000", 7]), page([2]))
    await walk(connect(vendor, feed(pages={"join": ","})))
    assert vendor.queries[1]["cursor"] == "1532951895000,7"


async def test_a_list_without_a_word_to_join_it_is_a_bad_reply(
    serve: Serve, connect: Connect, failing: Any
) -> None:
    vendor = await serve(page([1], next=["a", "b"]))
    _, error = await failing(connect(vendor))
    assert isinstance(error, Retryable)
    assert error.reason == "bad_reply"
    assert "pages.join" in str(error)


async def test_the_body_of_a_post_gets_the_cursor_as_it_is(
    serve: Serve, connect: Connect, walk: Any
) -> None:
    vendor = await serve(page([1], next=["a", 12345678901234567890123]), page([2]))
    description = feed(
        request={"method": "POST", "body": {"service": ["all"], "page": {"sort": "ASC"}}},
        time={"start": "body:time.from", "end": "body:time.to"},
        pages={"to": "body:page.after", "size": "body:page.size"},
    )
    await walk(connect(vendor, description))
    assert [request.method for request in vendor.asked] == ["POST", "POST"]
    bounds = {"from": "2026-02-28T23:59:59.999Z", "to": "2026-03-02T00:00:00.000Z"}
    first = {"service": ["all"], "page": {"sort": "ASC", "size": 100}, "time": bounds}
    second = {**first, "page": {**first["page"], "after": ["a", 12345678901234567890123]}}  # type: ignore[dict-item]
    assert vendor.bodies == [first, second]
    assert vendor.asked[0].headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ('[1772359500000,"a"]', [1772359500000, "a"]),
        ("[not json", "[not json"),
        ('["a"] and more', '["a"] and more'),
        ("text", "text"),
    ],
)
async def test_a_list_in_a_header_goes_into_a_body_as_a_list(
    serve: Serve, connect: Connect, walk: Any, text: str, sent: object
) -> None:
    first = page([1])
    first.headers["X-Search_after"] = text
    vendor = await serve(first, page([]))
    description = feed(
        request={"method": "POST"},
        pages={"from": "header:x-search_after", "to": "body:search_after", "until_empty": True},
    )
    await walk(connect(vendor, description))
    assert vendor.bodies[1]["search_after"] == sent


async def test_later_pages_may_carry_the_cursor_alone_and_go_elsewhere(
    serve: Serve, connect: Connect, walk: Any
) -> None:
    vendor = await serve(page([1], next="c", more=True), page([2], next="c", more=False))
    description = feed(
        request={"method": "POST", "params": {"v": "2"}, "headers": {"x-version": "3"}},
        time={"start": "body:start", "end": "body:end", "format": "epoch_ms"},
        pages={
            "to": "body:cursor",
            "size": "body:limit",
            "alone": True,
            "more": "body:more",
            "path": "/v1/events/continue",
        },
    )
    assert ids(await walk(connect(vendor, description))) == ["e1", "e2"]
    first, second = vendor.bodies
    assert first == {"start": 1772323199999, "end": 1772409600000, "limit": 100}
    assert second == {"cursor": "c"}
    assert [request.target for request in vendor.asked] == ["/v1/events?v=2", "/v1/events/continue"]
    assert [request.headers["x-version"] for request in vendor.asked] == ["3", "3"]


@pytest.mark.parametrize(
    ("spot", "headers", "more"),
    [
        ("header:x-next", {"X-Next": "c2"}, {}),
        ("last:id", {}, {}),
        ("body:meta.page.after", {}, {"meta": {"page": {"after": "c2"}}}),
        ("body:@odata\\.next", {}, {"@odata.next": "c2"}),
        ("body:cursors.0.value", {}, {"cursors": [{"value": "c2"}]}),
    ],
)
async def test_a_cursor_may_stand_elsewhere(
    serve: Serve, connect: Connect, walk: Any, spot: str, headers: dict[str, str], more: Any
) -> None:
    first = page([1, 2], **more)
    first.headers.update(headers)
    vendor = await serve(first, page([]))
    pages = await walk(connect(vendor, feed(pages={"from": spot, "until_empty": True})))
    assert ids(pages) == ["e1", "e2"]
    assert vendor.queries[1]["cursor"] == ("e2" if spot == "last:id" else "c2")


@pytest.mark.parametrize("spot", ["last:id", "body:next"])
async def test_what_is_no_cursor_on_the_last_page_costs_nothing(
    serve: Serve, connect: Connect, walk: Any, spot: str
) -> None:
    odd = {"events": [{"id": 1.5, "at": "2026-03-01T11:00:00Z"}], "next": 1.5, "more": False}
    vendor = await serve(json_response(200, odd))
    pages = await walk(connect(vendor, feed(pages={"from": spot, "more": "body:more"})))
    assert [(len(each.records), each.last) for each in pages] == [(1, True)]


async def test_the_cursor_of_the_last_record_may_be_in_an_odd_one(
    serve: Serve, connect: Connect, walk: Any
) -> None:
    odd = b'{"events":[{"id":"a"},{"id":"b","x":NaN,"y":"\\ud800"}]}'
    vendor = await serve(Response(200, odd), page([]))
    await walk(connect(vendor, feed(pages={"from": "last:id", "until_empty": True})))
    assert vendor.queries[1]["cursor"] == "b"


@pytest.mark.parametrize(
    ("slot", "cursor"),
    [
        ("query:cursor", "a\r\nX-More: 1"),
        ("query:cursor", "x" * 9000),
        ("header:x-cursor", "a\r\nX-More: 1"),
        ("header:x-cursor", "\u00e9"),
        ("body:cursor", "x" * 9000),
    ],
)
async def test_a_cursor_that_cannot_be_sent_breaks_the_walk(
    serve: Serve, connect: Connect, failing: Any, slot: str, cursor: str
) -> None:
    vendor = await serve(page([1], next=cursor), page([2]))
    post = {"method": "POST"} if slot.startswith("body") else {}
    pages, error = await failing(connect(vendor, feed(request=post, pages={"to": slot})))
    assert ids(pages) == ["e1"]
    assert (type(error), error.reason) == (WalkBroken, "unsendable")
    assert len(vendor.asked) == 1


async def test_a_cursor_that_repeats_breaks_the_walk(
    serve: Serve, connect: Connect, failing: Any
) -> None:
    vendor = await serve(
        page([1], next="a"), page([2], next="b"), page([3], next="a"), page([4], next="b")
    )
    pages, error = await failing(connect(vendor))
    assert ids(pages) == ["e1", "e2", "e3"]
    assert (type(error), error.reason) == (WalkBroken, "cursor_repeats")


async def test_behind_new_records_a_page_that_leads_to_itself_breaks_the_walk(
    serve: Serve, connect: Connect, failing: Any
) -> None:
    vendor = await serve(page([1], next="a"), page([2], next="a"))
    pages, error = await failing(connect(vendor))
    assert ids(pages) == ["e1", "e2"]
    assert error.reason == "cursor_repeats"


@pytest.mark.parametrize("last", [[2], []])
async def test_a_page_that_shows_nothing_new_and_leads_to_itself_is_the_last(
    serve: Serve, connect: Connect, walk: Any, last: list[int]
) -> None:
    vendor = await serve(page([1, 2], next="t2"), page(last, next="t2"))
    pages = await walk(connect(vendor))
    assert [each.last for each in pages] == [False, True]
    assert len(vendor.asked) == 2


async def test_a_whole_page_that_comes_again_is_a_cursor_that_was_ignored(
    serve: Serve, connect: Connect, failing: Any
) -> None:
    vendor = await serve(page([1, 2], next="c"))
    pages, error = await failing(connect(vendor, page_size=2))
    assert error.reason == "cursor_repeats"
    assert not any(each.last for each in pages)


@pytest.mark.parametrize("more", [{}, {"next": "https://files.example.net/"}, {"next": None}])
async def test_an_empty_page_that_cannot_be_left_is_not_the_last(
    serve: Serve, connect: Connect, failing: Any, more: dict[str, Any]
) -> None:
    vendor = await serve(page([], more=True, **more))
    pages, error = await failing(connect(vendor, feed(pages={**URL, "more": "body:more"})))
    assert pages == []
    assert isinstance(error, Refused if more.get("next") else WalkBroken)


async def test_an_empty_page_that_announces_another_one_breaks_the_walk(
    serve: Serve, connect: Connect, failing: Any
) -> None:
    vendor = await serve(page([1], next="a"), page([], next="b"), page([2]))
    _, error = await failing(connect(vendor))
    assert error.reason == "no_progress"
    assert 'pages.empty = "go_on"' in str(error)


async def test_empty_pages_in_the_middle_may_be_declared(
    serve: Serve, connect: Connect, walk: Any
) -> None:
    vendor = await serve(page([1], next="a"), page([], next="b"), page([], next="c"), page([2]))
    pages = await walk(connect(vendor, feed(pages={"empty": "go_on"})))
    assert ids(pages) == ["e1", "e2"]
    assert all(each.records for each in pages)


async def test_at_most_fifty_in_a_row(serve: Serve, connect: Connect, failing: Any) -> None:
    vendor = await serve(lambda request: page([], next=f"c{request.number}"))
    _, error = await failing(connect(vendor, feed(pages={"empty": "go_on"})))
    assert error.reason == "no_progress"
    assert len(vendor.asked) == 51


# --- signs of the end


@pytest.mark.parametrize("no", [False, 0, "false", ""])
async def test_a_flag_is_asked_before_the_cursor(
    serve: Serve, connect: Connect, walk: Any, no: object
) -> None:
    vendor = await serve(page([1], next="a", more=1), page([2], next="a", more=no))
    assert ids(await walk(connect(vendor, feed(pages={"more": "body:more"})))) == ["e1", "e2"]


async def test_a_flag_without_a_cursor_breaks_the_walk_behind_its_records(
    serve: Serve, connect: Connect, failing: Any
) -> None:
    vendor = await serve(page([1], next=None, more=True))
    pages, error = await failing(connect(vendor, feed(pages={"more": "body:more"})))
    assert ids(pages) == ["e1"]
    assert error.reason == "cursor_missing"


async def test_without_its_flag_a_page_breaks_the_walk(
    serve: Serve, connect: Connect, failing: Any
) -> None:
    vendor = await serve(page([1], next="c"))
    pages, error = await failing(connect(vendor, feed(pages={"more": "body:more"})))
    assert (ids(pages), error.reason) == (["e1"], "flag_missing")


@pytest.mark.parametrize(
    ("pages", "ends"), [([[1]], True), ([[]], True), ([[1], [2]], True), ([[1], []], False)]
)
async def test_a_flag_that_is_left_out_says_no_where_no_cursor_is_either(
    serve: Serve, connect: Connect, day: Interval, pages: list[list[int]], *, ends: bool
) -> None:
    script = [page(numbers, more=True, next="c") for numbers in pages[:-1]] + [page(pages[-1])]
    walk = connect(await serve(*script), feed(pages={"more": "body:more"})).walk(day)
    shown = [await anext(walk) for _ in script[:-1]]
    if ends:
        assert (await anext(walk)).last
    else:
        with pytest.raises(WalkBroken, match="does not say at body:more"):
            await anext(walk)
    assert not any(each.last for each in shown)


async def test_a_flag_that_is_none_is_a_bad_reply(
    serve: Serve, connect: Connect, failing: Any
) -> None:
    vendor = await serve(page([1], next="c", more="perhaps"))
    _, error = await failing(connect(vendor, feed(pages={"more": "body:more"})))
    assert error.reason == "bad_reply"
    assert "body:more: it is neither yes nor no" in str(error)


async def test_an_empty_page_may_be_the_end(serve: Serve, connect: Connect, walk: Any) -> None:
    vendor = await serve(page([1], next="a"), page([2], next="b"), page([], next="b"))
    pages = await walk(connect(vendor, feed(pages={"until_empty": True})))
    assert ids(pages) == ["e1", "e2"]
    assert len(vendor.asked) == 3


@pytest.mark.parametrize("status", [204, 404])
async def test_a_status_may_say_that_there_are_no_records(
    serve: Serve, connect: Connect, walk: Any, status: int
) -> None:
    vendor = await serve(Response(status))
    pages = await walk(connect(vendor, feed(errors={"none": [status]})))
    assert [(each.records, each.last) for each in pages] == [([], True)]


async def test_one_reply_is_all(serve: Serve, connect: Connect, walk: Any) -> None:
    vendor = await serve(page([1, 2], next="c"))
    one = {"kind": "none", "from": None, "to": None, "size": None, "largest": None}
    pages = await walk(connect(vendor, feed(pages=one)))
    assert (ids(pages), [each.last for each in pages]) == (["e1", "e2"], [True])
    assert set(vendor.queries[0]) == {"from", "to"}


# --- addresses


async def test_a_link_is_followed_with_its_own_query(
    serve: Serve, connect: Connect, walk: Any
) -> None:
    first = page([1])
    vendor = await serve(first, page([2]))
    address = f"{vendor.url}/v1/events?after=a%2Bb,c%20d&x[y]=1&limit=2"
    first.headers["Link"] = (
        f'<{vendor.url}/v1/events?a=1,2>; rel="self", <{address}>; title="a, <b>"; rel="last next"'
    )
    description = feed(pages={**URL, "from": "link:next"})
    assert ids(await walk(connect(vendor, description))) == ["e1", "e2"]
    assert vendor.asked[1].target == "/v1/events?after=a%2Bb,c%20d&x[y]=1&limit=2"
    assert vendor.asked[1].headers["authorization"] == "Bearer t0ken"


async def test_a_link_may_have_to_say_something(serve: Serve, connect: Connect, walk: Any) -> None:
    first, second = page([1]), page([2])
    for each, more in ((first, "true"), (second, "false")):
        each.headers["Link"] = f'</v1/events?c={more}>; rel="next"; results="{more}"'
    vendor = await serve(first, second)
    description = feed(pages={**URL, "from": "link:next", "says": {"results": "true"}})
    assert ids(await walk(connect(vendor, description))) == ["e1", "e2"]


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("{url}/v1/events?c=2", "/v1/events?c=2"),
        ("/v1/events?c=2", "/v1/events?c=2"),
        ("?c=2", "/v1/events?c=2"),
        ("events?c=2", "/v1/events?c=2"),
        ("  /v1/events?c=2#top ", "/v1/events?c=2"),
        ("https://api.acme.example/v1/events?c=2", "/v1/events?c=2"),
        ("HTTPS://API.acme.example:443/v1/events?c=2", "/v1/events?c=2"),
        ("https://user@api.acme.example/v1/event%73?c=2", "/v1/events?c=2"),
    ],
)
async def test_these_are_addresses_of_ours(
    serve: Serve, connect: Connect, walk: Any, address: str, target: str
) -> None:
    vendor = await serve(page([1]), page([2]))
    vendor.script[0] = page([1], next=address.format(url=vendor.url))
    assert ids(await walk(connect(vendor, feed(pages=URL)))) == ["e1", "e2"]
    assert vendor.asked[1].target == target


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("https://files.example.net/v1/events?c=2", "another host (files.example.net)"),
        ("//files.example.net/v1/events?c=2", "another host (files.example.net)"),
        ("http://api.acme.example/v1/events?c=2", "another host"),
        ("https://api.acme.example:8443/v1/events", "another host (api.acme.example:8443)"),
        ("https://api.acme.example.evil.example/v1/events", "another host"),
        ("https://api.acme.example@evil.example/v1/events", "another host (evil.example)"),
        ("ftp://api.acme.example/v1/events", "another host"),
        ("file:///v1/events", "another host"),
        ("/v1/users?c=2", "another path (/v1/users)"),
        ("/v1/events/../users", "another path"),
        ("/v1/events%2F..%2Fusers", "another path"),
        ("\\\\evil.example\\v1\\events", "another path"),
    ],
)
async def test_an_address_that_leads_away_is_refused_and_not_followed(
    serve: Serve, connect: Connect, failing: Any, address: str, words: str
) -> None:
    vendor = await serve(page([1], next=address))
    pages, error = await failing(connect(vendor, feed(pages=URL)))
    assert ids(pages) == ["e1"]
    assert isinstance(error, Refused)
    assert words in str(error)
    assert len(vendor.asked) == 1


async def test_a_gateway_in_front_of_the_vendor_gets_all_requests(
    serve: Serve, connect: Connect, walk: Any
) -> None:
    vendor = await serve(page([1], next="https://api.acme.example/v1/events?c=2"), page([2]))
    gateway = connect(vendor, feed(pages=URL), base_url=f"{vendor.url}/gw/acme")
    assert ids(await walk(gateway)) == ["e1", "e2"]
    assert vendor.asked[1].target == "/gw/acme/v1/events?c=2"


@pytest.mark.parametrize("address", ["https://[::1/x", "https://a:b/x", 5, ["x"]])
async def test_what_is_no_address_is_a_bad_reply(
    serve: Serve, connect: Connect, failing: Any, address: object
) -> None:
    vendor = await serve(page([1], next=address))
    _, error = await failing(connect(vendor, feed(pages=URL)))
    assert error.reason == "bad_reply"


async def test_the_same_address_in_two_spellings_repeats(
    serve: Serve, connect: Connect, failing: Any
) -> None:
    vendor = await serve(
        page([1], next="?a=1&b=x%20y"), page([2], next="?c=1"), page([3], next="?b=x+y&a=1")
    )
    _, error = await failing(connect(vendor, feed(pages=URL)))
    assert error.reason == "cursor_repeats"


async def test_a_first_page_that_is_empty_and_leads_to_itself_is_the_last(
    serve: Serve, connect: Connect, walk: Any
) -> None:
    vendor = await serve(lambda request: page([], next=request.target))
    pages = await walk(connect(vendor, feed(pages=URL)))
    assert [(each.records, each.last) for each in pages] == [([], True)]
    assert len(vendor.asked) == 1


# --- numbers and offsets

NUMBER = {"kind": "number", "from": None, "to": "query:page"}
OFFSET = {"kind": "offset", "from": None, "to": "query:offset"}


async def test_pages_are_counted_from_one_until_the_last(
    serve: Serve, connect: Connect, walk: Any
) -> None:
    vendor = await serve(page([1, 2], pages=2), page([3], pages=2))
    description = feed(pages={**NUMBER, "count": "body:pages"})
    assert ids(await walk(connect(vendor, description, page_size=2))) == ["e1", "e2", "e3"]
    assert [query["page"] for query in vendor.queries] == ["1", "2"]


@pytest.mark.parametrize(
    ("keys", "numbers"),
    [
        ({"first": 0}, ["0", "1", "2"]),
        ({"skip_first": True}, [None, "2", "3"]),
        ({"first": 5}, ["5", "6", "7"]),
    ],
)
async def test_the_first_number_is_declared(
    serve: Serve, connect: Connect, walk: Any, keys: dict[str, Any], numbers: list[str | None]
) -> None:
    vendor = await serve(page([1]), page([2]), page([]))
    description = feed(pages={**NUMBER, "until_empty": True, **keys})
    assert ids(await walk(connect(vendor, description))) == ["e1", "e2"]
    assert [query.get("page") for query in vendor.queries] == numbers


async def test_an_offset_is_what_came_not_what_was_asked_for(
    serve: Serve, connect: Connect, walk: Any
) -> None:
    vendor = await serve(page([1, 2], total=5), page([3], total="5"), page([4, 5], total=5.0))
    description = feed(pages={**OFFSET, "total": "body:total"})
    pages = await walk(connect(vendor, description, page_size=2))
    assert ids(pages) == ["e1", "e2", "e3", "e4", "e5"]
    assert [query["offset"] for query in vendor.queries] == ["0", "2", "3"]
    assert [each.total for each in pages] == [5, 5, 5]


async def test_a_flag_ends_counted_pages_too(serve: Serve, connect: Connect, walk: Any) -> None:
    vendor = await serve(page([1], more=True), page([2], more=False))
    description = feed(pages={**OFFSET, "more": "body:more", "first": 10})
    assert ids(await walk(connect(vendor, description))) == ["e1", "e2"]
    assert [query["offset"] for query in vendor.queries] == ["10", "11"]


async def test_a_total_that_gets_smaller_says_that_pages_move(
    serve: Serve, connect: Connect, walk: Any
) -> None:
    vendor = await serve(page([1, 2], total=4), page([3], total=3))
    pages = await walk(connect(vendor, feed(pages={**OFFSET, "total": "body:total"})))
    assert [each.shrunk for each in pages] == [False, True]


async def test_a_page_that_is_gone_ends_the_walk_of_a_list_that_has_shrunk(
    serve: Serve, connect: Connect, walk: Any
) -> None:
    vendor = await serve(page([1], pages=2), json_response(404, {"detail": "Invalid page."}))
    description = feed(pages={**NUMBER, "count": "body:pages", "gone": "Invalid page."})
    pages = await walk(connect(vendor, description))
    assert [(each.last, each.shrunk) for each in pages] == [(False, False), (True, True)]


async def test_an_empty_page_before_the_total_is_asked_once_more_and_ends_the_walk(
    serve: Serve, connect: Connect, walk: Any
) -> None:
    vendor = await serve(page([1, 2], total=8), page([], total=8))
    pages = await walk(connect(vendor, feed(pages={**OFFSET, "total": "body:total"})))
    assert (ids(pages), pages[-1].last, pages[-1].total) == (["e1", "e2"], True, 8)
    assert [query["offset"] for query in vendor.queries] == ["0", "2", "2"]


async def test_a_second_time_it_may_be_there(serve: Serve, connect: Connect, walk: Any) -> None:
    vendor = await serve(page([1], total=2), page([], total=2), page([2], total=2))
    pages = await walk(connect(vendor, feed(pages={**OFFSET, "total": "body:total"})))
    assert ids(pages) == ["e1", "e2"]


def rows(request: Any, count: int, *, offset: int, size: int) -> list[int]:
    """Return the numbers of the rows that a page has, of *count* rows."""
    return list(range(count))[offset : offset + size]


@pytest.mark.parametrize("kind", [NUMBER, OFFSET])
@pytest.mark.parametrize("count", [1, 2, 5, 6, 12])
async def test_an_error_that_only_stands_behind_the_last_record_ends_the_walk(
    serve: Serve, connect: Connect, walk: Any, kind: dict[str, Any], count: int
) -> None:
    def answer(request: Any) -> Response:
        size = int(request.query["limit"])
        place = int(request.query.get("offset", 0))
        if "page" in request.query:
            place = (int(request.query["page"]) - 1) * size
        shown = rows(request, count, offset=place, size=size)
        return page(shown, total=count + 3) if shown else json_response(400, {"message": "no"})

    vendor = await serve(answer)
    pages = await walk(connect(vendor, feed(pages={**kind, "total": "body:total"}), page_size=5))
    assert ids(pages) == [f"e{number}" for number in range(count)]
    assert [each.last for each in pages][-1]
    assert (pages[-1].total, pages[-1].gaps) == (count + 3, ())


async def test_a_ceiling_that_is_not_declared_breaks_the_walk(
    serve: Serve, connect: Connect, failing: Any
) -> None:
    def answer(request: Any) -> Response:
        offset, size = int(request.query["offset"]), int(request.query["limit"])
        if offset + size > 100:
            return json_response(400, {"message": "too deep"})
        return page(rows(request, 250, offset=offset, size=size), total=250)

    vendor = await serve(answer)
    description = feed(pages={**OFFSET, "total": "body:total"})
    pages, error = await failing(connect(vendor, description, page_size=40))
    assert len(ids(pages)) == 80
    assert (type(error), error.reason) == (WalkBroken, "page_refused")
    assert "400 from GET" in str(error)
    assert "too deep" in str(error)


async def test_a_page_that_would_cross_a_declared_ceiling_is_not_asked_for(
    serve: Serve, connect: Connect, failing: Any
) -> None:
    vendor = await serve(lambda request: page(range(40), more=True))
    description = feed(pages={**OFFSET, "more": "body:more", "most": 100})
    _, error = await failing(connect(vendor, description, page_size=40))
    assert error.reason == "over_budget"
    assert [query["offset"] for query in vendor.queries] == ["0", "40"]


@pytest.mark.parametrize(("shown", "ends"), [(99, True), (100, False), (101, False)])
async def test_one_reply_that_reaches_the_ceiling_is_not_all(
    serve: Serve, connect: Connect, shown: int, *, ends: bool, day: Interval
) -> None:
    vendor = await serve(page(range(shown)))
    one = {"kind": "none", "from": None, "to": None, "size": None, "largest": None, "most": 100}
    walk = connect(vendor, feed(pages=one)).walk(day)
    only = await anext(walk)
    assert (len(only.records), only.last) == (shown, ends)
    if not ends:
        with pytest.raises(WalkBroken, match="at most 100 records of one query"):
            await anext(walk)


# --- bodies


async def test_a_body_may_be_the_list_itself(serve: Serve, connect: Connect, walk: Any) -> None:
    first = Response(200, b'[{"id": "a" } , {"id":"b"}]', {"Link": "<?c=2>; rel=next"})
    vendor = await serve(first, Response(200, b" [ ] "))
    description = feed(records={"at": ""}, pages={**URL, "from": "link:next"})
    pages = await walk(connect(vendor, description))
    assert pages[0].records == [b'{"id": "a" }', b'{"id":"b"}']
    assert pages[-1].last


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (b'[{"id":"a","x":NaN},{"id":"b"}]', 2),
        (b'[{"id":"a","x":"\\ud800"}]', 1),
        (b'[{"id":"\xff"}]', 1),
        (b"[" + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b',{"id":"b"}]', 2),
        (b"\xef\xbb\xbf[]", 0),
        (b"null", 0),
    ],
)
async def test_odd_bodies_that_are_lists_are_read(
    serve: Serve, connect: Connect, walk: Any, body: bytes, count: int
) -> None:
    vendor = await serve(Response(200, body))
    description = feed(records={"at": ""}, pages={**URL, "from": "link:next"})
    pages = await walk(connect(vendor, description))
    assert sum(len(each.records) for each in pages) == count


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"events": []}', b"[1,,2]", b"[1", b'"x"'])
async def test_what_is_no_list_is_a_bad_reply(
    serve: Serve, connect: Connect, failing: Any, body: bytes
) -> None:
    vendor = await serve(Response(200, body))
    description = feed(records={"at": ""}, pages={**URL, "from": "link:next"})
    _, error = await failing(connect(vendor, description))
    assert error.reason == "bad_reply"


@pytest.mark.parametrize(
    ("body", "absent", "fails"),
    [
        ({"data": {"nodes": None}}, "broken", False),
        ({"data": {"nodes": []}}, "broken", False),
        ({"data": {}}, "broken", True),
        ({"data": None}, "broken", True),
        ({}, "broken", True),
        ({"data": []}, "broken", True),
        ({"data": {}}, "none", False),
        ({"data": None}, "none", False),
        ({}, "none", False),
        ({"data": "x"}, "none", True),
        ({"data": {"nodes": {}}}, "none", True),
    ],
)
async def test_an_absent_list_is_no_page_unless_it_is_declared(
    serve: Serve, connect: Connect, day: Interval, body: Any, absent: str, *, fails: bool
) -> None:
    vendor = await serve(json_response(200, body))
    description = feed(
        records={"at": "data.nodes", "absent": absent},
        pages={"from": "body:data.info.end"},
    )
    walk = connect(vendor, description).walk(day)
    if fails:
        with pytest.raises(Retryable) as caught:
            await anext(walk)
        assert caught.value.reason == "bad_reply"
    else:
        assert [each.last async for each in walk] == [True]


async def test_records_keep_their_bytes_deep_in_a_body(
    serve: Serve, connect: Connect, walk: Any
) -> None:
    body = b'{"data":{"info":{"end":"c"},"nodes":[ {"id" : "a", "n": 1.0e2} ]},"other":{"nodes":1}}'
    vendor = await serve(Response(200, body), json_response(200, {"data": {"nodes": []}}))
    description = feed(records={"at": "data.nodes"}, pages={"from": "body:data.info.end"})
    pages = await walk(connect(vendor, description))
    assert pages[0].records == [b'{"id" : "a", "n": 1.0e2}']
    assert vendor.queries[1]["cursor"] == "c"


async def test_null_for_the_records_of_an_announced_page_is_no_empty_list(
    serve: Serve, connect: Connect, failing: Any
) -> None:
    vendor = await serve(page([1], next="c"), json_response(200, {"events": None}))
    _, error = await failing(connect(vendor))
    assert error.reason == "bad_reply"


# --- parameters


async def test_parameters_are_sent_as_they_are_written(
    serve: Serve, connect: Connect, walk: Any
) -> None:
    vendor = await serve(page([]))
    description = feed(
        request={"params": {"type[]": ["a", "b c"], "filter[x]": "1&2", "account": "{account}"}},
        time={"start": "query:filter[created_at][]", "end": "query:filter[created_at][]"},
        pages={"size": "query:page[size]"},
    )
    await walk(connect(vendor, description))
    assert vendor.asked[0].target == (
        "/v1/events?type[]=a&type[]=b%20c&filter[x]=1%262&account=a1"
        "&filter[created_at][]=2026-02-28T23%3A59%3A59.999Z"
        "&filter[created_at][]=2026-03-02T00%3A00%3A00.000Z&page[size]=100"
    )
    assert pairs(vendor.asked[0])[0] == ("type[]", "a")


async def test_both_bounds_may_stand_in_one_text(serve: Serve, connect: Connect, walk: Any) -> None:
    vendor = await serve(page([]))
    description = feed(
        time={
            "start": None,
            "end": None,
            "text": "created:>={start} created:<={end}",
            "at": "query:phrase",
            "format": "iso_s",
        }
    )
    await walk(connect(vendor, description))
    assert vendor.queries[0]["phrase"] == (
        "created:>=2026-02-28T23:59:59Z created:<=2026-03-02T00:00:00Z"
    )


async def test_a_hole_in_the_path_is_percent_encoded(
    serve: Serve, connect: Connect, walk: Any
) -> None:
    vendor = await serve(page([1], next="/orgs/a%2Fb/log?c=2"), page([2]))
    description = feed(request={"path": "/orgs/{account}/log"}, pages=URL)
    await walk(connect(vendor, description, account="a/b"))
    assert [request.target.split("?")[0] for request in vendor.asked] == ["/orgs/a%2Fb/log"] * 2


async def test_headers_and_slots_in_headers_are_sent(
    serve: Serve, connect: Connect, walk: Any
) -> None:
    vendor = await serve(page([1], next="c"), page([2]))
    description = feed(
        request={"headers": {"x-account": "{account}"}}, pages={"to": "header:x-cursor"}
    )
    await walk(connect(vendor, description))
    assert [request.headers.get("x-cursor") for request in vendor.asked] == [None, "c"]
    assert [request.headers["x-account"] for request in vendor.asked] == ["a1", "a1"]


def test_the_record_in_the_docstring_is_what_the_helper_makes() -> None:
    assert json.loads(page([1]).body)["events"][0]["id"] == "e1"
