"""Facts: their text, and that an entry says what its open facts said, wherever seals fall."""

import json
from collections import Counter
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from auditrelay.evidence import facts
from auditrelay.evidence.facts import MOST_PAGES, MOST_TEXT, Body, halves, merge

VIAS = st.sampled_from(["poll", "resweep 1h", "backfill"])
SPANS = st.tuples(st.integers(0, 11), st.integers(1, 6)).map(lambda span: (span[0], sum(span)))
HASH = bytes(range(32))


def hashed(*parts: Any) -> bytes:
    return sha256(repr(parts).encode()).digest()


def page(first: int, count: int, via: str = "poll", late: int = 0) -> Body:
    digests = {name: hashed(name, first) for name in ("uids", "raws", "stored")}
    return facts.accepted(via=via, first=first, count=count, late=late, **digests)


ALL: dict[str, Body] = {
    "accepted": page(7, 3),
    "covered": facts.covered(via="poll", start=1, end=2, before=9),
    "gap": facts.gap(start=1, end=2, reason="retention", uid="a" * 40, place=8),
    "filled": facts.filled(start=1, end=2, reason="retention"),
    "reopened": facts.reopened(start=1, end=2, reason="retention", by=1000),
    "retracted": facts.retracted(start=1, end=2, reason="retention", by=None),
    "looked_again": facts.looked_again(delay=3600, until=5),
    "vanished": facts.vanished(start=1, end=2, events=1, uids=HASH),
    "put_aside": facts.put_aside(reason="no time", events=1, uids=HASH),
    "void": facts.void(pages=[(7, 3)], why="its digest is another one"),
    "parcel": facts.file(key=HASH, name="june.ndjson", owner=0),
    "backfill": facts.backfill(id=1, start=1, end=2, sinks=["splunk"], by=1000),
    "forgot": facts.forgot(before=5, events=2),
    "delivered": facts.delivered(done=[(7, 3)]),
    "excluded": facts.excluded(glob="session.*", places=[(7, 8), (9, 10)]),
    "dead": facts.dead(reason="400", uids=["a" * 40]),
    "replayed": facts.replayed(first=7, count=1, uids=["a" * 40], stored=HASH, by=0),
    "dropped": facts.dropped(reason="400", uids=["a" * 40], by=0),
    "refilled": facts.refilled(first=7, count=3, uids=HASH, stored=HASH, by=None),
    "began": facts.began(since={"okta": 0}),
    "retired": facts.retired(place=9),
    "back": facts.back(since={"okta": 9}),
    "started": facts.started(run="0" * 32, versions={"auditrelay": "1"}, orderly=None),
    "stopped": facts.stopped(run="0" * 32),
    "head": facts.head(size=5, root=HASH, taken_by=["splunk", "elastic"], stamp="MII="),
    "configured": facts.configured(digest=HASH, settings={"sources.okta.settle": "5m"}),
    "key": facts.key(public=HASH, before="0" * 8, signature=bytes(64)),
    "pruned": facts.pruned(before=5, events=3, why="retention"),
    "operator": facts.operator(did="forget", by=0, name="okta"),
    "clock": facts.clock(seconds=60),
    "continued": facts.continued(log="0" * 32, size=5, root=HASH, why="no tip"),
    "restored": facts.restored(reason="the disk died", by=0),
    "taken_over": facts.taken_over(schema=3, place=9),
}

FOUND = facts.found(started=1, events=2, uids=HASH, head=HASH, records=[[1, 5, "covered", 1, 2]])


@pytest.mark.parametrize("name", ALL)
def test_every_fact_has_its_name_and_is_canonical_json(name: str) -> None:
    body = ALL[name]
    text = facts.text(body)
    assert body["fact"] == name
    assert text.isascii()
    assert json.loads(text, parse_float=pytest.fail) == body
    assert text == json.dumps(body, sort_keys=True, separators=(",", ":"))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_the_fast_way_to_a_text_makes_no_other_one(value: Any) -> None:
    body = {"fact": "any", "value": value}
    assert facts.text(body) == json.dumps(body, sort_keys=True, separators=(",", ":"))


def test_what_a_text_may_have() -> None:
    assert facts.text({"b": '\u20ac\x7f\n"', "a": None}) == r'{"a":null,"b":"\u20ac\u007f\n\""}'


def test_texts_from_outside_are_cut_off() -> None:
    long = "x" * 5000
    for body in (
        facts.restored(reason=long, by=0),
        facts.gap(start=0, end=1, reason=long),
        facts.dead(reason=long, uids=[]),
        facts.put_aside(reason=long, events=1, uids=HASH),
        facts.file(key=HASH, name=long, owner=None),
        facts.operator(did=long, by=0, name=long),
        facts.configured(digest=HASH, settings={"sources.okta.url": long}),
        facts.backfill(id=1, start=1, end=2, sinks=[long], by=0),
    ):
        assert "x" * MOST_TEXT in facts.text(body)
        assert "x" * (MOST_TEXT + 1) not in facts.text(body)


