# ruff: noqa: ASYNC240  # a test may look at a small file from the loop
"""Which files of a folder are complete, and how each is opened."""

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sources.cencori.exports import DAY, HOUR, MINUTE, NOW, Reader, old, write

from auditrelay.errors import Rejected
from auditrelay.sandbox.vendors.cencori import Cencori
from auditrelay.sources import FileSource
from auditrelay.sources.cencori import files
from auditrelay.sources.cencori.folder import text_of


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


# --- names, links and times of any kind


@pytest.mark.parametrize(
    "name",
    [
        b"pr\xfcfung.csv",
        b"\xff\xfe\x80.json",
        b"\xed\xa0\x80.csv",
        b"an \x1b[31mescape\x07.csv",
        b"line\nend.json",
        "left\u202eright\u200b.csv".encode(),
        b"back\\slash.csv",
        b"\xfc" * 250 + b".csv",
    ],
)
async def test_a_file_of_any_name_is_read_and_shown_as_text(
    exporter: Cencori, folder: FileSource, read: Reader, tmp_path: Path, name: bytes
) -> None:
    exporter.fill(5, NOW - DAY, NOW - HOUR)
    dropped = exporter.drop(tmp_path, "csv" if name.endswith(b"csv") else "json")
    raw = os.path.join(os.fsencode(tmp_path), name)  # noqa: PTH118  # a path has no such bytes
    os.rename(dropped, raw)  # noqa: PTH104  # as above
    [file] = await read(folder)
    assert (file.rejected, len(file.records)) == (None, 5)
    assert file.name.isprintable()
    assert file.name.encode("utf-8").endswith(name[-4:])
    assert "1 export" in await folder.check()


@given(st.binary(min_size=1, max_size=255), st.binary(min_size=1, max_size=255))
def test_different_names_have_different_texts_that_can_be_stored(one: bytes, other: bytes) -> None:
    names = [os.fsdecode(each) for each in (one, other)]
    texts = [text_of(name) for name in names]
    assert (texts[0] == texts[1]) == (one == other)
    assert all(each.encode("utf-8").decode() == each and len(each) < 1600 for each in texts)


@pytest.mark.parametrize("target", ["an export", "another file", "a folder", "nothing"])
async def test_a_link_is_refused_with_the_reason(
    exporter: Cencori, folder: FileSource, read: Reader, tmp_path: Path, target: str
) -> None:
    elsewhere = tmp_path.with_name(f"{tmp_path.name}-elsewhere")
    elsewhere.mkdir()
    exporter.fill(5, NOW - DAY, NOW - HOUR)
    targets = {
        "an export": exporter.drop(elsewhere, "csv"),
        "another file": write(elsewhere / "secret", "s3cret"),
        "a folder": elsewhere,
        "nothing": elsewhere / "nothing",
    }
    link = tmp_path / "audit.csv"
    link.symlink_to(targets[target])
    os.utime(link, (0, 0), follow_symlinks=False)
    [file] = await read(folder)
    assert file.records == []
    assert file.rejected is not None
    assert "is a link, which is not followed" in str(file.rejected)


@pytest.mark.parametrize("changed", [-(2**40), 2**40])
async def test_a_file_of_any_time_is_read(
    exporter: Cencori, folder: FileSource, read: Reader, tmp_path: Path, changed: int
) -> None:
    exporter.fill(5, NOW - DAY, NOW - HOUR)
    path = exporter.drop(tmp_path, "csv").rename(tmp_path / "renamed.csv")
    os.utime(path, (changed, changed))
    found = await read(folder) + await read(folder, NOW + MINUTE)
    assert [len(file.records) for file in found] == [5]


async def test_the_check_says_that_other_users_can_forge_exports(
    folder: FileSource, tmp_path: Path
) -> None:
    assert "chmod" not in await folder.check()
    tmp_path.chmod(0o777)
    assert f"chmod o-w {tmp_path}" in await folder.check()
