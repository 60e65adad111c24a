"""How one source or sink is shown in a word and a mark: by what was found wrong with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Level = Literal["act", "wait", "well", "off"]

_MARKS: Final[Mapping[Level, str]] = {"act": "▲", "wait": "△", "well": "●", "off": "○"}


@dataclass(frozen=True, slots=True)
class State:
    """A *level*, and a *word* for it, so that nobody depends on the colour."""

    level: Level
    word: str

    @property
    def mark(self) -> str:
        """A shape that goes with the level."""
        return _MARKS[self.level]


def state_of(report: Mapping[str, Any], kind: str, row: Mapping[str, Any]) -> State:
    """Return how the source or sink *row* of *report* is shown."""
    levels = {
        finding["level"]
        for finding in report["findings"]
        if (finding["kind"], finding["name"]) == (kind, row["name"])
    }
    level: Level = "act" if "act" in levels else "wait" if "wait" in levels else "well"
    if row.get("leftover"):
        return State(level if levels else "off", "not configured")
    if not row["enabled"]:
        return State(level if levels else "off", "disabled")
    return State(level, _word(row, level))


def _word(row: Mapping[str, Any], level: Level) -> str:
    """Return the first word that is true of *row*; the worse come first."""
    words = {
        "held": row["held"],
        "paused": row.get("paused_since"),
        "starting": not row["up"] and row["last_error"] is None,
        "failing": not row["up"],
        "silent": row.get("silent"),
        "gap": any(span["state"] == "gap" for span in row.get("coverage", ())),
        "catching up": level == "wait" and "lag_seconds" in row,
        "dead letters": row.get("dead_letters"),
        "backlog": level != "well",
    }
    return next((word for word, true in words.items() if true), "up")
