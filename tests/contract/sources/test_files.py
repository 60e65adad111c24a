"""Every ``FileSource`` reads each file once, whole, or raises the reason why not."""

import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path

import pytest
from tests.support.clock import FakeClock

from auditrelay.errors import Refused, Rejected
from auditrelay.sandbox import Vendor, vendors
from auditrelay.sources import ExportFile, ExportPage, FileSource
from auditrelay.telemetry.metrics import Metrics

NOW = datetime.now(UTC)
CASES = [
    (kind, export) for kind, vendor in vendors.available().items() for export in vendor.EXPORTS
]


@dataclass
class Folder:
    """A folder, the source that reads it, and the vendor whose exports are in it."""

    path: Path
    double: Vendor
    source: FileSource
    export: str
    known: set[bytes] = field(default_factory=set)

    async def read(self) -> list[tuple[ExportFile, list[ExportPage]]]:
        """Read every new file; a file that was read whole is known from then on."""

        async def is_known(key: bytes) -> bool:
            return key in self.known

        found = []
        async for file in self.source.files(is_known, NOW):
            pages = [page async for page in file.pages]
            self.known.add(file.key)
            found.append((file, pages))
        return found


@pytest.fixture(params=CASES, ids="-".join)
async def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    kind, export = request.param
    double = vendors.available()[kind](clock=NOW.timestamp)
    module = import_module(f"auditrelay.sources.{kind}")
    settings = module.Settings.model_validate(double.file_settings(tmp_path))
    return Folder(tmp_path, double, module.build("it", settings, Metrics(), FakeClock()), export)


def fill(double: Vendor, count: int) -> None:
    double.fill(count, NOW - timedelta(days=3), NOW - timedelta(days=1))


async def test_an_empty_folder_is_not_an_error(folder: Folder) -> None:
    assert await folder.read() == []
    assert str(folder.path) in await folder.source.check()


async def test_a_missing_folder_holds_the_source(folder: Folder) -> None:
    folder.path.rmdir()
    with pytest.raises(Refused, match=str(folder.path)):
        await folder.read()
    with pytest.raises(Refused, match=str(folder.path)):
        await folder.source.check()


@pytest.mark.parametrize("count", [0, 1, 2500])
async def test_every_row_of_a_file_is_a_record_and_only_the_last_page_covers_a_span(
    folder: Folder, count: int
) -> None:
    fill(folder.double, count)
    folder.double.drop(folder.path, folder.export)
    ((_, pages),) = await folder.read()
    assert [page.last for page in pages] == [False] * (len(pages) - 1) + [True]
    assert not any(page.bad for page in pages)
    assert not any(page.covers or page.gaps for page in pages[:-1])
    records = [record for page in pages for record in page.records]
    assert len(records) == len(set(records)) == count
    assert all(isinstance(json.loads(record), dict) for record in records)


async def test_a_file_is_deduplicated_by_its_content_under_any_name(folder: Folder) -> None:
    fill(folder.double, 9)
    path = folder.double.drop(folder.path, folder.export)
    assert len(await folder.read()) == 1
    path.rename(path.with_stem(f"{path.stem} (1)"))
    assert await folder.read() == []
    fill(folder.double, 1)
    folder.double.drop(folder.path, folder.export)
    assert len(await folder.read()) == 1


@pytest.mark.parametrize("text", [b"", b"\x00\xff", b"<html>No</html>", b'{"hello":"world"}'])
async def test_a_file_that_is_not_an_export_is_rejected_and_covers_nothing(
    folder: Folder, text: bytes
) -> None:
    path = folder.double.drop(folder.path, folder.export)
    stamp = path.stat().st_mtime
    path.write_bytes(text)
    os.utime(path, (stamp, stamp))
    with pytest.raises(Rejected, match=path.name):
        await folder.read()


async def test_a_truncated_file_does_not_cover_what_it_lacks(folder: Folder) -> None:
    """It is rejected, or has a bad row; the other rows may be forwarded."""
    fill(folder.double, 9)
    path = folder.double.drop(folder.path, folder.export)
    stamp = path.stat().st_mtime
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(b"created") + 3 if b"created" in whole else -9])
    os.utime(path, (stamp, stamp))
    try:
        ((_, pages),) = await folder.read()
    except Rejected:
        return
    bad_rows = [bad for page in pages for bad in page.bad]
    assert bad_rows or not any(page.covers for page in pages)
