"""What a service needs of the collector of any source, whether it is asked or reads files."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from auditrelay.collect.collector import Collector
from auditrelay.collect.polls import Polls
from auditrelay.settings import SourceSettings
from auditrelay.store.conditions import SourceCondition


class SourceLoop(Protocol):
    """The collector of one source."""

    name: str
    settings: SourceSettings
    condition: SourceCondition
    """Health of the source, as ``status`` shows it."""
    polls: Polls

    @property
    def worked_once(self) -> bool:
        """Whether a poll has succeeded since the start."""

    @property
    def worked_at(self) -> float | None:
        """When what is stuck the longest last made progress (monotonic); None: nothing runs."""

    def restore(self, saved: SourceCondition) -> None:
        """Restore what is still true of *saved*, the condition that the last process left."""

    def for_range(self, instead: str) -> Collector:
        """
        Return the collector of a source that can be asked for a range.

        Raises ConfigError for one that reads files, and says what to do *instead*.
        """

    def loops(self) -> Sequence[Callable[[], Coroutine[Any, Any, None]]]:
        """Return what has to run at the same time, each until it is cancelled."""

    async def poll(self) -> None:
        """
        Read what is new once.

        Raises RelayError if the source or the store fails; what was read until then stays in the
        store.
        """

    def measure(self) -> None:
        """Update the metrics that change as time passes."""

    async def close(self) -> None:
        """Release what the source has open."""
