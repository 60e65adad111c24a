"""What delivering needs of the store, all of it; ``store`` says what holds for every method."""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from auditrelay.events import AuditEvent
from auditrelay.store import DeadLetter, SpoolPage


class Spool(Protocol):
    """The events that wait for a sink, and what became of them."""

    async def read(self, sink: str, after: int, max_events: int) -> list[SpoolPage]:
        """
        Return the next pages for *sink* from position *after* on: about *max_events* events.

        There are fewer if they are large, and none if nothing waits. Events that the sink has
        acknowledged are left out.
        """

    async def event_at(self, position: int) -> AuditEvent:
        """Return the event at *position* of the spool, which some sink has yet to settle."""

    async def settle(
        self, sink: str, done: Sequence[tuple[int, int]], dead: Sequence[DeadLetter] = ()
    ) -> None:
        """
        Record that *sink* is done with the positions in each half-open range of *done*.

        Its position moves to the end of the contiguous part; ranges beyond it are remembered. On
        return the position, the ranges and the *dead* letters are durable together.
        """

    async def save_condition(
        self, peer: Literal["source", "sink"], name: str, condition: Mapping[str, object]
    ) -> None:
        """Save the *condition* of *name* (JSON values) durably, for ``status`` and a restart."""
