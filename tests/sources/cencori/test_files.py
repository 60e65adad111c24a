"""Exports in a folder: in which order they are read, each once, and what is rejected."""

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tests.sources.cencori.exports import (
    DAY,
    HOUR,
    MINUTE,
    NOW,
    Reader,
    events,
    make_folder,
    old,
    uids,
    write,
)
from tests.support.clock import FakeClock

from auditrelay import sources
from auditrelay.clock import Clock
from auditrelay.config import load
from auditrelay.errors import Refused, Rejected
from auditrelay.sandbox.vendors.cencori import HEADER, ORGANIZATION_SLUG, Cencori
from auditrelay.service import app
from auditrelay.sources import FileSource
from auditrelay.sources.cencori import export, files, settings
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval

# --- what is read


@pytest.mark.parametrize("kind", ["json", "csv"])
async def test_an_export_is_read_whole_and_has_the_span_it_covers(
    exporter: Cencori, folder: FileSource, read: Reader, tmp_path: Path, kind: Any
) -> None:
    made = exporter.fill(30, NOW - DAY, NOW - HOUR)
    path = exporter.drop(tmp_path, kind)
    before = path.read_bytes()
    [file] = await read(folder)
    assert file.name == path.name
    assert file.key == sha256(before).digest()
    found = events([file])
    assert len({event.uid for event in found}) == 30
    start = NOW - 7 * DAY if kind == "json" else NOW + 12 * HOUR - 7 * DAY
    end = NOW - MINUTE
    if kind == "csv":
        end = datetime.fromtimestamp(max(event.at for event in found) / 1e6, UTC) - MINUTE
    assert file.pages[-1].covers == (Interval(start, end),)
    assert file.pages[-1].gaps == ()
    assert file.bad == []
    if kind == "json":
        assert [event.native_id for event in found] == made[::-1]
    assert path.read_bytes() == before
    assert await read(folder) == []


# --- deduplication


async def test_a_file_is_deduplicated_by_its_content_under_any_name(
    exporter: Cencori, folder: FileSource, read: Reader, tmp_path: Path
) -> None:
    exporter.fill(5, NOW - DAY, NOW - HOUR)
    path = exporter.drop(tmp_path, "json")
    assert len(await read(folder)) == 1
    old(path.rename(tmp_path / "renamed.json"), 5)
    write(tmp_path / "copy.json", (tmp_path / "renamed.json").read_bytes())
    assert await read(folder) == []
    assert await read(make_folder(tmp_path)) == []  # after a restart
    write(tmp_path / "copy.json", (tmp_path / "copy.json").read_bytes() + b"\n")
    assert [file.name for file in await read(folder)] == ["copy.json"]


async def test_of_two_files_with_one_content_only_the_first_is_read(
    exporter: Cencori, folder: FileSource, read: Reader, tmp_path: Path
) -> None:
    exporter.fill(5, NOW - DAY, NOW - HOUR)
    for name in ("a.csv", "b.csv"):
        exporter.drop(tmp_path, "csv", name=name)
    assert len(await read(folder)) == 1


@pytest.mark.parametrize("kind", ["json", "csv"])
async def test_exports_that_overlap_show_the_same_events(
    exporter: Cencori, folder: FileSource, read: Reader, tmp_path: Path, kind: Any
) -> None:
    at = NOW - HOUR
    for _ in range(3):  # three that are equal in a CSV file
        exporter.add(at, **SAME)
    exporter.add(at, **{**SAME, "description": "another"})
    exporter.drop(tmp_path, kind, "24h", name="one.x".replace("x", kind))
    first = uids(await read(folder))
    assert len(set(first)) == 4
    exporter.add(NOW, **SAME)
    exporter.add(at - MINUTE, **SAME)
    exporter.drop(tmp_path, kind, "7d", name="two.x".replace("x", kind))
    second = uids(await read(folder))
    assert len(set(second)) == 6
    assert set(first) < set(second)


SAME: dict[str, Any] = {
    "category": "project",
    "action": "created",
    "resource_type": "project",
    "resource_id": "r",
    "project_id": "p",
    "actor_email": "a@b.c",
    "actor_type": "user",
    "actor_ip": None,
    "description": "same",
    "metadata": None,
}


