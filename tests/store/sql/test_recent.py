"""What a replica hands out from memory, where others append to the spool as well."""

from collections.abc import Callable
from dataclasses import replace

from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.store.progress import Progress
from auditrelay.store.sql.handover import Appended
from auditrelay.store.sql.readers import FOREVER, Reader
from auditrelay.store.sql.recent import Recent

Make = Callable[..., AuditEvent]

READER = Reader(1, Progress(0, ()), frozenset({"voice"}), FOREVER)
ALL = (1000, 1 << 30)


def page(event: Make, first: int, source: str = "voice", only: str | None = None) -> Appended:
    """Return a page of two events at *first*, whose digest says where it is."""
    events = Page.of([event(first), event(first + 1)])
    return Appended(first, source, only, events, 100, b"%d" % first)


def under_a_lease(*pages: Appended, end: int | None) -> Recent:
    """Return what is kept under a lease that has added *pages*; a pulse has shown the *end*."""
    recent = Recent().renewed()
    recent.advance("splunk", READER)
    recent.append(pages)
    if end is not None:
        recent.reaches(end)
    return recent


def read(recent: Recent, start: int) -> tuple[list[int], int, bool] | None:
    found = recent.read("splunk", start, *ALL)
    return None if found is None else ([each.first for each in found[0]], found[1], found[2])


def test_pages_that_follow_each_other_are_read_up_to_the_end(event: Make) -> None:
    recent = under_a_lease(page(event, 0), page(event, 2), end=4)
    assert read(recent, 0) == ([0, 2], 4, True)
    assert read(recent, 4) == ([], 4, True)


def test_the_database_is_asked_for_what_others_have_added(event: Make) -> None:
    recent = under_a_lease(page(event, 0), page(event, 4), end=6)
    assert read(recent, 0) == ([0], 2, False), "what is at 2 is another's"
    assert read(recent, 2) is None
    recent.reaches(8)
    assert read(recent, 4) == ([4], 6, False)
    assert read(recent, 6) is None


def test_without_a_pulse_nothing_says_that_it_is_the_end(event: Make) -> None:
    recent = under_a_lease(page(event, 0), end=None)
    assert read(recent, 0) == ([0], 2, False)
    assert read(recent, 2) is None


def test_a_page_that_may_not_be_for_the_sink_is_not_passed_over(event: Make) -> None:
    """Another replica may have given it that source since its reader was read."""
    recent = under_a_lease(page(event, 0, "chat"), page(event, 2), end=4)
    assert read(recent, 0) is None
    recent.advance("splunk", replace(READER, sources=frozenset({"voice", "chat"})))
    assert read(recent, 0) == ([0, 2], 4, True)
    recent.advance("splunk", replace(READER, ends=3))
    assert read(recent, 2) is None, "it ends before that"


def test_a_page_for_another_sink_alone_is_passed_over(event: Make) -> None:
    recent = under_a_lease(page(event, 0, only="datadog"), page(event, 2, only="splunk"), end=4)
    assert read(recent, 0) == ([2], 4, True)


def test_another_lease_is_handed_nothing_that_was_added_before(event: Make) -> None:
    """If the database has lost it, another page may have its place."""
    recent = under_a_lease(page(event, 0), end=2)
    other = recent.renewed()
    other.advance("splunk", READER)
    assert read(other, 0) is None
    assert other.find(0, b"0") is not None, "what the database names by its digest is the same"
    assert other.find(0, b"another") is None
    other.append([page(event, 2)])
    assert read(other, 2) == ([2], 4, True)
    assert read(recent, 2) == ([2], 4, True)


def test_the_database_is_asked_by_a_sink_that_has_settled_more(event: Make) -> None:
    recent = under_a_lease(page(event, 0), page(event, 2), end=4)
    recent.advance("splunk", replace(READER, progress=Progress(2, ())))
    assert read(recent, 0) is None
    assert read(recent, 2) == ([2], 4, True)


def test_what_is_handed_out_has_a_mark(event: Make) -> None:
    recent = under_a_lease(page(event, 0), end=2)
    recent.read("splunk", 0, *ALL)
    assert [mark.stored for mark in recent.marks._handed["splunk"].values()] == [b"0"]


def test_nothing_is_handed_out_after_pages_were_deleted(event: Make) -> None:
    recent = under_a_lease(page(event, 0), end=2)
    recent.restart({})
    recent.advance("splunk", READER)
    assert read(recent, 0) is None
