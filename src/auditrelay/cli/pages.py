"""Print the pages of a window, and what the walk of a poll would make of them; store nothing."""

import contextlib
import hashlib
from collections.abc import Callable
from datetime import datetime

import typer

from auditrelay.cli.times import parse_time
from auditrelay.collect.parts import WALK, can_be_cut
from auditrelay.collect.walk import MAX_WALKS_PER_WINDOW, time_range, walk
from auditrelay.errors import ConfigError, Refused, Retryable, WalkBroken, code_of
from auditrelay.events.normalize import IdentifiedPage
from auditrelay.settings import SourceSettings
from auditrelay.settings.values import format_duration
from auditrelay.sources import Page, Source
from auditrelay.telemetry.humanize import count
from auditrelay.window import EPOCH, Interval, iso, slices

Identify = Callable[[list[bytes]], IdentifiedPage]


def window_of(since: str, until: str | None, settings: SourceSettings, now: datetime) -> Interval:
    """Return the window of ``--from`` and ``--to``, which is *now* minus settle by default."""
    start = parse_time("--from", since, now)
    end = now - settings.settle if until is None else parse_time("--to", until, now)
    if start < EPOCH:
        raise ConfigError(f"--from is before 1970: {start.isoformat()}")
    if start >= end:
        hint = ""
        if until is None:
            settle = format_duration(settings.settle)
            hint = f" (without --to, the last {settle} are left out: they have not settled yet)"
        raise ConfigError(
            f"the range ends before it starts: {start.isoformat()} .. {end.isoformat()}{hint}"
        )
    return Interval(start, end)


async def print_pages(
    name: str, source: Source, window: Interval, settings: SourceSettings, identify: Identify
) -> bool:
    """
    Walk *window* in parts of ``max_window``, and print each page and how the walk of a part ended.

    Return whether every walk read its part. After a failed request the other parts are not walked.
    """
    whole = True
    for part in slices(window, settings.max_window):
        typer.echo(f"{name} from {iso(part.start)} to {iso(part.end)}")
        try:
            await _walk(source, part, identify)
        except WalkBroken as error:
            _print_failure(error)
            if can_be_cut(part):
                typer.echo("  A poll reads this part in smaller ones instead.")
            whole = False
        except (Retryable, Refused) as error:
            _print_failure(error)
            return False
    return whole


async def _walk(source: Source, part: Interval, identify: Identify) -> None:
    printer = _Printer()
    # The budget is that of a poll, which has none for a part that is too short to be cut.
    budget = WALK if can_be_cut(part) else None
    async with contextlib.aclosing(
        walk(source, part, identify, budget=budget, on_page=printer.show)
    ) as pages:
        async for _, page, outcome in pages:
            if outcome is not None:
                printer.conclude(page, complete=outcome == "complete")


def _print_failure(error: WalkBroken | Retryable | Refused) -> None:
    typer.echo(f"  {code_of(error)}: {error}")


class _Printer:
    """Prints the pages of one part of the window, as they come."""

    def __init__(self) -> None:
        self._uids: set[str] = set()
        self._walks = 1
        self._number = self._pages = 0
        self._ended = False

    def show(self, page: Page, identified: IdentifiedPage) -> None:
        """Print one line for *page*."""
        if self._ended:
            self._walks += 1
            self._number = 0
            typer.echo(
                f"  Again (walk {self._walks} of at most {MAX_WALKS_PER_WINDOW}): the pages moved, "
                "or showed fewer records than the total."
            )
        self._ended = page.last
        self._number += 1
        self._pages += 1
        before = len(self._uids)
        self._uids.update(identified.uid)
        new = len(self._uids) - before
        facts = [f"{count(len(page.records), 'record')}, {new:,} new"]
        if (times := time_range(identified)) is not None:
            facts.append(f"{iso(times[0])} .. {iso(times[1])}")
        facts.append("no total" if page.total is None else f"total {page.total:,}")
        facts.append(_next(page))
        typer.echo(f"  page {self._number}: {'; '.join(facts)}")

    def conclude(self, page: Page, *, complete: bool) -> None:
        """Print how the walk ended whose last page is *page*."""
        events = count(len(self._uids), "event")
        if complete:
            typer.echo(f"  complete: {events} on {count(self._pages, 'page')}")
        else:
            typer.echo(
                f"  total_mismatched: two walks agree, and show {events}; the vendor's total is "
                f"{page.total:,}. A poll takes the part as read, and logs a warning."
            )
        if page.partial is not None:
            typer.echo(f"  The vendor hides some events of this part: {page.partial}")
        for gap, reason in page.gaps:
            typer.echo(f"  Not shown by the vendor: {iso(gap.start)} .. {iso(gap.end)}, {reason}")


def _next(page: Page) -> str:
    """Return whether a page follows, with a digest of its cursor: equal digests, equal cursors."""
    if page.last:
        return "last page"
    if not page.cursor:
        return "more pages"
    cursor = page.cursor.encode("utf-8", "surrogatepass")
    return f"more pages, cursor {hashlib.sha256(cursor).hexdigest()[:8]}"
