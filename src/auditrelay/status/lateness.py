"""
How late a source's events came, in a sentence, and what settings would have caught them. Pure.

An event counts as late if its span had been read before it was shown. How late it was is known
only from above: it was shown at some time before it was found. So the suggestions are on the safe
side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from auditrelay.settings.values import format_duration
from auditrelay.store import Lateness

IN_TIME = 0.999
"""The share of events that a suggested ``settle`` would have waited for."""

CAUGHT = 0.99999
"""The share of events that a suggested ``overlap`` would have caught."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """What lateness means for a source: a *sentence* for people, and *settle* and *overlap*."""

    sentence: str
    settle: timedelta
    overlap: timedelta


def assess(
    total: int, late: Sequence[Lateness], *, settle: timedelta, overlap: timedelta
) -> Assessment | None:
    """
    Return what the *late* ones among *total* events say; None before there is any event.

    *settle* and *overlap* are what is configured; they are never suggested to be less.
    """
    if not total:
        return None
    count = sum(each.events for each in late)
    share = _percent(1 - count / total)
    sentence = f"{share} of {total:,} events were there when their time was first read"
    if count:
        found = ", ".join(
            f"{via} {sum(each.events for each in late if each.via == via):,}"
            for via in dict.fromkeys(each.via for each in late)
        )
        oldest = max(each.seconds for each in late)
        sentence += (
            f"; {count:,} came later, {_spell(oldest)} at the most, and were found ({found})"
        )
    return Assessment(
        f"{sentence}.",
        max(settle, _reach(total, late, IN_TIME)),
        max(overlap, _reach(total, late, CAUGHT)),
    )


def _reach(total: int, late: Sequence[Lateness], share: float) -> timedelta:
    """Return how long one has to wait until that *share* of events has been shown."""
    spare = total * (1 - share)
    reach = 0
    for each in sorted(late, key=lambda each: each.seconds, reverse=True):
        spare -= each.events
        if spare < 0:
            reach = each.seconds
            break
    return timedelta(seconds=reach)


def _percent(share: float) -> str:
    if share in (0, 1):
        return f"{share:.0%}"
    # Never rounded to a hundred: one in a million is the point.
    return f"{int(share * 10**7) / 10**5:.5f}".rstrip("0").rstrip(".") + " %"


def _spell(seconds: int) -> str:
    """Return *seconds*, rounded up to a unit, as ``settle`` and ``overlap`` are written."""
    for size in (86_400, 3_600, 60):
        if seconds >= size:
            return format_duration(timedelta(seconds=-(-seconds // size) * size))
    return f"{seconds}s"