async def test_twins_stay_apart_across_the_border_of_a_page(
    exporter: Cencori,
    folder: FileSource,
    read: Reader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for _ in range(25):
        exporter.add(NOW - HOUR, **SAME)
    exporter.drop(tmp_path, "csv")
    whole = uids(await read(folder))
    assert len(set(whole)) == 25
    for size in (1, 7, 24):
        monkeypatch.setattr(export, "PAGE_ROWS", size)
        assert uids(await Reader()(folder)) == whole


async def test_a_row_of_csv_belongs_to_the_configured_organisation(
    exporter: Cencori, read: Reader, tmp_path: Path
) -> None:
    exporter.add(NOW - HOUR)
    exporter.drop(tmp_path, "csv")
    mine = make_folder(tmp_path, organization_slug=ORGANIZATION_SLUG)
    assert mine.scope == ORGANIZATION_SLUG
    read_files = await read(mine)
    assert uids(read_files, "one") != uids(read_files, "two")


# --- when it is read


async def test_the_oldest_export_is_read_first(
    exporter: Cencori, folder: FileSource, read: Reader, tmp_path: Path
) -> None:
    text = json.dumps({"logs": []})
    for number, name in enumerate(
        [
            "audit-log-acme-7d-2026-03-09.json",
            "b.json",
            "audit-log-acme-7d-2026-03-08.json",
            "a.json",
        ]
    ):
        old(write(tmp_path / name, text + " " * number), 3600 - number)
    assert [file.name for file in await read(folder)] == [
        "audit-log-acme-7d-2026-03-08.json",
        "audit-log-acme-7d-2026-03-09.json",
        "b.json",
        "a.json",
    ]


# --- what it covers


async def test_a_file_with_a_name_of_its_own_is_forwarded_and_covers_nothing(
    exporter: Cencori, folder: FileSource, read: Reader, tmp_path: Path
) -> None:
    exporter.fill(5, NOW - DAY, NOW - HOUR)
    for kind in ("json", "csv"):
        exporter.drop(tmp_path, kind, name=f"mine.{kind}")
    for file in await read(folder):
        assert len(file.records) == 5
        assert (file.pages[-1].covers, file.pages[-1].gaps) == ((), ())


# --- bad rows and bad files


@pytest.mark.parametrize(
    ("name", "text", "reason", "words"),
    [
        ("x.txt", "hello", "not_an_export", "neither a JSON nor a CSV file by its name"),
        ("x.csv.gz", b"\x1f\x8b", "not_an_export", "neither a JSON nor a CSV file by its name"),
        ("x", "", "not_an_export", "neither a JSON"),
        ("x.json", "", "not_an_export", "line 1: not the beginning of a JSON export"),
        ("x.json", "[]", "not_an_export", "not the beginning of a JSON export"),
        ("x.json", '{"logs": [{"id": "1"', "file_breaks_off", "the file breaks off before its end"),
        ("x.json", '{"logs": [{"id": "1"}', "file_breaks_off", "line 1: the file breaks off"),
        ("x.json", '{"records": []}', "not_an_export", 'no list "logs"'),
        ("x.json", '{"logs": [1} ]}', "not_an_export", "line 1: expected '\\]', found '}'"),
        ("x.csv", "a,b\n1,2", "not_an_export", "line 1: not the header of an export"),
        ("x.csv", '{"logs": []}', "not_an_export", "line 1: not the header"),
        (
            "audit-log-other-7d-2026-03-10.csv", HEADER, "wrong_organization",
            "an export of the organisation 'other', not of 'acme-labs'",
        ),
    ],
)  # fmt: skip
async def test_a_bad_file_is_rejected_and_not_changed_and_the_others_are_read(
    *,
    exporter: Cencori,
    read: Reader,
    tmp_path: Path,
    name: str,
    text: str | bytes,
    reason: str,
    words: str,
) -> None:
    exporter.add(NOW - HOUR)
    folder = make_folder(tmp_path, organization_slug=ORGANIZATION_SLUG)
    old(write(tmp_path / name, text), 3600)
    exporter.drop(tmp_path, "json")
    before = (tmp_path / name).read_bytes()
    read_files = {one.name: one for one in await read(folder)}
    rejected = read_files.pop(name).rejected
    assert rejected is not None
    assert rejected.reason == reason
    with pytest.raises(Rejected, match=f"{name}: .*{words}"):
        raise rejected
    [good] = read_files.values()
    assert len(good.records) == 1
    assert (tmp_path / name).read_bytes() == before


async def test_a_rejected_file_is_reported_again_but_not_read_again(
    folder: files.ExportFolder, read: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "x.json", "[]")
    [first] = await read(folder)
    with monkeypatch.context() as patched:
        patched.setattr(files, "open_file", None)
        [second] = await read(folder)
    assert str(second.rejected) == str(first.rejected)
    write(path, '{"logs": []}')
    [third] = await read(folder)
    assert third.rejected is None


async def test_a_file_without_permission_is_reported_until_it_can_be_read(
    exporter: Cencori,
    folder: FileSource,
    read: Reader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exporter.add(NOW - HOUR)
    exporter.drop(tmp_path, "json")
    usual = os.open

    def refuse(path: Any, *arguments: Any, **named: Any) -> int:
        if str(path).startswith(str(tmp_path)):
            raise PermissionError(13, "Permission denied", str(path))
        return usual(path, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        keys = set()
        for _ in range(2):
            [file] = await read(folder)
            keys.add(file.key)
            assert "json: Permission denied" in str(file.rejected)
        assert len(keys) == 1
        assert "cannot be read: audit-log" in await folder.check()
    [file] = await read(folder)
    assert len(file.records) == 1


async def test_a_missing_folder_holds_the_source(read: Reader, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "none")
    for ask in (read(folder), folder.check()):
        with pytest.raises(
            Refused, match="none cannot be read: No such file or directory; create it"
        ):
            await ask


async def test_check_counts_the_exports_and_names_files_that_cannot_be_read(
    exporter: Cencori, folder: FileSource, tmp_path: Path
) -> None:
    assert await folder.check() == f"0 exports in {tmp_path}"
    exporter.drop(tmp_path, "json")
    assert await folder.check() == f"1 export in {tmp_path}"
    exporter.drop(tmp_path, "csv")
    write(tmp_path / "x.txt", "")
    words = await folder.check()
    assert words.startswith(f"2 exports in {tmp_path}, and 1 that cannot be read: x.txt: neither")
    for number in range(4):
        write(tmp_path / f"{number}.csv", "")
    assert (await folder.check()).endswith("; ...")


async def test_a_reader_that_is_cancelled_leaves_no_file_open(
    exporter: Cencori, folder: FileSource, tmp_path: Path
) -> None:
    exporter.fill(3_000, NOW - DAY, NOW - HOUR)
    exporter.drop(tmp_path, "json")
    begun = asyncio.Event()

    async def nothing_is_known(_key: bytes) -> bool:
        return False

    async def read() -> None:
        async for file in folder.files(nothing_is_known, NOW):
            async for _ in file.pages:
                begun.set()

    task = asyncio.create_task(read())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await folder.close()
    assert not [path for path in open_files() if path.startswith(str(tmp_path))]


def open_files() -> list[str]:
    """Return what this process has open."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(descriptor.readlink()))
    assert found
    return found


# --- end to end


@pytest.fixture
def running(tmp_path: Path) -> Callable[..., Awaitable[list[str]]]:
    """Run once over the files in ``exports``; return the lines of their rows in the sink."""
    exports = tmp_path / "exports"
    exports.mkdir()
    config = tmp_path / "c.toml"
    config.write_text(
        f'state_dir = "{tmp_path / "state"}"\n[sources.labs]\ntype = "cencori"\nmode = "files"\n'
        f'directory = "{exports}"\n[sinks.out]\ntype = "file"\npath = "{tmp_path / "out"}"\n'
        'format = "raw"\n'
    )

    async def once() -> list[str]:
        loaded = load(config, {"HOME": str(tmp_path)})
        async with app.App.open(loaded, Clock(), attempts=2) as running:
            assert await running.once() == []
        out = tmp_path / "out"
        lines = out.read_text().splitlines() if out.exists() else []
        # Beside them a day's claim of the relay itself.
        return [line for line in lines if json.loads(line)["auditrelay"]["source"] == "labs"]

    return once


async def test_rows_arrive_once_however_often_their_file_does(
    running: Callable[..., Awaitable[list[str]]], tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    exporter = Cencori(clock=now.timestamp)
    exporter.fill(30, now - DAY, now - HOUR)
    exporter.drop(tmp_path / "exports", "json")
    first = await running()
    assert len(first) == 30
    exporter.drop(tmp_path / "exports", "json", name="again.json")
    exporter.fill(5, now - HOUR, now - 2 * MINUTE)
    exporter.drop(tmp_path / "exports", "json", "24h", name="more.json")
    write(tmp_path / "exports" / "bad.txt", "no")
    assert len(await running()) == 35
    assert len(await running()) == 35


def test_a_folder_has_no_state_of_its_own(tmp_path: Path) -> None:
    given = {"type": "cencori", "mode": "files", "directory": tmp_path}
    made = sources.make_file_source(
        "labs", settings.Settings.model_validate(given), Metrics(), FakeClock()
    )
    assert not isinstance(made, sources.Stateful)
