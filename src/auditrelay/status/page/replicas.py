"""The replicas on a shared store, as the page shows them: who is alive, and who has what."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from auditrelay.status.model import ReplicaStatus
from auditrelay.status.page.html import Markup, definitions, tag
from auditrelay.store.leases import KEEPER
from auditrelay.telemetry import humanize

_STATES: Final[Mapping[str, tuple[str, str]]] = {
    "alive": ("healthy", "●"),
    "stuck": ("action_required", "▲"),
    "dead": ("recovering", "△"),
}
"""By word the level and the mark."""


def replicas(rows: tuple[ReplicaStatus, ...], now: datetime) -> Markup:
    """Return the section about the replicas *rows*."""
    return tag(
        "section",
        tag("h2", "Replicas", id="replicas"),
        *([_replica(row, now) for row in rows] or [tag("p", "There are none.")]),
        aria_labelledby="replicas",
    )


def _replica(row: ReplicaStatus, now: datetime) -> Markup:
    word = "dead" if not row.alive else "stuck" if row.stuck else "alive"
    level, mark = _STATES[word]
    about = {
        "holds" if row.alive else "held": _holds(row.units),
        "since": humanize.timestamp(datetime.fromisoformat(row.since), now),
    }
    if row.stuck:
        about["stuck"] = humanize.join(list(row.stuck))
    return tag(
        "article",
        tag(
            "div",
            tag("h3", row.name),
            tag("p", row.version, class_="type"),
            tag(
                "p",
                tag("span", mark, class_="mark", aria_hidden="true"),
                tag("span", word, class_="word"),
                class_=f"state {level}",
            ),
            class_="who",
        ),
        definitions(about),
        *(
            tag("p", f"Cannot serve {unit.partition(' ')[2]}: {why}.", class_="detail")
            for unit, why in row.unable.items()
        ),
        class_=f"peer replica {level}",
        aria_label=f"replica {row.name}",
    )


def _holds(units: tuple[str, ...]) -> str:
    """Return *units* in words, by kind."""
    names: dict[str, list[str]] = {"source": [], "sink": []}
    for unit in units:
        kind, _, name = unit.partition(" ")
        if kind in names:
            names[kind].append(name)
    words = [
        f"the {kind}{'s' if len(each) > 1 else ''} {humanize.join(each)}"
        for kind, each in names.items()
        if each
    ]
    return "; ".join([*words, *(["the keeper"] if KEEPER in units else [])]) or "nothing"
