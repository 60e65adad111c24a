"""
Read the export files of a source, each file once, deduplicated by a digest of its content.

A file that cannot be read as an export is rejected, and shown in ``status`` until it is removed; a
row that is no record becomes a dead letter.
"""

import contextlib

import structlog

from auditrelay.clock import Clock
from auditrelay.collect.health import SourceHealth
from auditrelay.collect.ledger import Ledger
from auditrelay.collect.reader import WindowReader
from auditrelay.errors import Rejected
from auditrelay.sources import ExportFile, ExportPage, FileSource
from auditrelay.store import DeadLetter, KnownFile, Proof
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrub

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class FileReader:
    """
    Reads the files that the source *name* finds in its directory.

    *reader* stores their events; *health* gets the rejected files.
    """

    def __init__(
        self,
        name: str,
        source: FileSource,
        *,
        reader: WindowReader,
        health: SourceHealth,
        store: Ledger,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._name = name
        self._source = source
        self._reader = reader
        self._health = health
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._rejected: dict[bytes, str] = {}
        """Why the last poll rejected files, by the digests of their contents."""

    async def read(self) -> None:
        """
        Read every file that is complete and was not read before.

        Raises Refused if the directory cannot be read, and StoreFull; what was read until then
        stays in the store.
        """
        rejected: dict[bytes, str] = {}

        async def known(key: bytes) -> bool:
            return await self._store.is_file_known(self._name, key)

        async with contextlib.aclosing(self._source.files(known, self._clock.now())) as files:
            async for file in files:
                try:
                    await self._read_file(file)
                except Rejected as error:
                    rejected[file.key] = scrub(str(error))
                    if file.key not in self._rejected:
                        _log.error(
                            "file_rejected",
                            source=self._name,
                            file=file.name,
                            reason=rejected[file.key],
                        )
        self._rejected = rejected
        self._health.rejected_files = rejected.values()

    async def _read_file(self, file: ExportFile) -> None:
        rows = new = bad = ambiguous = 0
        async with contextlib.aclosing(file.pages) as pages:
            async for page in pages:
                proof = None
                if page.last:
                    known = KnownFile(file.key, file.name)
                    proof = Proof(covers=page.covers, gaps=page.gaps, file=known)
                added = await self._reader.add(
                    self._reader.normalize(page.records),
                    f"export {file.name}",
                    proof,
                    self._bad_rows(file, page),
                )
                rows += len(page.records)
                new += len(added.new)
                bad += len(page.bad)
                ambiguous += len(added.late)
                self._reader.worked_at = self._clock.monotonic()
        # A new event in a span that was read before is late, or known under another uid: an export
        # without ids does not show which.
        self._metrics.events_ambiguous.labels(self._name).inc(ambiguous)
        _log.info(
            "file_collected",
            source=self._name,
            file=file.name,
            events=rows,
            new=new,
            bad=bad,
            ambiguous=ambiguous,
        )

    def _bad_rows(self, file: ExportFile, page: ExportPage) -> list[DeadLetter]:
        now = self._clock.now()
        letters = []
        for row in page.bad:
            (event,) = self._reader.normalize([row.text])
            message = f"{file.name}, line {row.line}: {row.problem}"
            letters.append(DeadLetter(event, "bad_row", scrub(message), None, 1, now, now))
            _log.error(
                "row_dead_lettered",
                source=self._name,
                file=file.name,
                line=row.line,
                reason=row.problem,
            )
        return letters
