"""Which files of a folder are complete, and how each is opened."""

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.sources.cencori.exports import DAY, HOUR, MINUTE, NOW, Reader, old, write

from auditrelay.errors import Rejected
from auditrelay.sandbox.vendors.cencori import Cencori
from auditrelay.sources import FileSource
from auditrelay.sources.cencori import files


async def test_a_file_that_is_being_written_waits_until_it_is_quiet(
    exporter: Cencori, folder: FileSource, read: Reader, tmp_path: Path
) -> None:
    exporter.fill(5, NOW - DAY, NOW - HOUR)
    path = exporter.drop(tmp_path, "csv", age=0)
    whole = path.read_bytes()
    for length in (0, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        old(path, 0)
        assert await read(folder) == []
    path.write_bytes(whole)
    old(path, 0)
    assert await read(folder, NOW + timedelta(seconds=9)) == []
    [file] = await read(folder, NOW + timedelta(seconds=10))
    assert len(file.records) == 5


async def test_a_file_whose_clock_is_ahead_is_read_when_it_stays_the_same(
    exporter: Cencori, folder: FileSource, read: Reader, tmp_path: Path
) -> None:
    exporter.add(NOW - HOUR)
    path = exporter.drop(tmp_path, "csv", age=-86400)
    assert await read(folder) == []
    path.write_bytes(path.read_bytes() + b"\n")
    old(path, -86400)
    assert await read(folder, NOW + MINUTE) == []  # it was changed
    assert await read(folder, NOW + MINUTE + timedelta(seconds=9)) == []
    assert await read(folder, NOW) == []  # our clock was set back
    assert len(await read(folder, NOW + 2 * MINUTE)) == 1


async def test_a_file_that_changes_between_two_reads_covers_nothing(
    exporter: Cencori, folder: FileSource, tmp_path: Path
) -> None:
    exporter.fill(5, NOW - DAY, NOW - HOUR)
    path = exporter.drop(tmp_path, "json")

    async def nothing_is_known(_key: bytes) -> bool:
        return False

    async for file in folder.files(nothing_is_known, NOW):
        path.write_bytes(path.read_bytes() + b"\n")
        with pytest.raises(Rejected, match="changed while it was read") as caught:
            [page async for page in file.pages]
        assert caught.value.reason == "file_changed"


@pytest.mark.parametrize(
    "name",
    [".a.csv", "a.csv.part", "a.json.crdownload", "a.tmp", "a.csv~", "A.CSV.PARTIAL", ".x.csv.swp"],
)
async def test_files_that_a_program_is_still_writing_are_skipped(
    folder: FileSource, read: Reader, tmp_path: Path, name: str
) -> None:
    write(tmp_path / name, "half")
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    assert await read(folder) == []
    assert await folder.check() == f"0 exports in {tmp_path}"


async def test_a_file_that_is_removed_meanwhile_is_skipped(
    exporter: Cencori,
    folder: files.ExportFolder,
    read: Reader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = exporter.drop(tmp_path, "json")
    usual = folder._scanner.find_complete

    def find_complete(now: datetime) -> Any:
        found = usual(now)
        path.unlink()
        return found

    monkeypatch.setattr(folder._scanner, "find_complete", find_complete)
    assert await read(folder) == []
