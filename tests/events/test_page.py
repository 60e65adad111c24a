"""A page in columns: the same events, whichever way one looks at them."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from auditrelay.events import NOTHING, Actor, AuditEvent, Change, Target
from auditrelay.events.page import COLUMNS, Page, Sort

TEXTS = ["source", "vendor", "product", "api_host", "native_action", "kind", "verb", "message"]
words = st.text(st.characters(codec="utf-8"), max_size=5)
maybe = st.none() | words
json_texts = st.sampled_from([b"{}", b'{"a":"\xc3\xa9"}', b"[1]"]).map(msgspec.Raw)
events = st.builds(
    AuditEvent,
    uid=st.integers(0, 2**160 - 1).map(lambda number: f"{number:040x}"),
    native_id=maybe,
    time_raw=maybe,
    native_category=maybe,
    actor=st.builds(Actor, id=maybe, name=maybe),
    target=st.builds(Target, type=maybe, id=maybe, email=maybe),
    org_id=maybe,
    org_name=maybe,
    project_id=maybe,
    project_name=maybe,
    privilege=maybe,
    changes=st.just(()) | st.just((Change("role", "1", None),)),
    reason=maybe,
    metadata=st.just(NOTHING) | json_texts,
    unmapped=st.just(NOTHING) | json_texts,
    raw=json_texts,
    raw_sha256=words,
    warnings=st.just(()) | st.just(("no_id",)),
    tags=st.just((("team", "a"),)),
    late_by_s=st.none() | st.integers(0, 99),
    **dict.fromkeys(TEXTS, words),
)
some = st.lists(events, max_size=6)


@given(some)
def test_a_page_has_the_events_that_it_was_made_of(made: list[AuditEvent]) -> None:
    page = Page.of(made)
    assert len(page) == len(made)
    assert list(page) == made
    assert [page[row] for row in range(len(page))] == made


@given(some, st.data())
def test_some_rows_of_a_page_are_a_page(made: list[AuditEvent], data: st.DataObject) -> None:
    page = Page.of(made)
    rows = [row for row in range(len(made)) if data.draw(st.booleans())]
    assert list(page.take(rows)) == [made[row] for row in rows]
    start, end = data.draw(st.integers(0, 6)), data.draw(st.integers(0, 6))
    assert list(page[start:end]) == made[start:end]


@given(some, st.integers(0, 6), st.integers(0, 6))
def test_pages_are_joined(made: list[AuditEvent], first: int, second: int) -> None:
    parts = [made[:first], made[first : first + second], made[first + second :]]
    joined = Page.joined([Page.of(part) for part in parts])
    assert list(joined) == made
    assert joined == Page.of(made)


@given(some)
def test_a_column_without_a_value_is_empty(made: list[AuditEvent]) -> None:
    page = Page.of(made)
    for name in COLUMNS:
        column = getattr(page, name)
        assert len(column) in (0, len(made)), name
        assert not column or any(value is not None and value != () for value in column), name


def test_every_field_of_an_event_is_in_its_sort_or_a_column() -> None:
    parts = {f"target_{name}" for name in Target.__struct_fields__}
    fields = {*AuditEvent.__struct_fields__} - {"target"} | parts
    assert {*Sort.__struct_fields__, *COLUMNS} == fields
    assert not {*Sort.__struct_fields__} & {*COLUMNS}
