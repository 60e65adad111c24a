"""What delivering needs of the store, all of it; ``store`` says what holds for every method."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Literal, Protocol

from auditrelay.store import NOTHING_EXCLUDED, Reached, RejectedEvent, SpoolPage
from auditrelay.store.conditions import Condition
from auditrelay.store.progress import Range
from auditrelay.store.seals import Seal, Seals


class Spool(Protocol):
    """The events that wait for a sink, and what became of them."""

    async def read(
        self, sink: str, reached: Reached | None, most: int
    ) -> tuple[list[SpoolPage], Reached]:
        """
        Return the next pages for *sink* and how far that has read: about *most* events.

        *reached* is what the read before returned; None starts where the sink has everything.
        There are fewer events if they are large, and no page if nothing waits, or if what waits is
        too far ahead of the other parts of the sink: what was reached is not the end then. Events
        that the sink has settled are left out.
        """

    async def reread(self, sink: str, places: Range, most: int) -> list[SpoolPage]:
        """Return what *sink* has yet to settle of *places*, from their start: as ``read`` does."""

    async def settle(
        self,
        sink: str,
        done: Sequence[Range],
        dead: Sequence[RejectedEvent] = (),
        excluded: Mapping[str, Sequence[Range]] = NOTHING_EXCLUDED,
    ) -> AbstractSet[int]:
        """
        Record that *sink* is done with the places in each half-open range of *done*.

        Its position moves to the end of the contiguous part; ranges beyond it are remembered. What
        lies between two ranges and is not for this sink is done as well. On return the position,
        the ranges and the letters of the *dead* are durable together; a letter has a copy of its
        event, unless that was removed from the spool with its source.

        With a letter that is new comes the reduced copy of its event, if one is asked for: an event
        at the end of the spool, for *sink* alone, even if the spool is full. Returns the places of
        the *dead* that have one. There is none of an event that is a reduced copy itself.

        It is also done with what is *excluded*, by the glob that excludes it: that was not sent,
        and the evidence says so.
        """

    async def batch_seals(self, sink: str) -> Seals:
        """Return the seals of *sink* that it has yet to settle some of."""

    async def seal_batches(self, sink: str, new: Sequence[Seal]) -> Seals:
        """
        Record durably that *sink* is sent the places of each seal in *new* as that one says.

        No other seal holds for them any more. Returns all that :meth:`batch_seals` would now.
        """

    async def save_condition(
        self, peer: Literal["source", "sink"], name: str, condition: Condition
    ) -> None:
        """Save the *condition* of *name* durably, for ``status`` and a restart."""
