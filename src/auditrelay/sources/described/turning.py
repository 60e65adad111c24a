"""
Turning pages: which request is next, and whether a page was the last.

There are three ways: one page alone, pages behind cursors or addresses that the vendor gives, and
pages that are counted. What ends them is declared and never guessed; what cannot be an honest list
of pages (a cursor that repeats, a page that is announced and empty) breaks the walk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

from auditrelay.descriptions.model import Pages
from auditrelay.errors import Refused, Retryable, WalkBroken
from auditrelay.http.fields import Cursor
from auditrelay.http.paging import CursorPages, NumberedPages, OffsetPages
from auditrelay.sources.described.addresses import NextAddress, OurAddresses
from auditrelay.sources.described.questions import Question, Questions
from auditrelay.window import Interval

MAX_EMPTY: Final = 50
"""Empty pages in a row, none of them the last, after which a walk breaks."""

PAGE_REFUSED: Final = "page_refused"
"""Reason of a walk whose later page was refused, though its place is not the vendor's to expire."""

Place = Cursor | NextAddress | None
"""What leads to a page; None for the first one."""


@dataclass(slots=True)
class Answer:
    """
    One page, read: its *records*, and what it says about the next one.

    *next* is a cursor, or an address as it is written; *more*, *count* and *total* are None where
    the page does not say it. *ended* marks a reply that says that there are no records, *gone* one
    that there is no such page. *times* are those of the records, if they are needed.
    """

    records: list[bytes]
    next: Cursor | None = None
    more: bool | None = None
    count: int | None = None
    total: int | None = None
    ended: bool = False
    gone: bool = False
    times: Sequence[int | None] = ()


class Turn(NamedTuple):
    """
    What follows from a page: whether it was the *last*, or the *error* that stands behind it.

    *again*: it proves nothing, and another request comes first. *hidden*: its records were shown
    before. *shrunk* and *unreadable* are those of :class:`auditrelay.sources.Page`; *place* is
    where the next page is.
    """

    last: bool
    error: WalkBroken | Refused | None = None
    again: bool = False
    hidden: bool = False
    shrunk: bool = False
    unreadable: bool = False
    place: Place = None


class Turner(Protocol):
    """Turns the pages of one walk."""

    @property
    def is_first(self) -> bool:
        """Whether the next page is the first of its list."""

    def question(self) -> Question:
        """Return the request for the next page."""

    def failed(self, error: Retryable | WalkBroken) -> None:
        """Learn that the page failed: make it smaller or pass over it, or raise *error*."""

    def turn(self, answer: Answer) -> Turn:
        """Learn what the page has shown."""


class Rules:
    """What one feed says about its pages, and the requests for them."""

    def __init__(self, pages: Pages, questions: Questions, addresses: OurAddresses) -> None:
        self.pages = pages
        self.questions = questions
        self.addresses = addresses
        self.sign: Literal["more", "empty", "count", "total", "absent"] = "absent"
        if pages.more is not None:
            self.sign = "more"
        elif pages.until_empty:
            self.sign = "empty"
        elif pages.count is not None:
            self.sign = "count"
        elif pages.total is not None and pages.kind in ("number", "offset"):
            self.sign = "total"

    def turner(self, span: Interval, size: int, *, finely: bool, place: Place = None) -> Turner:
        """Return what turns the pages of *span* from *place* on."""
        finely = finely and self.pages.size is not None
        if self.pages.kind == "none":
            return _One(self, span, size)
        if self.pages.kind in ("cursor", "url"):
            return _Chained(self, span, size, finely=finely, place=place)
        return _Counted(self, span, size, finely=finely, place=place)

    def announces(self, answer: Answer) -> bool:
        """Return what the flag of a page says. Raises WalkBroken if it has none."""
        if answer.more is None:
            raise WalkBroken(
                f"a page does not say at {self.pages.more} whether there is another one",
                reason="flag_missing",
            )
        return answer.more

    def ceiling(self, shown: int, size: int, answer: Answer, *, last: bool) -> WalkBroken | None:
        """Return the error for a walk that reaches what the vendor shows of one query, or None."""
        most = self.pages.most
        if most is None:
            return None
        if last and (shown < most or (answer.total is not None and answer.total <= shown)):
            return None
        # A page that would cross the ceiling is refused, not cut: it is not asked for.
        if not last and shown + size <= most:
            return None
        return WalkBroken(
            f"the vendor shows at most {most:,} records of one query", reason="over_budget"
        )


class _One:
    """One page, which is all."""

    is_first = True

    def __init__(self, rules: Rules, span: Interval, size: int) -> None:
        self._rules = rules
        self._question = rules.questions.first(span, size)
        self._size = size

    def question(self) -> Question:
        return self._question

    def failed(self, error: Retryable | WalkBroken) -> None:
        raise error

    def turn(self, answer: Answer) -> Turn:
        error = self._rules.ceiling(len(answer.records), self._size, answer, last=True)
        return Turn(last=error is None, error=error)


