"""The state of one source or sink in a word and a mark, by the findings about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from auditrelay.status.model import AnyPeer, Report, SourceStatus

Level = Literal["action_required", "recovering", "healthy", "off"]

_MARKS: Final[Mapping[Level, str]] = {
    "action_required": "▲",
    "recovering": "△",
    "healthy": "●",
    "off": "○",
}


@dataclass(frozen=True, slots=True)
class State:
    """A *level*, and a *word* for it, so that the colour is not needed to read it."""

    level: Level
    word: str

    @property
    def mark(self) -> str:
        """A shape that goes with the level."""
        return _MARKS[self.level]


def state_of(report: Report, row: AnyPeer) -> State:
    """Return how the source or sink *row* of *report* is shown."""
    levels = {
        finding.level
        for finding in report.findings
        if (finding.kind, finding.name) == (row.kind, row.name)
    }
    level: Level = "healthy"
    if levels:
        level = "action_required" if "action_required" in levels else "recovering"
    if row.orphaned:
        return State(level if levels else "off", "not configured")
    if not row.enabled:
        return State(level if levels else "off", "disabled")
    return State(level, _word(row, level))


def _word(row: AnyPeer, level: Level) -> str:
    """Return the first word that is true of *row*; the worst come first."""
    source = row if isinstance(row, SourceStatus) else None
    words = {
        "blocked, action required": row.held,
        "paused": source and source.paused_since,
        "held by no replica": row.held_by is None,
        "starting": not row.up and row.last_error is None,
        "failing": not row.up,
        "silent": source and source.silent,
        "gap": source and any(span.state == "gap" for span in source.coverage),
        "catching up": source and level == "recovering",
        "dead letters": row.dead_letters,
        "backlog": level != "healthy",
    }
    return next((word for word, true in words.items() if true), "up")
