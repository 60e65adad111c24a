"""
The coverage of one source as a timeline: what was read, what is a gap, what came late.

Everything is placed by percentages and styled by classes, so that it fits any width and needs no
inline style. The same facts are in its title and in a table.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from auditrelay.status.model import CoverageSpan, LateFind, SourceStatus
from auditrelay.status.page.html import Markup, tag
from auditrelay.telemetry import humanize

DAYS = timedelta(days=7)
"""How much time the timeline spans."""

_HEIGHT = 46.0
_BAND = 12.0
_TOP = 8.0


@dataclass(frozen=True, slots=True)
class _Axis:
    """Maps a time to percent of the width."""

    start: datetime
    end: datetime

    def place(self, at: datetime) -> float:
        share = (at - self.start) / (self.end - self.start)
        return 100 * min(1.0, max(0.0, share))

    def box(self, start: datetime, end: datetime) -> tuple[float, float]:
        """Return where a span begins and how wide it is; never so narrow that it cannot be seen."""
        left, right = self.place(start), self.place(end)
        width = max(right - left, 0.25)
        return min(left, 100 - width), width


def timeline(row: SourceStatus, now: datetime) -> Markup:
    """Return the timeline of the source *row* of a report made *now*, and its table."""
    axis = _Axis(now - DAYS, now)
    spans = [span for span in row.coverage if datetime.fromisoformat(span.end) > axis.start]
    return tag(
        "figure",
        _picture(row, spans, axis),
        _table(row, spans, now),
        class_="timeline",
    )


def _picture(row: SourceStatus, spans: list[CoverageSpan], axis: _Axis) -> Markup:
    return tag(
        "svg",
        tag("title", _in_words(row, spans, axis)),
        *_days(axis),
        *_volumes(spans, axis),
        tag("rect", class_="unread", x=1, y=_y() + 1, width="100%", height=_BAND - 2),
        *_bands(spans, axis),
        *_late(row, axis),
        role="img",
        height=_HEIGHT + 16,
        width="100%",
    )


def _y() -> float:
    return _HEIGHT - _BAND


def _days(axis: _Axis) -> Iterator[Markup]:
    midnight = axis.start.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    while (midnight := midnight + timedelta(days=1)) < axis.end:
        x = f"{axis.place(midnight):.2f}%"
        yield tag("line", class_="day", x1=x, x2=x, y1=_TOP, y2=_HEIGHT + 4)
        # A label that would be cut off at the edge is left out, but not its line.
        if axis.end - midnight > timedelta(hours=18):
            yield tag("text", f"{midnight:%a} {midnight.day}", x=x, dx=4, y=_HEIGHT + 14)
    yield tag("text", "now", x="100%", y=_HEIGHT + 14, text_anchor="end")


def _volumes(spans: list[CoverageSpan], axis: _Axis) -> Iterator[Markup]:
    """Draw the events an hour of each span, relative to the busiest of them."""
    rates = [_rate(span) for span in spans]
    most = max(rates, default=0)
    for span, rate in zip(spans, rates, strict=True):
        if rate:
            height = max(1.0, (_y() - _TOP - 2) * rate / most)
            x, width = _placed(span, axis)
            yield tag("rect", class_="volume", x=x, y=_y() - 2 - height, width=width, height=height)


def _rate(span: CoverageSpan) -> float:
    start, end = _ends(span)
    return span.events / max((end - start).total_seconds() / 3600, 1 / 60)


def _bands(spans: list[CoverageSpan], axis: _Axis) -> Iterator[Markup]:
    for span in sorted(spans, key=lambda span: span.state == "gap"):
        x, width = _placed(span, axis)
        gap = span.state == "gap"
        yield tag(
            "rect",
            class_="gap" if gap else "covered",
            x=x,
            y=_y() - (5 if gap else 0),
            width=width,
            height=_BAND + (5 if gap else 0),
        )


def _late(row: SourceStatus, axis: _Axis) -> Iterator[Markup]:
    """Mark the middle of each span in which events were found late: their times are not kept."""
    for start, end in sorted({_ends(find) for find in row.late}):
        middle = axis.place(max(start, axis.start) + (end - max(start, axis.start)) / 2)
        yield tag(
            "svg",
            tag("path", d="M0 -4.5 4.5 0 0 4.5 -4.5 0Z"),
            class_="late",
            x=f"{middle:.2f}%",
            y=_TOP - 2,
        )


def _ends(span: CoverageSpan | LateFind) -> tuple[datetime, datetime]:
    return datetime.fromisoformat(span.start), datetime.fromisoformat(span.end)


def _placed(span: CoverageSpan, axis: _Axis) -> tuple[str, str]:
    left, width = axis.box(*_ends(span))
    return f"{left:.2f}%", f"{width:.2f}%"


# -- in words --------------------------------------------------------------------------------------


def _in_words(row: SourceStatus, spans: list[CoverageSpan], axis: _Axis) -> str:
    covered = [span for span in spans if span.state == "covered"]
    gaps = [span for span in spans if span.state == "gap"]
    if not covered and not gaps:
        return f"{row.name}: nothing of the last 7 days has been read yet."
    events = sum(span.events for span in covered)
    last = row.last_fetched_timestamp
    words = [f"{row.name}, the last 7 days: {humanize.count(events, 'event')} read"]
    if last is not None:
        words[0] += f", checkpoint {humanize.timestamp(_at(last), axis.end)}"
    words.append("no gap" if not gaps else humanize.count(len(gaps), "gap"))
    late = sum(find.events for find in row.late)
    if late:
        words.append(f"{humanize.count(late, 'event')} found late")
    return "; ".join(words) + "."


def _at(iso: str) -> datetime:
    return datetime.fromisoformat(iso)


def _table(row: SourceStatus, spans: list[CoverageSpan], now: datetime) -> Markup:
    entries: list[CoverageSpan | LateFind] = [*spans, *row.late]
    rows = [
        tag(
            "tr",
            tag("td", humanize.timestamp(_at(span.start), now)),
            tag("td", humanize.timestamp(_at(span.end), now)),
            tag("td", _state(span)),
            tag("td", f"{span.events:,}", class_="number"),
        )
        for span in sorted(entries, key=lambda span: _at(span.start), reverse=True)
    ]
    if not rows:
        return Markup()
    head = tag("tr", *(tag("th", word, scope="col") for word in ("from", "to", "what", "events")))
    return tag(
        "details",
        tag("summary", "as a table"),
        tag("div", tag("table", tag("thead", head), tag("tbody", *rows)), class_="scroll"),
        id=f"table-{row.name}",
    )


def _state(entry: CoverageSpan | LateFind) -> str:
    if isinstance(entry, LateFind):
        return f"found late ({entry.via})"
    if entry.state == "gap":
        return tag("strong", f"gap: {str(entry.reason).replace('_', ' ')}")
    return "read"
