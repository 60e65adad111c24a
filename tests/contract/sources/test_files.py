"""Every source that reads files takes each once, whole, or says why not; see ``sources.Drop``."""

import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from auditrelay.errors import Refused, Rejected
from auditrelay.sandbox import Vendor, vendors
from auditrelay.sources import Drop, Parcel, ParcelPage
from auditrelay.telemetry.metrics import Metrics

NOW = datetime.now(UTC)
CASES = [
    (kind, export) for kind, vendor in vendors.available().items() for export in vendor.EXPORTS
]


@dataclass
class Folder:
    """A folder, a drop that reads it, and a vendor whose exports lie there."""

    path: Path
    double: Vendor
    drop: Drop
    export: str
    known: set[bytes] = field(default_factory=set)

    async def look(self) -> list[tuple[Parcel, list[ParcelPage]]]:
        """Read whatever is new; what was read whole is known from then on."""

        async def is_known(key: bytes) -> bool:
            return key in self.known

        found = []
        async for parcel in self.drop.parcels(is_known, NOW):
            pages = [page async for page in parcel.pages]
            self.known.add(parcel.key)
            found.append((parcel, pages))
        return found


@pytest.fixture(params=CASES, ids="-".join)
async def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    kind, export = request.param
    double = vendors.available()[kind](clock=NOW.timestamp)
    module = import_module(f"auditrelay.sources.{kind}")
    settings = module.Settings.model_validate(double.file_settings(tmp_path))
    return Folder(tmp_path, double, module.build("it", settings, Metrics()), export)


def fill(double: Vendor, count: int) -> None:
    double.fill(count, NOW - timedelta(days=3), NOW - timedelta(days=1))


async def test_an_empty_folder_is_no_trouble(folder: Folder) -> None:
    assert await folder.look() == []
    assert str(folder.path) in await folder.drop.check()


async def test_a_folder_that_is_not_there_holds_the_source(folder: Folder) -> None:
    folder.path.rmdir()
    with pytest.raises(Refused, match=str(folder.path)):
        await folder.look()
    with pytest.raises(Refused, match=str(folder.path)):
        await folder.drop.check()


@pytest.mark.parametrize("count", [0, 1, 2500])
async def test_every_row_of_a_file_is_a_record_and_only_the_end_claims_anything(
    folder: Folder, count: int
) -> None:
    fill(folder.double, count)
    folder.double.drop(folder.path, folder.export)
    ((_, pages),) = await folder.look()
    assert [page.last for page in pages] == [False] * (len(pages) - 1) + [True]
    assert not any(page.bad for page in pages)
    assert not any(page.covers or page.gaps for page in pages[:-1])
    records = [record for page in pages for record in page.records]
    assert len(records) == len(set(records)) == count
    assert all(isinstance(json.loads(record), dict) for record in records)


async def test_a_file_is_known_by_its_content_whatever_it_is_called(folder: Folder) -> None:
    fill(folder.double, 9)
    path = folder.double.drop(folder.path, folder.export)
    assert len(await folder.look()) == 1
    path.rename(path.with_stem(f"{path.stem} (1)"))
    assert await folder.look() == []
    fill(folder.double, 1)
    folder.double.drop(folder.path, folder.export)
    assert len(await folder.look()) == 1


@pytest.mark.parametrize("text", [b"", b"\x00\xff", b"<html>No</html>", b'{"hello":"world"}'])
async def test_a_file_that_is_no_export_is_of_no_use_and_claims_nothing(
    folder: Folder, text: bytes
) -> None:
    path = folder.double.drop(folder.path, folder.export)
    stamp = path.stat().st_mtime
    path.write_bytes(text)
    os.utime(path, (stamp, stamp))
    with pytest.raises(Rejected, match=path.name):
        await folder.look()


async def test_a_file_that_is_cut_does_not_claim_what_it_lacks(folder: Folder) -> None:
    """It is of no use, or tells of a bad row; the rows that it has may be forwarded."""
    fill(folder.double, 9)
    path = folder.double.drop(folder.path, folder.export)
    stamp = path.stat().st_mtime
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(b"created") + 3 if b"created" in whole else -9])
    os.utime(path, (stamp, stamp))
    told: list[Any] = []
    try:
        ((_, pages),) = await folder.look()
    except Rejected:
        return
    told = [bad for page in pages for bad in page.bad]
    assert told or not any(page.covers for page in pages)
