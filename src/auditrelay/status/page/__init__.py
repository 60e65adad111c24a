"""
The status page: one screen that shows whether anything is wrong, since when, and what to do.

Plain HTML and SVG, complete without a script; ``static/page.js`` only fetches it again and replaces
the old one.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from msgspec import UNSET

from auditrelay.evidence.heads import Head
from auditrelay.status.model import (
    AnyPeer,
    Finding,
    FreshnessStatus,
    Report,
    SinkStatus,
    SourceStatus,
)
from auditrelay.status.page.badge import state_of
from auditrelay.status.page.diagram import flow
from auditrelay.status.page.html import Markup, definitions, tag
from auditrelay.status.page.replicas import replicas
from auditrelay.status.page.timeline import timeline
from auditrelay.telemetry import humanize

_PROVED = {
    "stored": "that it is stored",
    "taken": "that it was taken",
    "nothing": "nothing",
}
"""In words, what a success of a sink proves of an event."""


_SLOWEST: Final = 5
"""How many sources of a sink are shown with how soon their events arrive."""

_DIGITS: Final = 16
"""How many digits of the root of a head, and of a log, are shown: enough to tell them apart."""


def page(report: Report) -> str:
    """Return the page that shows *report*."""
    now = datetime.fromisoformat(report.at)
    mark = "▲ " if _urgent(report) else ""
    return "<!doctype html>\n" + tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("title", f"{mark}{headline(report)} · auditrelay"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("link", rel="icon", href="static/icon.svg", type="image/svg+xml"),
            tag("link", rel="stylesheet", href="static/page.css"),
            tag("script", src="static/page.js", defer=""),
        ),
        tag(
            "body",
            tag("a", "Skip to problems", href="#problems", class_="skip"),
            _top(report, now),
            tag("p", id="news", role="status", class_="news"),
            tag(
                "main",
                _problems(report, now),
                flow(report),
                _section("Sources", [_source(report, row, now) for row in report.sources]),
                _legend(),
                _section("Sinks", [_sink(report, row, now) for row in report.sinks]),
                None if report.replicas is UNSET else replicas(report.replicas, now),
                _evidence(report, now),
                id="main",
            ),
        ),
        lang="en",
    )


def headline(report: Report) -> str:
    """Return the one sentence that says whether anything is wrong."""
    urgent = _urgent(report)
    if not urgent:
        return "All is well." if not report.findings else "No action needed."
    if len(urgent) == 1:
        return urgent[0].what
    return f"{len(urgent)} problems need attention."


def _urgent(report: Report) -> list[Finding]:
    return [finding for finding in report.findings if finding.level == "action_required"]


def _top(report: Report, now: datetime) -> Markup:
    return tag(
        "header",
        tag("p", tag("strong", "auditrelay"), f" {report.version}", class_="name"),
        tag(
            "p",
            "as of ",
            tag("time", f"{now:%H:%M:%S} UTC", datetime=report.at, id="at"),
            " ",
            tag("a", "Reload", href="", id="reload"),
            tag("button", "Pause", type="button", id="pause", hidden=""),
            class_="as-of",
        ),
        class_="top",
    )


# -- what is wrong ---------------------------------------------------------------------------------


def _problems(report: Report, now: datetime) -> Markup:
    findings = report.findings
    urgent = len(_urgent(report))
    level = "action_required" if urgent else "healthy"
    # The urgent ones come first; if there is only one, the headline is its sentence.
    items = [
        _finding(finding, now, titled=urgent != 1 or number > 0)
        for number, finding in enumerate(findings)
    ]
    return tag(
        "section",
        tag(
            "h1",
            tag("span", "▲" if urgent else "●", class_="mark", aria_hidden="true"),
            tag("span", headline(report), id="headline"),
            class_=level,
        ),
        tag("p", _since(findings[0].since, now), class_="what action_required")
        if urgent == 1 and findings[0].since
        else None,
        tag("ol", *items, class_="findings") if findings else None,
        tag("p", _summary(report), class_="summary"),
        id="problems",
        tabindex="-1",
    )


def _summary(report: Report) -> str:
    """Return the overall state in numbers, whatever is wrong."""
    sources = [row for row in report.sources if row.enabled]
    sinks = [row for row in report.sinks if row.enabled]
    lags = [row.lag_seconds for row in sources if row.lag_seconds is not None]
    waiting = max((row.backlog_events for row in report.sinks), default=0)
    dead = sum(row.dead_letters for row in report.sinks)
    read = f"read up to {humanize.span(max(lags))} ago or later" if lags else "not read yet"
    if 0 < len(lags) < len(sources):
        read = f"({len(sources) - len(lags)} not read yet), the others {read}"
    return (
        f"{humanize.count(len(sources), 'source')} {read}. "
        f"{humanize.count(len(sinks), 'sink')}, "
        f"{humanize.count(waiting, 'event') if waiting else 'nothing'} waiting"
        f"{' for the slowest' if waiting and len(sinks) > 1 else ''}. "
        f"{humanize.count(dead, 'dead letter') if dead else 'No dead letters'}."
    )


def _finding(finding: Finding, now: datetime, *, titled: bool) -> Markup:
    urgent = finding.level == "action_required"
    return tag(
        "li",
        tag(
            "p",
            tag("span", "▲" if urgent else "△", class_="mark", aria_hidden="true"),
            tag("span", "Action required: " if urgent else "Recovering: ", class_="hidden"),
            tag("strong", finding.what),
            " ",
            _since(finding.since, now),
            class_="what",
        )
        if titled
        else None,
        tag("p", finding.effect) if finding.effect else None,
        tag("p", f"Error from {finding.name}: ", tag("q", finding.error), class_="detail")
        if finding.error
        else None,
        tag("p", tag("b", "What to do: "), finding.do, class_="do") if finding.do else None,
        tag("pre", tag("code", finding.command), tabindex="0") if finding.command else None,
        class_=finding.level,
    )


def _since(iso: str | None, now: datetime) -> Markup | None:
    if iso is None:
        return None
    at = datetime.fromisoformat(iso)
    age = humanize.span((now - at).total_seconds())
    start = tag("time", humanize.timestamp(at, now), datetime=iso)
    return tag("span", "since ", start, f" ({age})", class_="since")


# -- sources and sinks -----------------------------------------------------------------------------


def _section(title: str, articles: list[Markup]) -> Markup:
    name = title.lower()
    return tag(
        "section",
        tag("h2", title, id=name),
        *(articles or [tag("p", "There are none.")]),
        aria_labelledby=name,
    )


def _evidence(report: Report, now: datetime) -> Markup:
    """Return what there is of the newest head: compare it with what a SIEM shows."""
    evidence = report.evidence
    facts = {"newest head": "none yet: the first is sealed within 5 minutes of the start"}
    if evidence.head is not None and evidence.sealed_at is not None:
        age = (now - datetime.fromisoformat(evidence.sealed_at)).total_seconds()
        facts = {
            "newest head": f"sealed {humanize.span(max(age, 0))} ago",
            **_in_words(evidence.head),
            **{
                row.name: "has it" if row.name in evidence.taken_by else "does not have it yet"
                for row in report.sinks
                if row.enabled
            },
        }
    return tag(
        "section",
        tag("h2", "Evidence", id="evidence"),
        definitions(facts),
        aria_labelledby="evidence",
    )


def _in_words(word: str) -> dict[str, str]:
    """Return what the head *word* says; another program may have put any text into the state."""
    try:
        head = Head.parse(word)
    except ValueError:
        return {"it": "is no head: run auditrelay coverage --check"}
    return {
        "over": f"{head.size:,} entries",
        "root": f"{head.root.hex()[:_DIGITS]}\N{HORIZONTAL ELLIPSIS}",
        "log": f"{head.log[:_DIGITS]}\N{HORIZONTAL ELLIPSIS}",
    }


def _source(report: Report, row: SourceStatus, now: datetime) -> Markup:
    lag = row.lag_seconds
    facts = {
        "lag": "not read yet" if lag is None else humanize.span(lag),
        "last event": _moment(row.last_event_at, now) or "none yet",
        "last poll": _moment(row.last_poll_at, now) or "none yet",
        "not read": humanize.span(row.gap_seconds) if row.gap_seconds else "nothing",
    }
    if row.late:
        facts["found late"] = humanize.count(sum(find.events for find in row.late), "event")
    if row.unknown_actions:
        facts["unknown type"] = humanize.count(row.unknown_actions, "event")
    return _peer(report, row, now, facts={**facts, **_holder(row)}, picture=timeline(row, now))


def _sink(report: Report, row: SinkStatus, now: datetime) -> Markup:
    backlog = row.backlog_events
    facts = {
        "backlog": humanize.count(backlog, "event") if backlog else "nothing",
        "dead letters": f"{row.dead_letters:,}",
        "last delivery": _moment(row.last_delivered_at, now) or "none yet",
    }
    if backlog:
        facts["oldest waiting"] = humanize.span(row.oldest_undelivered_seconds)
    if row.freshness:
        facts["events arrive"] = _fresh(row.freshness)
    if row.linger_seconds:
        facts["waits to be sent"] = f"up to {humanize.span(row.linger_seconds)}, with others"
    if row.enabled:
        everything = len(row.sources) == sum(not each.orphaned for each in report.sources)
        facts["success proves"] = _PROVED[row.proves or "nothing"]
        facts["receives"] = "all sources" if everything else humanize.join(row.sources) or "none"
        if row.exclude:
            facts["is not sent"] = ", ".join(row.exclude)
    return _peer(report, row, now, facts={**facts, **_holder(row)}, picture=_throughput(row))


def _fresh(rows: Sequence[FreshnessStatus]) -> str:
    """Return how soon events arrive, the slowest sources first."""
    slowest = sorted(rows, key=lambda each: -each.p99_seconds)
    words = [
        f"{each.source} half within {humanize.span(each.p50_seconds)}, "
        f"99 % within {humanize.span(each.p99_seconds)}"
        for each in slowest[:_SLOWEST]
    ]
    if len(rows) > _SLOWEST:
        words.append(f"{humanize.count(len(rows) - _SLOWEST, 'source')} sooner")
    return "; ".join(words)


def _holder(row: AnyPeer) -> dict[str, str]:
    """Return which replica works for it, if there may be several."""
    if row.held_by is UNSET or not row.enabled:
        return {}
    return {"held by": row.held_by or "no replica"}


def _peer(
    report: Report, row: AnyPeer, now: datetime, *, facts: Mapping[str, str], picture: Markup
) -> Markup:
    state = state_of(report, row)
    return tag(
        "article",
        tag(
            "div",
            tag("h3", row.name),
            tag("p", row.type or "", class_="type"),
            tag(
                "p",
                tag("span", state.mark, class_="mark", aria_hidden="true"),
                tag("span", state.word, class_="word"),
                *(
                    ()
                    if state.level == "healthy" or row.up or row.held_by is None
                    else (" ", _since(row.since, now))
                ),
                class_=f"state {state.level}",
            ),
            class_="who",
        ),
        picture,
        definitions(facts),
        tag("p", _lateness(row), class_="detail")
        if isinstance(row, SourceStatus) and row.late
        else None,
        tag("p", "Last error: ", tag("q", row.last_error), class_="detail")
        if row.last_error
        else None,
        id=f"{row.kind}-{row.name}",
        class_=f"peer {state.level}",
        tabindex="-1",
        aria_label=f"{row.kind} {row.name}",
    )


def _lateness(row: SourceStatus) -> str:
    return (
        f"{row.lateness} To have caught nearly all of them at once: settle "
        f"{row.suggested_settle}, overlap {row.suggested_overlap}."
    )


def _moment(iso: str | None, now: datetime) -> str | None:
    return None if iso is None else humanize.timestamp(datetime.fromisoformat(iso), now)


def _throughput(row: SinkStatus) -> Markup:
    """Draw the events delivered in each minute of the last hour, or since the start if later."""
    counts = row.delivered_per_minute
    if not counts:
        return tag("p", "Throughput is shown while the service runs.", class_="pale")
    minutes = "the last hour" if len(counts) >= 60 else f"the last {len(counts)} min"
    events = humanize.count(sum(counts), "event")
    words = f"{events} in {minutes}, {max(counts):,} in the busiest minute"
    return tag(
        "figure",
        tag(
            "svg",
            tag("title", f"Delivered to {row.name}: {words}."),
            *_bars(counts),
            tag("line", class_="day", x1=0, x2="100%", y1=31.5, y2=31.5),
            role="img",
            width="100%",
            height=32,
        ),
        tag("figcaption", words),
        class_="throughput",
    )


def _bars(counts: Sequence[int]) -> Iterator[Markup]:
    most, step = max(counts), 100 / 60
    for number, delivered in enumerate(reversed(counts)):
        if delivered:
            height = max(1.5, 30 * delivered / most)
            yield tag(
                "rect",
                class_="volume",
                x=f"{100 - (number + 1) * step + 0.15:.2f}%",
                y=31 - height,
                width=f"{step - 0.3:.2f}%",
                height=height,
            )


def _legend() -> Markup:
    words = (
        ("covered", "read to the last page"),
        ("gap", "gap: declared, with its reason"),
        ("unread", "not read yet"),
        ("volume", "events an hour"),
        ("late", "some of it found late"),
    )
    return tag(
        "p",
        *(
            tag(
                "span",
                tag("svg", _swatch(name), width=18, height=10, aria_hidden="true"),
                f" {text}",
            )
            for name, text in words
        ),
        class_="legend",
    )


def _swatch(name: str) -> Markup:
    if name == "late":
        return tag("path", class_=name, d="M9 0.5 13.5 5 9 9.5 4.5 5Z")
    return tag("rect", class_=name, x=0.5, y=0.5, width=17, height=9)
