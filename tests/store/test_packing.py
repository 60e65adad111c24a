"""Pages as they lie in the spool: the same events come out, of older versions too."""

import json
import random
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from isal import isal_zlib

from auditrelay.errors import StateError
from auditrelay.events import Actor, AuditEvent, Change
from auditrelay.events import pack as pack_events
from auditrelay.events.page import COLUMNS, Page, Sort
from auditrelay.store.packing import VERSION, pack, unpack

Make = Callable[..., AuditEvent]
words = st.text(st.characters(codec="utf-8"), max_size=5)
maybe = st.none() | words
digests = st.integers(0, 2**160 - 1).map("{:040x}".format) | st.sampled_from(
    ["AB" * 20, "ab " * 13 + "a", "é" * 40, "", "ab" * 19]
)
actors = st.builds(Actor, id=maybe, name=maybe)
SPECIAL = {
    "uid": digests,
    "raw_sha256": st.integers(0, 2**256 - 1).map("{:064x}".format) | words,
    "at": st.integers(-(2**63), 2**63 - 1),
    "fetched": st.integers(0, 2**63 - 1),
    "actor": actors | st.just(Actor(kind="user", id="a1")),
    "changes": st.just(()) | st.just((Change("role", "1", None),)),
    "late_by_s": st.none() | st.integers(0, 99),
    "redacted": st.just(()) | st.just(("metadata.token",)),
    "message": words,
    "raw": words,
}
sorts = st.builds(
    Sort,
    **dict.fromkeys(("source", "vendor", "product", "api_host", "kind", "verb"), words),
    native_action=words,
    native_category=maybe,
    warnings=st.just(()) | st.just(("no_id",)),
    tags=st.just(()) | st.just((("team", "a"),)),
)


@st.composite
def pages(draw: st.DrawFn) -> Page:
    """Draw a page of a few events, in which any column may be empty."""
    count = draw(st.integers(0, 5))
    kinds = draw(st.lists(sorts, min_size=1, max_size=3))
    columns: list[Any] = []
    for name in COLUMNS:
        empty = name not in {"uid", "at", "fetched", "raw", "raw_sha256", "message", "actor"}
        length = 0 if empty and draw(st.booleans()) else count
        values = SPECIAL.get(name, maybe)
        columns.append(draw(st.lists(values, min_size=length, max_size=length)))
    numbers = st.lists(st.integers(0, len(kinds) - 1), min_size=count, max_size=count)
    return Page(kinds, draw(numbers), *columns)


@given(pages())
def test_what_is_packed_comes_out_the_same(page: Page) -> None:
    blob, size = pack(page)
    assert unpack(blob, 0, len(page)) == (page, size)
    assert blob[0] == VERSION


def test_who_acts_again_and_again_is_stored_and_made_once(event: Make) -> None:
    page = Page.of([event(number) for number in range(3)])
    shared = msgspec.structs.replace(page, actor=[page.actor[0]] * 3)
    found, _ = unpack(pack(shared)[0], 0, 3)
    assert found == page
    assert len({id(actor) for actor in found.actor}) == 1
    assert pack(shared)[1] < pack(page)[1]


def test_a_page_of_version_1_is_read(event: Make) -> None:
    events = [event(1), event(2, late_by_s=5, actor=Actor(), changes=(Change("a", "1"),))]
    blob = isal_zlib.compress(pack_events(events), 1)
    page, size = unpack(blob, 0, 2)
    assert page == Page.of(events)
    assert size == pytest.approx(pack(page)[1], rel=0.3)


def test_an_event_of_version_1_without_the_newest_fields_is_read(event: Make) -> None:
    whole = json.loads(pack_events([event(1)]))
    older = [each[:-3] for each in whole]
    page, _ = unpack(isal_zlib.compress(json.dumps(older, separators=(",", ":")).encode(), 1), 0, 1)
    assert list(page) == [event(1)]


def test_a_page_without_the_newest_columns_is_read(event: Make) -> None:
    """Before a column is added, the blobs are as those of a page without it are now."""
    page = Page.of([event(1), event(2)])
    text = isal_zlib.decompress(pack(page)[0][1:])
    stored: list[Any] = msgspec.msgpack.decode(text)

    class Newer(Page):
        added: list[str | None] = msgspec.field(default_factory=list)

    stored[0].append(["from", "tomorrow"])  # and what a newer one has added is passed over
    newer = b"%c%b" % (VERSION, isal_zlib.compress(msgspec.msgpack.encode(stored), 1))
    assert unpack(newer, 0, 2)[0] == page
    found = msgspec.msgpack.decode(msgspec.msgpack.encode(page), type=Newer)
    assert (found.added, found.uid) == ([], page.uid)


@pytest.mark.parametrize(
    "damage",
    [
        lambda blob: blob[:-1],
        lambda blob: blob[:40] + bytes(9) + blob[49:],
        lambda blob: blob[:1],
        lambda blob: blob[:1] + isal_zlib.compress(b"\x93\x01\x02\x03"),
        lambda blob: b"\x78" + blob[1:],
        lambda blob: isal_zlib.compress(b"[]"),
        lambda blob: isal_zlib.compress(b"[[1]]"),
    ],
)
def test_a_damaged_page_says_what_to_do(damage: Callable[[bytes], bytes], event: Make) -> None:
    blob, _ = pack(Page.of([event(1), event(2)]))
    with pytest.raises(StateError, match=r"at position 40 .* restore the state from a backup"):
        unpack(damage(blob), 40, 2)


@pytest.mark.parametrize("blob", [b"", b"\x00abc", b"\x03abc"])
def test_a_page_of_an_unknown_version_says_what_to_do(blob: bytes) -> None:
    with pytest.raises(
        StateError, match=r"at position 40 .* unknown version .: if a newer auditrelay wrote it"
    ):
        unpack(blob, 40, 1)


@pytest.mark.parametrize("filler", [0, 400, 4000])
def test_a_page_tells_about_how_much_memory_it_takes(filler: int, event: Make) -> None:
    raws = [msgspec.Raw(b'{"filler":"%b"}' % (b"x" * filler)) for _ in range(500)]
    page = Page.of([event(number, raw=raw) for number, raw in enumerate(raws)])
    blob, size = pack(page)
    tracemalloc.start()
    found, again = unpack(blob, 0, 500)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 500
    assert size == again == pytest.approx(taken, rel=0.4)


def test_what_the_record_says_too_takes_no_room_twice(event: Make) -> None:
    """However far apart two columns are: deflate finds again what is at most 32 kB back."""
    notes = [f'{{"note":"{random.Random(number).randbytes(500).hex()}"}}' for number in range(500)]
    raws = [f'{{"id":{number},"metadata":{note}}}' for number, note in enumerate(notes)]
    page = Page.of([event(number) for number in range(500)])
    alone = msgspec.structs.replace(page, raw=raws, metadata=[])
    both = msgspec.structs.replace(page, raw=raws, metadata=notes)
    assert len(pack(both)[0]) < len(pack(alone)[0]) * 1.2
