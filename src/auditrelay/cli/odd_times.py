"""What ``check`` and ``sample`` say of records whose time cannot be read, or cannot be right."""

from collections.abc import Iterable

from auditrelay.events import AuditEvent
from auditrelay.events.marks import IMPLAUSIBLE_TIME, NO_TIME
from auditrelay.telemetry import humanize
from auditrelay.telemetry.scrubber import scrub


def odd_times(events: Iterable[AuditEvent]) -> str | None:
    """Return how many of *events* have such a time, and the first one; None if none has."""
    odd = [event for event in events if {NO_TIME, IMPLAUSIBLE_TIME}.intersection(event.warnings)]
    if not odd:
        return None
    return (
        f"warning: the time of {humanize.count(len(odd), 'record')} cannot be read, or is far off, "
        f"such as {scrub(odd[0].time_raw or 'none', 60)!r}"
    )