@pytest.mark.parametrize("character", ["\0", "\n", "\x1b", "\u2028", "\udcff", "\u202e"])
def test_texts_from_outside_are_what_can_be_printed(character: str) -> None:
    name = f"june{character}.ndjson"
    assert facts.file(key=HASH, name=name, owner=None)["name"] == "june\ufffd.ndjson"


# --- merging ------------------------------------------------------------------------------------

OF_LEDGER = st.one_of(
    st.builds(lambda span: facts.gap(start=span[0], end=span[1], reason="r"), SPANS),
    st.builds(lambda span: facts.filled(start=span[0], end=span[1], reason="r"), SPANS),
    st.builds(lambda span: facts.reopened(start=span[0], end=span[1], reason="r", by=0), SPANS),
    st.builds(lambda span: facts.retracted(start=span[0], end=span[1], reason="r", by=0), SPANS),
)
COVERED = st.builds(
    lambda span, via: facts.covered(via=via, start=span[0], end=span[1], before=0), SPANS, VIAS
)
OTHERS = st.sampled_from([ALL["looked_again"], ALL["vanished"], ALL["void"], ALL["parcel"]])


@st.composite
def open_facts(draw: st.DrawFn) -> list[Body]:
    """What one source may write: pages at ever higher places, and everything else between them."""
    place, made = 0, []
    for body in draw(
        st.lists(st.one_of(st.tuples(st.integers(1, 9), VIAS), COVERED, OF_LEDGER, OTHERS))
    ):
        if isinstance(body, tuple):
            count, via = body
            made.append(page(place, count, via, late=draw(st.integers(0, count))))
            place += count + draw(st.integers(0, 3))
        else:
            made.append({**body, "before": place} if body["fact"] == "covered" else body)
    return made


def spread(bodies: list[Body]) -> dict[int, tuple[str, ...]]:
    """Return what each instant is after *bodies*, in their order."""
    line: dict[int, tuple[str, ...]] = {}
    for body in bodies:
        name = body["fact"]
        becomes = {"covered": (name,), "gap": (name,), "reopened": (name,)}.get(name, ())
        if name in {"covered", "gap", "filled", "reopened", "retracted"}:
            line |= dict.fromkeys(range(body["start"], body["end"]), becomes)
    return line


def sums(bodies: list[Body]) -> Counter[tuple[str, str]]:
    total: Counter[tuple[str, str]] = Counter()
    for body in bodies:
        if body["fact"] == "accepted":
            total[body["via"], "events"] += body["events"]
            total[body["via"], "late"] += body["late"]
    return +total


def places(bodies: list[Body]) -> list[list[int]]:
    return sorted(place for body in bodies if body["fact"] == "accepted" for place in body["pages"])


def others(bodies: list[Body]) -> list[Body]:
    return [body for body in bodies if body["fact"] not in {"accepted", "covered"}]


@given(open_facts(), st.data())
def test_the_entries_say_the_same_wherever_seals_fall(
    bodies: list[Body], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(bodies)), max_size=4)))
    parts = [bodies[a:b] for a, b in zip([0, *cuts], [*cuts, len(bodies)], strict=True)]
    entries = [merge(part) for part in parts]
    merged = [body for entry in entries for body in entry]
    assert sums(merged) == sums(bodies)
    assert places(merged) == places(bodies)
    assert others(merged) == others(bodies)
    assert spread(merged) == spread(bodies)
    for entry, part in zip(entries, parts, strict=True):
        for body in entry:
            if body["fact"] == "accepted":
                assert_is_chained(body, part)
            if body["fact"] == "covered":
                within = [
                    each["before"]
                    for each in part
                    if each["fact"] == "covered"
                    and each["via"] == body["via"]
                    and body["start"] <= each["start"] <= each["end"] <= body["end"]
                ]
                assert body["before"] in within


def assert_is_chained(body: Body, pages: list[Body]) -> None:
    of_place = {tuple(each["pages"][0]): each for each in pages if each["fact"] == "accepted"}
    for name in ("uids", "raws", "stored"):
        digest = bytes(32)
        for place in body["pages"]:
            digest = sha256(digest + bytes.fromhex(of_place[tuple(place)][name])).digest()
        assert body[name] == digest.hex()


def test_pages_of_one_kind_of_read_become_one_fact() -> None:
    first, second, other, third = page(0, 3), page(3, 2, late=1), page(5, 1, "backfill"), page(6, 9)
    poll, backfill = merge([first, ALL["void"], second, other, third])[:3:2]
    assert poll["pages"] == [[0, 3], [3, 2], [6, 9]]
    assert (poll["events"], poll["late"]) == (14, 1)
    assert backfill["pages"] == [[5, 1]]
    alone = sha256(bytes(32) + bytes.fromhex(other["uids"])).hexdigest()
    assert backfill["uids"] == alone, "that of a page alone is a chain, too"


def test_a_fact_has_a_bounded_number_of_pages() -> None:
    many = [page(first, 1) for first in range(2 * MOST_PAGES + 1)]
    merged = merge(many)
    assert [body["events"] for body in merged] == [MOST_PAGES, MOST_PAGES, 1]
    assert places(merged) == places(many)
    for body in merged:
        assert_is_chained(body, many)


