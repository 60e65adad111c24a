"""
How late a source's events came, in a sentence, and the settings that would have caught them. Pure.

An event counts as late if its span had been read before the source showed it. How late it was has
only an upper bound: the source showed it at some time before it was found. So the suggestions are
on the safe side.
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
    """How late a source is: a *sentence* for people, and suggested *settle* and *overlap*."""

    sentence: str
    settle: timedelta
    overlap: timedelta


def assess(
    total: int, late: Sequence[Lateness], *, settle: timedelta, overlap: timedelta
) -> Assessment | None:
    """
    Assess a source by the *late* ones of *total* events; None before there is any event.

    *settle* and *overlap* are the configured values; lower ones are never suggested.
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
            f"; {count:,} came later, {_rounded_up(oldest)} at the most, and were found ({found})"
        )
    return Assessment(
        f"{sentence}.",
        max(settle, _wait_for(IN_TIME, total, late)),
        max(overlap, _wait_for(CAUGHT, total, late)),
    )


def _wait_for(share: float, total: int, late: Sequence[Lateness]) -> timedelta:
    """Return how long to wait until the source has shown that *share* of *total* events."""
    spare = total * (1 - share)
    wait = 0
    for each in sorted(late, key=lambda each: each.seconds, reverse=True):
        spare -= each.events
        if spare < 0:
            wait = each.seconds
            break
    # Rounded up by a tenth at most, to what a person would write: 37h instead of 131072s.
    size = next((size for size in (3_600, 60) if wait >= 10 * size), 1)
    return timedelta(seconds=-(-wait // size) * size)


def _percent(share: float) -> str:
    if share in (0, 1):
        return f"{share:.0%}"
    # Never rounded up to 100 %: one event in a million must show.
    return f"{int(share * 10**7) / 10**5:.5f}".rstrip("0").rstrip(".") + " %"


def _rounded_up(seconds: int) -> str:
    """Return *seconds*, rounded up to a unit, as ``settle`` and ``overlap`` are written."""
    for size in (86_400, 3_600, 60):
        if seconds >= size:
            return format_duration(timedelta(seconds=-(-seconds // size) * size))
    return f"{seconds}s"
