"""
Read the export files of a source, each file once, deduplicated by a digest of its content.

A file that cannot be read as an export is rejected, and shown in ``status`` until it is removed; a
row that is no record becomes a dead letter.
"""

import contextlib
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, NoReturn

import structlog

from auditrelay.clock import Clock
from auditrelay.collect import long
from auditrelay.collect.checkpoint import Checkpoint
from auditrelay.collect.health import SourceHealth
from auditrelay.collect.ledger import FileStore
from auditrelay.collect.page_writer import PageWriter
from auditrelay.collect.polls import Polls
from auditrelay.errors import ConfigError, PeerBug, Rejected
from auditrelay.events.normalize import Normalizer
from auditrelay.settings import SourceSettings
from auditrelay.sources import ExportFile, ExportPage, FileSource
from auditrelay.store import DeadLetter, KnownFile, Proof
from auditrelay.store.conditions import SourceCondition
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrub

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class FileCollector:
    """
    Polls one source that reads files: every poll reads each new file of its directory.

    *announce* is called after new events were spooled. *patience* is how long a poll waits for room
    in the spool until it fails; None: without limit.
    """

    def __init__(
        self,
        name: str,
        settings: SourceSettings,
        source: FileSource,
        *,
        normalizer: Normalizer,
        store: FileStore,
        metrics: Metrics,
        clock: Clock,
        announce: Callable[[], None],
        patience: timedelta | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self._source = source
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._health = SourceHealth(name, settings, store=store, metrics=metrics, clock=clock)
        self.condition = self._health.condition
        """Health of the source, as ``status`` shows it."""
        self._checkpoint = Checkpoint(
            name, lookback=settings.initial_lookback, store=store, metrics=metrics, clock=clock
        )
        self._writer = PageWriter(
            name,
            settings,
            normalizer=normalizer,
            scope=source.scope,
            store=store,
            metrics=metrics,
            clock=clock,
            announce=announce,
            patience=patience,
            checkpoint=self._checkpoint,
            health=self._health,
        )
        self.polls = Polls(
            name,
            settings.poll_interval,
            writer=self._writer,
            checkpoint=self._checkpoint,
            health=self._health,
            clock=clock,
        )
        self._rejected: dict[bytes, str] = {}
        """Why the last poll rejected files, by the digests of their contents."""

    @property
    def worked_once(self) -> bool:
        """Whether a poll has succeeded since the start."""
        return self.polls.worked_once

    @property
    def worked_at(self) -> float | None:
        """When the current poll last made progress (monotonic); None while none runs."""
        return self._writer.worked_at

    def for_range(self, instead: str) -> NoReturn:
        """Raise ConfigError: files have no range."""
        raise ConfigError(f"{self.name} reads files and cannot be asked for a range: {instead}")

    def restore(self, saved: SourceCondition) -> None:
        """Restore what is still true of *saved*, the condition that the last process left."""
        self._health.restore(saved)

    def measure(self) -> None:
        """Update the lag metric."""
        self._checkpoint.measure()

    def loops(self) -> Sequence[Callable[[], Coroutine[Any, Any, None]]]:
        """Return what polls until it is cancelled."""
        return (partial(self.polls.keep_polling, self.poll),)

    async def poll(self) -> None:
        """
        Read every file that is complete and was not read before.

        Raises Refused if the directory cannot be read, StoreFull, and PeerBug once the other files
        are read; what was read until then stays in the store.
        """
        async with self.polls.track():
            await self._checkpoint.refresh()
            await self._read_new()

    async def close(self) -> None:
        """Release what the source has open."""
        await self._source.close()

    async def _read_new(self) -> None:
        rejected: dict[bytes, str] = {}
        bug: PeerBug | None = None

        async def known(key: bytes) -> bool:
            return await self._store.is_file_known(self.name, key)

        now = self._clock.confirmed.certain(self.name)
        async with contextlib.aclosing(self._source.files(known, now)) as files:
            async for file in files:
                try:
                    await self._read_file(file)
                except PeerBug as error:
                    bug = error
                except Rejected as error:
                    rejected[file.key] = scrub(str(error))
                    if file.key not in self._rejected:
                        _log.error(
                            "file_rejected",
                            source=self.name,
                            file=file.name,
                            reason=rejected[file.key],
                        )
        self._rejected = rejected
        self._health.rejected_files = rejected.values()
        if bug is not None:
            raise bug

    async def _read_file(self, file: ExportFile) -> None:
        rows = new = bad = ambiguous = 0
        changed = self._writer.compare()
        async with contextlib.aclosing(file.pages) as pages:
            async for page in pages:
                proof = None
                rows += len(page.records)
                bad += len(page.bad)
                if page.last:
                    if not rows + bad:
                        await self._check_emptiness(file, page)
                    known = KnownFile(file.key, file.name)
                    proof = Proof(covers=page.covers, gaps=page.gaps, file=known)
                added = await self._writer.add_new(
                    await long.read(page.records, self._writer.identify, page.records),
                    f"export {file.name} of user {file.owner}",
                    proof,
                    self._bad_rows(file, page),
                    changed=changed,
                )
                new += len(added.new)
                ambiguous += len(added.late)
                self._writer.record_progress()
        # A new event in a span that was read before is late, or known under another uid: an export
        # without ids does not show which.
        self._metrics.events_ambiguous.labels(self.name).inc(ambiguous)
        _log.info(
            "file_collected",
            source=self.name,
            file=file.name,
            events=rows,
            new=new,
            bad=bad,
            ambiguous=ambiguous,
        )

    async def _check_emptiness(self, file: ExportFile, page: ExportPage) -> None:
        """Raise Rejected if events are known of the time in which, by *file*, nothing happened."""
        for span in page.covers:
            count, _ = await self._store.count_forwarded(self.name, span)
            if count:
                raise Rejected(
                    f"{file.name}: it has no rows, and {count:,} events are known of the time that "
                    "it covers by its name: it is not that export",
                    reason="contradicts_known",
                )

    def _bad_rows(self, file: ExportFile, page: ExportPage) -> list[DeadLetter]:
        now = self._clock.now()
        letters = []
        for row in page.bad:
            [event] = self._writer.identify([row.text]).page()
            message = f"{file.name}, line {row.line}: {row.problem}"
            letters.append(DeadLetter(event, "bad_row", scrub(message), None, 1, now, now))
            _log.error(
                "row_dead_lettered",
                source=self.name,
                file=file.name,
                line=row.line,
                reason=row.problem,
            )
        return letters