class _Chained:
    """Pages behind cursors or addresses."""

    def __init__(
        self, rules: Rules, span: Interval, size: int, *, finely: bool, place: Place
    ) -> None:
        self._rules = rules
        self._span = span
        # The addresses that the vendor gives have the size of the first page in them.
        most = 1 if finely and rules.pages.kind == "url" else size
        self._paging = CursorPages(most, finely=finely)
        self._place = place
        self._sent: set[object] = set()
        self._before: list[bytes] = []
        """The records of the page before."""
        self._shown = self._empty = self._largest_total = 0

    @property
    def is_first(self) -> bool:
        return self._place is None

    def question(self) -> Question:
        questions, place = self._rules.questions, self._place
        if place is None:
            return questions.first(self._span, self._paging.size)
        if isinstance(place, NextAddress):
            return questions.at(place)
        return questions.behind(self._span, self._paging.size, place)

    def failed(self, error: Retryable | WalkBroken) -> None:
        self._paging.failed(error)

    def turn(self, answer: Answer) -> Turn:
        size = self._paging.size
        self._paging.read()
        self._shown += len(answer.records)
        self._empty = 0 if answer.records else self._empty + 1
        self._largest_total = max(self._largest_total, answer.total or 0)
        shrunk = answer.total is not None and answer.total < self._largest_total
        error: WalkBroken | Refused | None = None
        last = False
        try:
            last = self._follow(answer, size)
        except (WalkBroken, Refused) as problem:
            error = problem
        error = error or self._rules.ceiling(self._shown, size, answer, last=last)
        self._before = answer.records
        return Turn(last=last and error is None, error=error, shrunk=shrunk, place=self._place)

    def _follow(self, answer: Answer, size: int) -> bool:
        """Go on to the next page, or return that there is none. Raises why it cannot be reached."""
        if self._is_last(answer):
            return True
        place = self._next(answer.next)
        if place is None:
            raise WalkBroken(
                "a page announces another one without a cursor for it", reason="cursor_missing"
            )
        current, found = self._identity(self._place), self._identity(place)
        if found == current and self._shows_nothing_new(answer, size):
            return True
        self._sent.add(current)
        self._place = place
        if found in self._sent:
            raise WalkBroken(
                "a cursor came for the second time: the pages never end", reason="cursor_repeats"
            )
        if self._empty and self._rules.pages.empty == "broken":
            raise WalkBroken(
                "an empty page announces another one; if this vendor has such pages, its "
                'description needs pages.empty = "go_on"',
                reason="no_progress",
            )
        if self._empty > MAX_EMPTY:
            raise WalkBroken(
                f"{MAX_EMPTY} pages in a row are empty and announce another one",
                reason="no_progress",
            )
        return False

    def _shows_nothing_new(self, answer: Answer, size: int) -> bool:
        """
        Return whether all records of the page were on the one before, and it may be the last.

        Where a lower bound is included and the cursor is the newest time, the records of that time
        come for ever. A whole page that comes again is another thing: its cursor was ignored.
        """
        before = self._before
        is_part = len(answer.records) < len(before) or len(before) < max(size, 2)
        return is_part and set(answer.records) <= set(before)

    def _is_last(self, answer: Answer) -> bool:
        """
        Return whether the page is the last by the sign of the feed. Raises WalkBroken.

        A server may leave out a flag that is false: then the page without a cursor is the last,
        unless it was announced and is empty.
        """
        if answer.ended:
            return True
        was_announced = self._place is not None
        match self._rules.sign:
            case "more" if answer.more is not None or answer.next is not None:
                return not self._rules.announces(answer)
            case "more" if self._empty and was_announced:
                return not self._rules.announces(answer)
            case "empty" if not answer.records:
                return True
            case _:
                return answer.next is None

    def _next(self, found: Cursor | None) -> Place:
        if found is None or self._rules.pages.kind == "cursor":
            return found
        current = self._place.path if isinstance(self._place, NextAddress) else None
        return self._rules.addresses.next(str(found), current or self._rules.questions.path)

    def _identity(self, place: Place) -> object:
        if isinstance(place, NextAddress):
            return place.identity
        if place is None and self._rules.pages.kind == "url":
            return self._rules.questions.first(self._span, self._paging.size).identity
        return place


