"""A page is written as its renderer would write each event, byte for byte, and far faster."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache

import msgspec
import pytest
from hypothesis import given, settings
from tests.conftest import make_event
from tests.support.corpus import (
    COPIES,
    VENDORS,
    events_of,
    events_of_every_meaning,
    odd_pages,
    pages_of_alike,
)
from tests.support.extent import extent, some_of

from auditrelay.events import Actor, AuditEvent, Target
from auditrelay.events.forms import FORMS, SPLICED, derived
from auditrelay.events.forms.derived import Derived, RenderContext
from auditrelay.events.page import Page
from auditrelay.events.timestamps import iso_ms
from auditrelay.sinks._requests import dump

replace = msgspec.structs.replace
NOW = RenderContext(1_767_268_800_123_456)
FEWER = extent(5, 1)
"""Every so many events are compared where each of a shape has eight others of that shape."""


def writer(form: str) -> Callable[[AuditEvent, RenderContext], bytes]:
    """Write an event in *form* by its renderer alone, with the time of sending."""

    def write(event: AuditEvent, its: RenderContext) -> bytes:
        document = FORMS[form](event, marks=its.marks)
        return dump(document | {"sent": iso_ms(its.now), "choice": its.choice})

    return write


def check(form: str, pages: Iterable[Page], *, copies: int = 1, every: int = 1) -> Derived:
    """
    Assert that *pages* are written as by value.

    Each page is so many *copies* of its first events. Only *every* so many events are compared.
    """
    write = writer(form)
    subject = Derived(write, SPLICED[form])
    for page in pages:
        choices = [sort % 2 for sort in page.sort]
        texts = subject.texts(page, NOW, choices)
        rows = range(0, len(page) // copies, every)
        expected = [
            write(event, NOW._replace(choice=choices[row]))
            for row, event in zip(rows, page.take(rows), strict=True)
        ]
        assert texts[::every] == expected * copies, form
        assert len(texts) == len(page)
    return subject


def templates(subject: Derived) -> Sequence[object]:
    """Return the templates that were made; each of them must have been sound."""
    made = [each for each in subject._templates.values() if not isinstance(each, int)]
    assert all(template.sound for template in made)
    return made


@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize("vendor", VENDORS)
def test_every_vendors_events_are_written_as_they_are_rendered(vendor: str, form: str) -> None:
    events = events_of(vendor)
    assert templates(check(form, [Page.of(events)]))
    assert templates(check(form, pages_of_alike(list(events)), every=FEWER))


@cache
def of_every_meaning() -> list[Page]:
    """Return pages of events of every meaning: the same for all forms."""
    return pages_of_alike(events_of_every_meaning())


@pytest.mark.parametrize("form", sorted(FORMS))
def test_every_kind_and_verb_is_written_as_it_is_rendered(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(derived, "_MAX_SHAPES", 10**6)
    pages = of_every_meaning()
    subject = check(form, pages, every=FEWER)
    assert len(templates(subject)) >= sum(map(len, pages)) // COPIES


@pytest.mark.slow
@settings(deadline=None, max_examples=extent(20, 100))
@given(page=odd_pages())  # which takes longer than to write it in every form
def test_odd_events_are_written_as_they_are_rendered(page: Page) -> None:
    for form in sorted(FORMS):
        check(form, [page, page], copies=COPIES)


@pytest.mark.parametrize("form", sorted(FORMS))
def test_names_that_are_equal_are_a_shape_of_their_own(form: str) -> None:
    names = [None, "", "d", "s", "d@x.example", "s@x.example"]
    events = [
        make_event(
            number,
            kind="member",
            actor=Actor("user", names[number % 6], names[number // 6 % 6], names[number // 36 % 6]),
            target=Target("user", *[names[(number * 7 + place) % 6] for place in (0, 1, 3)]),
        )
        for number in range(216)
    ]
    templates(check(form, [Page.of(events * COPIES)], copies=COPIES))


@pytest.mark.parametrize("form", sorted(FORMS))
def test_addresses_that_are_none_or_are_too_long_are_shapes_of_their_own(form: str) -> None:
    longest = "0000:0000:0000:0000:0000:ffff:255.255.255.25"
    ips = [None, "", "203.0.113.7", "::1", f"{longest}5", f"{longest}4", "fe80::1%eth0", "odd"]
    emails = ["dana@x.example", "dana@x", "sam@x.example", "sam at x", None]
    events = [
        make_event(
            number,
            kind="user",
            verb="create",
            actor=Actor("user", "u", email=emails[number % 5], ip=ips[number % 8]),
            target=Target("user", f"t{number}", email=emails[number // 5 % 5]),
        )
        for number in range(200)
    ]
    templates(check(form, [Page.of(events * COPIES)], copies=COPIES))


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_lone_surrogate_costs_its_page_no_more_than_time(form: str) -> None:
    events = [make_event(number) for number in range(20)]
    for field in ("message", "reason", "native_id"):
        check(form, [Page.of([*events, replace(events[3], **{field: "\ud800"})])])


@pytest.mark.parametrize(
    ("mark", "form"),
    [
        pytest.param(mark, form, id=f"{mark!r}-{form}")
        for number, mark in enumerate(derived._MARKS)
        for form in some_of(sorted(FORMS), every=3, first=number % 3)
    ],
)
def test_a_text_that_reads_like_a_mark_is_a_text(mark: object, form: str) -> None:
    """A user who causes events may choose such texts, also so that the first events agree."""
    text = str(mark)
    for name in ("native_action", "org_id", "project_id", "privilege"):
        odd = {name: f"{text},"}
        bare = [make_event(number, **odd) for number in range(9)]
        alike = [
            make_event(
                number,
                **odd,
                project_name=text,
                actor=Actor("user", text, text, text, user_agent=text, native_type=text),
                target=Target(text, text, text, text),
                message=text,
                reason=text,
                time_raw=text,
            )
            for number in range(9)
        ]
        said = {"message": "m", "reason": "r", "time_raw": "t"}
        # Of the same shape as those that agree with the mark, and of another one.
        differing = [replace(event, **said) for event in alike]
        others = [replace(event, target=Target("a", "b", "c", "d@e")) for event in differing]
        check(form, map(Page.of, (bare, [*alike, *differing], others, [*alike, *bare])))


def test_a_few_events_or_events_with_marks_are_rendered_one_by_one() -> None:
    subject = Derived(writer("raw"), SPLICED["raw"])
    subject.texts(Page.of([make_event(number) for number in range(7)]), NOW)
    assert not subject._templates
    events = [make_event(number) for number in range(8)]
    marked = subject.texts(Page.of(events), NOW._replace(marks={"test": True}))
    assert all(b'"test":true' in text for text in marked)
    assert not subject._templates
    subject.texts(Page.of(events), NOW)
    assert len(templates(subject)) == 1


def test_a_rare_shape_gets_a_template_once_it_has_been_seen_often_enough() -> None:
    subject = Derived(writer("cim"), SPLICED["cim"])
    rare = [make_event(1, reason="one")]
    page = Page.of([*[make_event(number) for number in range(10)], *rare])
    for made in (1, 1, 1, 1, 1, 1, 1, 2):
        subject.texts(page, NOW)
        assert len(templates(subject)) == made


def test_the_templates_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derived, "_MAX_SHAPES", 20)
    subject = Derived(writer("cim"), SPLICED["cim"])
    for number in range(50):
        page = Page.of([make_event(each, native_action=f"a{number}") for each in range(8)])
        subject.texts(page, NOW)
        assert 0 < len(subject._templates) <= 20


@pytest.mark.parametrize(
    "look",
    [
        lambda event: event.message[:3],
        lambda event: event.message.upper(),
        lambda event: "long" if len(event.message) > 15 else "short",
        lambda event: event.at // 1_000_000,
    ],
)
def test_a_renderer_that_looks_into_a_value_is_slow_before_it_is_wrong(
    look: Callable[[AuditEvent], object],
) -> None:
    def write(event: AuditEvent, _: RenderContext) -> bytes:
        return dump({"uid": event.uid, "found": look(event)})

    subject = Derived(write, {})
    page = Page.of([make_event(number, message=f"m{number}") for number in range(20)])
    for _ in range(2):
        assert subject.texts(page, NOW) == [write(event, NOW) for event in page]


def test_each_shape_is_rendered_a_few_times_only() -> None:
    calls: list[AuditEvent] = []

    def write(event: AuditEvent, its: RenderContext) -> bytes:
        calls.append(event)
        return writer("ecs")(event, its)

    subject = Derived(write, SPLICED["ecs"])
    page = Page.of(
        [make_event(number, verb=("update", "read")[number % 2]) for number in range(90)]
    )
    for _ in range(3):
        subject.texts(page, NOW)
    assert len(calls) == 4, "for each shape its marks, and one event to prove the template"
