"""What the last look-up of each source has found new: storing just that needs no other one."""

from collections import Counter
from collections.abc import Sequence


class LookUps:
    """
    The uids that were found new, by source, and whether they still are.

    The reader thread looks up, and the writer thread stores; a backfill may store between the two.
    So each write of a source is counted twice, as it begins and once it is committed: if the count
    is that of before the look-up, no write was under way then, and none has begun since.
    """

    def __init__(self) -> None:
        self._writes = Counter[str]()
        self._found: dict[str, tuple[int, Sequence[str]]] = {}

    def writes(self, source: str) -> int:
        """Return the count of the writes of *source*, for :meth:`found`: call it first."""
        return self._writes[source]

    def found(self, source: str, uids: Sequence[str], writes: int) -> None:
        """Record that *uids*, each once, were found new when the count was *writes*."""
        self._found[source] = writes, uids

    def are_new(self, source: str, uids: Sequence[str]) -> bool:
        """Return whether just *uids* were found new, and nothing was written since."""
        return self._found.get(source) == (self._writes[source], uids)

    def write_begins(self, source: str) -> None:
        """Count a write of *source*, on the writer thread, before anything is written."""
        self._writes[source] += 1

    def write_committed(self, source: str) -> None:
        """Count it again, on the writer thread, once readers see it."""
        self._writes[source] += 1