class _Counted:
    """Pages that are counted, or begin behind so many records."""

    def __init__(
        self, rules: Rules, span: Interval, size: int, *, finely: bool, place: Place
    ) -> None:
        self._rules = rules
        self._span = span
        pages = rules.pages
        self._first = pages.first if pages.first is not None else int(pages.kind == "number")
        self._start = place if isinstance(place, int) else self._first
        self._most = size
        # How many pages there are depends on their size, and where an offset is in them is unknown.
        finely = finely and (pages.kind == "number" or rules.sign != "count")
        self._numbered = NumberedPages(size, finely=finely) if pages.kind == "number" else None
        self._paging = self._numbered or OffsetPages(size, finely=finely)
        self._pages = self._shown = self._empty = self._largest_total = 0
        self._asked_again: object = None
        """The page that was asked for once more."""
        self._refusal: WalkBroken | None = None
        """Why the end of the list is being looked for: the page behind it was refused."""
        self._looked_at = 0
        """Behind how many records it was looked for last."""

    @property
    def is_first(self) -> bool:
        return self._number == self._first

    @property
    def _number(self) -> int:
        pages = self._numbered
        return self._start + (self._paging.offset if pages is None else pages.number - 1)

    def question(self) -> Question:
        number, size = self._number, self._paging.size
        if self._refusal is not None:
            number, size, _ = self._around_the_end()
        return self._rules.questions.numbered(self._span, size, number, first=number == self._first)

    def failed(self, error: Retryable | WalkBroken) -> None:
        if self._refusal is not None:
            error, self._refusal = self._refusal, None
        elif isinstance(error, WalkBroken) and error.reason == PAGE_REFUSED:
            if self._is_first_time():
                return
            if self._may_look_for_the_end():
                self._refusal, self._looked_at = error, self._shown
                return
        self._paging.failed(error)

    def turn(self, answer: Answer) -> Turn:
        if self._refusal is not None:
            return self._look_for_the_end(answer)
        if answer.gone:  # rows were deleted, and with them the announced page
            return Turn(last=True, shrunk=True, unreadable=self._is_unreadable)
        count, size = len(answer.records), self._paging.size
        try:
            last = self._is_last(answer)
        except WalkBroken as problem:
            return Turn(last=False, error=problem)
        error = None
        if not last and not count:
            if self._rules.sign == "total":
                # The vendor may count what it does not show.
                if self._is_first_time():
                    return Turn(last=False, again=True)
                last = True
            elif self._rules.pages.empty == "broken" or self._empty >= MAX_EMPTY:
                error = WalkBroken(
                    "an empty page, and more of them are announced", reason="no_progress"
                )
        elif not last and self._numbered is not None and self._numbered.is_capped(count):
            return Turn(last=False, again=True)
        shrunk = self._has_shrunk(answer)
        self._empty = 0 if count else self._empty + 1
        self._pages += 1
        self._shown += count
        if isinstance(self._paging, NumberedPages):
            self._paging.read()
        else:
            self._paging.read(count)
        error = error or self._rules.ceiling(self._shown, size, answer, last=last)
        return Turn(
            last=last and error is None,
            error=error,
            shrunk=shrunk,
            unreadable=self._is_unreadable,
            place=self._number,
        )

    @property
    def _is_unreadable(self) -> bool:
        return self._paging.passed_over > 0

    def _is_first_time(self) -> bool:
        """Return whether the page was not asked for once more yet, and is from now on."""
        page = self._number, self._paging.size
        is_first = self._asked_again != page
        self._asked_again = page
        return is_first

    def _is_last(self, answer: Answer) -> bool:
        """Return whether the page is the last by the sign of the feed. Raises WalkBroken."""
        if answer.ended:
            return True
        match self._rules.sign:
            case "more":
                return not self._rules.announces(answer)
            case "count" if answer.count is not None:
                return self._ordinal >= answer.count
            case "total" if answer.total is not None:
                shown = self._shown + len(answer.records)
                return shown + self._paging.passed_over >= answer.total
            case _:
                return not answer.records

    @property
    def _ordinal(self) -> int:
        """The number of the page, counted from 1."""
        return self._pages + 1 if self._numbered is None else self._numbered.number

    def _has_shrunk(self, answer: Answer) -> bool:
        """Return whether records were deleted: the total got smaller, or the page is beyond all."""
        self._largest_total = max(self._largest_total, answer.total or 0)
        fewer = answer.total is not None and answer.total < self._largest_total
        return fewer or (answer.count is not None and self._ordinal > max(answer.count, 1))

    def _may_look_for_the_end(self) -> bool:
        """Return whether a page that is refused may simply be behind the last record."""
        if self._rules.pages.size is None or self._is_unreadable or self._start != self._first:
            return False
        size = self._around_the_end()[1]
        return 0 < self._shown != self._looked_at and size <= self._most

    def _around_the_end(self) -> tuple[int, int, int]:
        """
        Return a page with the last record that was read, and with the place behind it.

        Its number or offset, its size, and how many records it has if none is behind that one.
        """
        if self._numbered is None:
            return self._first + self._shown - 1, 2, 1
        size = next(size for size in range(2, self._shown + 3) if self._shown % size)
        return self._first + self._shown // size, size, self._shown % size

    def _look_for_the_end(self, answer: Answer) -> Turn:
        """
        Judge a page around the last record that was read.

        If nothing is behind that record, the total counts what cannot be read, and all was read;
        else the vendor shows no more of one query, and the window is halved.
        """
        _, _, alone = self._around_the_end()
        refusal, self._refusal = self._refusal, None
        assert refusal is not None  # noqa: S101  # see turn
        if len(answer.records) == alone:
            return Turn(last=True, hidden=True)
        try:
            self._paging.failed(refusal)
        except WalkBroken as error:
            return Turn(last=False, error=error, hidden=True)
        return Turn(last=False, again=True)