def covered(start: int, end: int, before: int = 0, via: str = "poll") -> Body:
    return facts.covered(via=via, start=start, end=end, before=before)


def test_spans_that_touch_become_one_with_the_newest_place() -> None:
    merged = merge([covered(0, 2, 5), covered(4, 6, 6), covered(2, 4, 7), covered(8, 9, 8)])
    assert merged == [covered(0, 6, 7), covered(8, 9, 8)]
    assert merge([covered(0, 2), covered(2, 4, via="repair")]) == [
        covered(0, 2),
        covered(2, 4, via="repair"),
    ]


@pytest.mark.parametrize("name", ["gap", "filled", "reopened", "retracted", "void"])
def test_spans_do_not_join_across_what_makes_one_something_else(name: str) -> None:
    before, between, after = covered(0, 2), ALL[name], covered(2, 4)
    assert merge([before, between, after]) == [before, between, after]


def test_spans_join_across_everything_else() -> None:
    before, between, after = covered(0, 2), ALL["looked_again"], covered(2, 4)
    assert merge([before, between, after]) == [covered(0, 4), between]


def test_what_one_glob_excludes_becomes_one_fact_and_a_place_counts_once() -> None:
    bodies = [
        facts.excluded(glob="session.*", places=[(7, 9), (12, 13)]),
        facts.excluded(glob="user.*", places=[(9, 12)]),
        facts.excluded(glob="session.*", places=[(13, 15), (7, 8)]),  # the latter after a crash
    ]
    assert merge(bodies) == [
        facts.excluded(glob="session.*", places=[(7, 9), (12, 15)]),
        facts.excluded(glob="user.*", places=[(9, 12)]),
    ]
    first, second = halves(merge(bodies)[0])
    assert (first["events"], second["events"]) == (2, 3)
    assert (first["places"], second["places"]) == ([[7, 2]], [[12, 3]])


def test_merging_leaves_the_open_facts_alone() -> None:
    bodies = [page(0, 1), page(1, 1), covered(0, 1), covered(1, 2), *ALL.values()]
    before = [facts.text(body) for body in bodies]
    merge(bodies)
    assert [facts.text(body) for body in bodies] == before


def test_the_seal_adds_what_is_known_of_a_span() -> None:
    body = covered(0, 2)
    assert facts.counted(body, events=3, uids=HASH) == {**body, "events": 3, "uids": HASH.hex()}


# --- what a sink has settled --------------------------------------------------------------------


def settled(position: int, ahead: list[tuple[int, int]]) -> set[int]:
    return {*range(position), *(at for start, end in ahead for at in range(start, end))}


@st.composite
def progress(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    bounds = sorted(draw(st.sets(st.integers(1, 40), max_size=8)))
    begun: bool = draw(st.booleans())
    position = bounds.pop(0) if bounds and begun else 0
    return position, list(zip(bounds[::2], bounds[1::2], strict=False))


@given(progress(), progress())
@example((5, []), (3, []))
def test_what_is_newly_done(
    before: tuple[int, list[tuple[int, int]]], now: tuple[int, list[tuple[int, int]]]
) -> None:
    found = facts.newly_done(before, now)
    places = [at for first, count in found for at in range(first, first + count)]
    assert all(count > 0 for _, count in found)
    assert places == sorted(settled(*now) - settled(*before))


# --- cutting ------------------------------------------------------------------------------------


def test_a_fact_is_cut_into_facts_that_are_whole_in_themselves() -> None:
    uids = [hashed(number).hex()[:40] for number in range(5)]
    left, right = halves(facts.dead(reason="400", uids=uids))
    assert left == facts.dead(reason="400", uids=uids[:2])
    assert right == facts.dead(reason="400", uids=uids[2:])
    left, right = halves(facts.delivered(done=[(0, 1), (2, 1)]))
    assert [left, right] == [facts.delivered(done=[(0, 1)]), facts.delivered(done=[(2, 1)])]
    left, right = halves(facts.began(since={"b": 1, "a": 0}))
    assert [left, right] == [facts.began(since={"a": 0}), facts.began(since={"b": 1})]


def test_pages_and_sums_are_said_once() -> None:
    whole = facts.replayed(first=7, count=3, uids=["a" * 40] * 3, stored=HASH, by=0)
    left, right = halves(whole)
    assert (left["pages"], left["stored"], left["events"]) == ([[7, 3]], HASH.hex(), 1)
    assert (right["pages"], right["stored"], right["events"]) == ([], None, 2)
    left, right = halves({**FOUND, "records": FOUND["records"] * 3})
    assert (left["events"], len(left["records"])) == (2, 1)
    assert (right["events"], len(right["records"])) == (0, 2)
    assert right["uids"] == sha256().hexdigest()


@pytest.mark.parametrize("body", [ALL["restored"], ALL["dead"], ALL["taken_over"], FOUND])
def test_what_has_nothing_to_cut_is_refused(body: Body) -> None:
    with pytest.raises(ValueError, match="too long"):
        halves(body)
