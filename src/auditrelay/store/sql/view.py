"""Read-only access to the state for commands, while the service runs or not."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Self, TypeVar

from auditrelay.errors import StateError
from auditrelay.evidence.heads import Head
from auditrelay.store import Coverage, SinkState, SourceState, StoredDeadLetter
from auditrelay.store.sealing import EvidenceState
from auditrelay.store.sql import dead_letters, meta
from auditrelay.store.sql.check_report import FAULTS, Checked
from auditrelay.store.sql.checks import check
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.evidence import state_of
from auditrelay.store.sql.given_heads import with_heads
from auditrelay.store.sql.states import coverage_of, sink_states, source_states

T = TypeVar("T")


class StateView:
    """
    A read-only view of the state, while the service runs or not.

    *snapshot* begins to read one snapshot of the state, *close* releases what that needs. If it has
    keys, a check compares the tags, too. Raises StateError if the state cannot be read.
    """

    def __init__(
        self,
        snapshot: Callable[[], AbstractContextManager[Connection]],
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._snapshot = snapshot
        self._close = close

    def __enter__(self) -> Self:
        """Use it as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release what it needs."""
        self._close()

    def sources(self) -> list[SourceState]:
        """Return the state of every known source."""
        return self._get(source_states)

    def sinks(self) -> list[SinkState]:
        """Return the state of every known sink."""
        return self._get(sink_states)

    def spool_bytes(self) -> int:
        """Return the size of the spool, compressed."""
        return self._get(lambda db: meta.read(db, "spool_bytes"))

    def evidence(self) -> EvidenceState:
        """Return what there is of the evidence, and whether it has left."""
        return self._get(state_of)

    def dead_letters(
        self,
        *,
        sinks: Sequence[str] = (),
        sources: Sequence[str] = (),
        reasons: Sequence[str] = (),
        ids: Sequence[int] = (),
    ) -> list[StoredDeadLetter]:
        """Return the dead letters that match every filter given, oldest first."""
        return self._get(
            lambda db: dead_letters.find(db, sinks=sinks, sources=sources, reasons=reasons, ids=ids)
        )

    def coverage(self, source: str) -> Coverage | None:
        """Return the coverage of *source* with its facts; None if the source is not known."""
        return self._get(lambda db: coverage_of(db, source))

    def read(self, rows: Callable[[Connection], Iterable[T]]) -> list[T]:
        """Return all *rows* of the evidence, as ``store.sql.evidence`` reads them."""
        return self._get(lambda db: list(rows(db)))

    def in_snapshot(self, work: Callable[[Connection], T]) -> T:
        """
        Return what *work* makes of one snapshot of the evidence, whatever is written meanwhile.

        Raises StateError also if the evidence is not as it was written.
        """

        def within(db: Connection) -> T:
            try:
                return work(db)
            except FAULTS as error:
                raise StateError(
                    f"the evidence is not as it was written ({error}); run: auditrelay coverage "
                    "--check"
                ) from error

        return self._get(within)

    def check(self, given: Sequence[tuple[str, Head]] = ()) -> Checked:
        """
        Compare the evidence with itself, the state and the heads *given*, each with its origin.

        It takes a second for a million uids.
        """
        checked = self._get(check)
        if not given:
            return checked
        return self.in_snapshot(lambda db: with_heads(db, checked, given))

    def _get(self, work: Callable[[Connection], T]) -> T:
        with self._snapshot() as db:
            return work(db)
