"""
The data flow as a diagram: sources on the left, the spool in the middle, sinks on the right.

Names and numbers are text, so that they can be read, selected and focused on any screen; only the
lines between them are drawn.
"""

from collections.abc import Sequence
from typing import Final

from auditrelay.status.model import AnyPeer, Report
from auditrelay.status.page.badge import State, state_of
from auditrelay.status.page.html import Markup, tag
from auditrelay.telemetry import humanize

MOST: Final = 10
"""Most nodes drawn on a side; those with problems are drawn first."""

_RANK: Final = {"action_required": 0, "recovering": 1, "healthy": 2, "off": 3}


def flow(report: Report) -> Markup:
    """Return the diagram of *report*."""
    sources, more_sources = _chosen(report, report.sources)
    sinks, more_sinks = _chosen(report, report.sinks)
    spool = report.spool
    share = min(1.0, spool.share)
    backlog = max((row.backlog_events for row in report.sinks), default=0)
    problem = any(finding.kind == "spool" for finding in report.findings)
    return tag(
        "figure",
        _side("source", sources, more_sources),
        _lines([state for _, state in sources], more_sources, to_the_right=True),
        tag(
            "div",
            tag("strong", "spool"),
            tag("span", f"{humanize.count(backlog, 'event')} waiting", class_="number"),
            tag(
                "svg",
                tag("rect", class_="empty", width="100%", height=6),
                tag("rect", class_="filled", width=f"{100 * share:.1f}%", height=6),
                width="100%",
                height=6,
                aria_hidden="true",
            ),
            tag(
                "span",
                f"{humanize.size(spool.bytes)} of {humanize.size(spool.max_bytes)}",
                class_="number",
            ),
            class_=f"node spool {'action_required' if problem else 'healthy'}",
        ),
        _lines([state for _, state in sinks], more_sinks, to_the_right=False),
        _side("sink", sinks, more_sinks),
        class_="flow",
        aria_label="The flow: sources to the spool, the spool to the sinks",
    )


_Chosen = Sequence[tuple[AnyPeer, State]]


def _chosen(report: Report, rows: Sequence[AnyPeer]) -> tuple[_Chosen, int]:
    """Return which nodes of a side are drawn, in their order, and how many more there are."""
    every = [(row, state_of(report, row)) for row in rows]
    if len(every) <= MOST:
        return every, 0
    kept = sorted(every, key=lambda pair: _RANK[pair[1].level])[: MOST - 1]
    return [pair for pair in every if pair in kept], len(every) - len(kept)


def _side(kind: str, chosen: _Chosen, more: int) -> Markup:
    nodes = [
        tag(
            "li",
            tag(
                "a",
                tag("strong", row.name),
                tag("span", state.mark, class_="mark", aria_hidden="true"),
                tag("span", state.word, class_="word"),
                href=f"#{kind}-{row.name}",
                id=f"to-{kind}-{row.name}",
            ),
            class_=f"node {state.level}",
        )
        for row, state in chosen
    ]
    if more:
        nodes.append(tag("li", tag("span", f"and {more:,} more"), class_="node off"))
    return tag("ul", *nodes, class_=kind, aria_label=f"{kind}s")


def _lines(states: list[State], more: int, *, to_the_right: bool) -> Markup:
    """Draw a line for each node of a side, to or from the middle of the spool."""
    levels = [state.level for state in states] + ["off"] * bool(more)
    middle = 50 * len(levels)
    paths = []
    for number, level in enumerate(levels):
        y = 100 * number + 50
        path = f"M0 {y}C50 {y} 50 {middle} 100 {middle}"
        if not to_the_right:
            path = f"M0 {middle}C50 {middle} 50 {y} 100 {y}"
        paths.append(
            tag("path", d=path, class_=f"line {level}", vector_effect="non-scaling-stroke")
        )
    drawing = tag(
        "svg",
        *paths,
        viewBox=f"0 0 100 {max(100, 100 * len(levels))}",
        preserveAspectRatio="none",
        aria_hidden="true",
    )
    return tag("div", drawing, class_="lines")
