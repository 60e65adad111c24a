"""Exports in a folder, and what a collector reads of them."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.support.clock import FakeClock

from auditrelay.errors import Rejected
from auditrelay.events import AuditEvent
from auditrelay.events.normalize import Normalizer, vendor_named
from auditrelay.sources import ExportFile, ExportPage, FileSource, cencori
from auditrelay.sources.cencori import files, settings
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import micros

HOUR = timedelta(hours=1)


DAY = timedelta(days=1)


MINUTE = timedelta(minutes=1)


NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


class ReadFile:
    """One file after reading: its pages, or why it was rejected."""

    def __init__(self, file: ExportFile) -> None:
        self.key, self.name = file.key, file.name
        self.pages: list[ExportPage] = []
        self.rejected: Rejected | None = None

    @property
    def records(self) -> list[bytes]:
        return [record for page in self.pages for record in page.records]

    @property
    def bad(self) -> list[tuple[int, str, bytes]]:
        return [(bad.line, bad.problem, bad.text) for page in self.pages for bad in page.bad]


def make_folder(directory: Path, **changes: Any) -> files.ExportFolder:
    given = {"type": "cencori", "mode": "files", "directory": directory, **changes}
    made = cencori.build("labs", settings.Settings.model_validate(given), Metrics(), FakeClock(NOW))
    assert isinstance(made, files.ExportFolder)
    return made


class Reader:
    """Reads a folder as the collector does: a file that was read whole is known from then on."""

    def __init__(self) -> None:
        self.known: set[bytes] = set()

    async def __call__(self, folder: FileSource, now: datetime = NOW) -> list[ReadFile]:
        found = []

        async def is_known(key: bytes) -> bool:
            return key in self.known

        async for file in folder.files(is_known, now):
            found.append(result := ReadFile(file))
            try:
                async for page in file.pages:
                    result.pages.append(page)
            except Rejected as error:
                result.rejected = error
            else:
                assert [page.last for page in result.pages][-1:] == [True]
                self.known.add(file.key)
            assert not any(page.last for page in result.pages[:-1])
            assert not any(page.covers or page.gaps for page in result.pages if not page.last)
        return found


def old(path: Path, age: float = 60) -> Path:
    """Let *path* have been written *age* seconds ago."""
    at = NOW.timestamp() - age
    os.utime(path, (at, at))
    return path


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return old(path)


def uids(read_files: list[ReadFile], scope: str = "") -> list[str]:
    return [event.uid for event in events(read_files, scope)]


def events(read_files: list[ReadFile], scope: str = "") -> list[AuditEvent]:
    normalize = Normalizer(
        vendor=vendor_named("cencori"),
        source="labs",
        api_host="h",
        scope=scope,
        redact="default",
        tags={},
        time_path=["created_at", "Timestamp"],
    )
    return [
        event
        for each in read_files
        for page in each.pages
        for event in normalize(page.records, micros(NOW))
    ]
