"""What a seal is given and reports: the head, and what each source and sink had done by then."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from auditrelay.events import AuditEvent
from auditrelay.evidence.facts import Body
from auditrelay.evidence.heads import Head, Keys

MUCH_PAGES: Final = 256
MUCH_FACTS: Final = 2000
"""How many pages of one source, or facts, wait before they are sealed early."""

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


@dataclass(frozen=True, slots=True)
class Branch:
    """
    The evidence goes on in *log*, from the first *size* entries of the log *before*, for *why*.

    It *is_alert* if something that a head says is missing, or was changed. *tip* is the newest
    head that had left, if that is known.
    """

    log: str
    before: str
    size: int
    why: str
    is_alert: bool
    tip: Head | None


@dataclass(frozen=True, slots=True)
class Run:
    """
    A process that serves the state: *run* is random (32 hex digits), *versions* are by name.

    *configured* says with what configuration (the fact). *key_before* is the key that the store's
    key replaces, if it does.
    """

    run: str
    versions: Mapping[str, str]
    configured: Body
    key_before: Keys | None = None


@dataclass(frozen=True, slots=True)
class EvidenceState:
    """
    The evidence so far: how many *entries*, the newest *head* as a word, and when it was *sealed*.

    *taken_by* are the sinks that have taken the newest head. *untold* is how many of the newest
    heads no sink has taken, the oldest of them sealed at *untold_since*. *broken* says what is
    missing or was changed, noticed at *broken_since*, until an operator explains it. Times are
    microseconds.
    """

    entries: int = 0
    head: str | None = None
    sealed: int | None = None
    untold: int = 0
    untold_since: int | None = None
    broken: str | None = None
    broken_since: int | None = None
    taken_by: tuple[str, ...] = ()


@dataclass(slots=True)
class Waiting:
    """
    About how much waits for a seal: *facts*, and *pages* by source (its number).

    *on_much* is called as long as it should be sealed early, so that no entry becomes long.
    """

    facts: int = 0
    pages: Counter[int] = field(default_factory=Counter)
    on_much: Callable[[], None] = lambda: None

    def check(self) -> None:
        """Call *on_much* if much waits."""
        most = max(self.pages.values(), default=0)
        if self.facts >= MUCH_FACTS or most >= MUCH_PAGES:
            self.on_much()

    def clear(self) -> None:
        """Count from the start: all of it was sealed."""
        self.facts = 0
        self.pages.clear()


HeadEvent = Callable[[Sealed], AuditEvent]
"""Makes the event that carries the head of a seal to every sink."""
