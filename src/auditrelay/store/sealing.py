"""What a seal is given and reports: the head, and what each source and sink had done by then."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from auditrelay.events import AuditEvent
from auditrelay.evidence.heads import Head

MakeHead = Callable[[str, int, bytes], Head]
"""Makes the head of a log, a size and a root; with a key it is signed (``heads.Keys.head``)."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """
    A seal: the new *head*, and the one *before* it, if there was one.

    It was made *at* that time (microseconds) and has added *entries*. By name, *sources* and
    *sinks* have the states that these entries end with (``docs/evidence.md``); a sink that did
    nothing has none.
    """

    head: Head
    before: Head | None
    at: int
    entries: int
    sources: Mapping[str, dict[str, Any]]
    sinks: Mapping[str, dict[str, Any]]


HeadEvent = Callable[[Sealed], AuditEvent]
"""Makes the event that carries the head of a seal to every sink."""
