"""An export is read page by page: its rows, those that are bad, and what it covers."""

import json
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.sources.cencori.exports import DAY, HOUR, NOW, Reader, events, write

from auditrelay.events import NOTHING
from auditrelay.sandbox.vendors import cencori as double
from auditrelay.sandbox.vendors.cencori import HEADER, Cencori
from auditrelay.sources import FileSource
from auditrelay.sources.cencori import export


async def test_both_forms_of_a_row_are_the_same_event_apart_from_fields_that_csv_lacks(
    exporter: Cencori, folder: FileSource, read: Reader, tmp_path: Path
) -> None:
    exporter.fill(40, NOW - DAY, NOW - HOUR)
    exporter.drop(tmp_path, "json")
    exporter.drop(tmp_path, "csv")
    read_files = await read(folder)
    by_form = {Path(one.name).suffix: events([one]) for one in read_files}
    for in_json, in_csv in zip(by_form[".json"], by_form[".csv"], strict=True):
        assert in_json.uid != in_csv.uid
        assert in_json.at // 1000 == in_csv.at // 1000
        for name in (
            "native_action",
            "kind",
            "verb",
            "outcome",
            "message",
            "project_id",
            "changes",
        ):
            assert getattr(in_json, name) == getattr(in_csv, name), name
        assert json.loads(bytes(in_json.metadata)) == json.loads(bytes(in_csv.metadata))
        assert in_json.target == in_csv.target
        assert in_json.actor.kind == in_csv.actor.kind
        assert (in_json.actor.email, in_json.actor.ip) == (in_csv.actor.email, in_csv.actor.ip)
        assert in_csv.time_quality == "source"
        assert in_csv.unmapped == NOTHING


async def test_exports_of_all_sizes_come_page_by_page(
    exporter: Cencori,
    folder: FileSource,
    read: Reader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export, "PAGE_ROWS", 10)
    exporter.fill(30, NOW - DAY, NOW - HOUR)
    for kind in ("json", "csv"):
        exporter.drop(tmp_path, kind)
    for file in await read(folder):
        assert [len(page.records) for page in file.pages] == [10, 10, 10, 0]
    monkeypatch.setattr(export, "PAGE_ROWS", 10_000)
    monkeypatch.setattr(export, "PAGE_BYTES", 2_000)
    for file in await Reader()(folder):
        sizes = [sum(map(len, page.records)) for page in file.pages[:-1]]
        assert all(2_000 <= size < 4_000 for size in sizes)
        assert len(file.records) == 30


@pytest.mark.slow
async def test_memory_does_not_grow_with_the_file(
    exporter: Cencori, folder: FileSource, tmp_path: Path
) -> None:
    exporter.fill(14_000, NOW - DAY, NOW - HOUR)
    for kind in ("json", "csv"):
        path = exporter.drop(tmp_path, kind)
        assert path.stat().st_size > 2_450_000
    count = 0

    async def nothing_is_known(_key: bytes) -> bool:
        return False

    tracemalloc.start()
    try:
        async for file in folder.files(nothing_is_known, NOW):
            async for page in file.pages:
                count += len(page.records)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 28_000
    assert peak < 2_400_000


@pytest.mark.parametrize("kind", ["json", "csv"])
@pytest.mark.parametrize("most", [1_000, None])
async def test_a_truncated_export_declares_the_possible_gap(
    *,
    exporter: Cencori,
    folder: FileSource,
    read: Reader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Any,
    most: int | None,
) -> None:
    if most is None:
        monkeypatch.setattr(double, "MOST_EXPORTED", 50)
        monkeypatch.setattr("auditrelay.sources.cencori.export_span.TRUNCATED_AT", (50,))
    exporter.switches.max_rows = most
    exporter.fill(1_200, NOW - 5 * DAY, NOW - HOUR)
    exporter.drop(tmp_path, kind)
    [file] = await read(folder)
    oldest = datetime.fromtimestamp(min(event.at for event in events([file])) / 1e6, UTC)
    [(gap, reason)] = file.pages[-1].gaps
    [span] = file.pages[-1].covers
    assert reason == "export_cut"
    assert gap.start == (NOW - 7 * DAY if kind == "json" else NOW + 12 * HOUR - 7 * DAY)
    assert gap.end == span.start
    assert timedelta(0) < span.start - oldest <= timedelta(milliseconds=1)


async def test_an_empty_export_covers_its_range(
    exporter: Cencori, folder: FileSource, read: Reader, tmp_path: Path
) -> None:
    for kind in ("json", "csv"):
        exporter.drop(tmp_path, kind)
    read_files = await read(folder)
    assert [one.records for one in read_files] == [[], []]
    assert all(one.pages[-1].covers for one in read_files)


async def test_a_bad_row_of_csv_is_reported_with_its_line_and_no_other_is_lost(
    folder: FileSource, read: Reader, tmp_path: Path
) -> None:
    good = "2026-03-10T10:00:00.000Z,project,created,project,p1,-,a@b.c,-,ok,-"
    rows = [
        good, "only,three,columns", good.replace("p1", "p2"), good.replace("2026-03-10T10", "soon"),
        good + ",more", good.replace("ok", 'no "quotes"'), good.replace("p1", "p3"),
    ]  # fmt: skip
    write(tmp_path / "x.csv", "\n".join([HEADER, *rows]))
    [file] = await read(folder)
    assert [event.target.id for event in events([file])] == ["p1", "p2", "p3"]
    assert file.bad == [
        (3, "3 columns instead of 10", b"only,three,columns"),
        (5, "its Timestamp is not a time", rows[3].encode()),
        (6, "11 columns instead of 10", rows[4].encode()),
        (7, "a quote inside a field that is not quoted", rows[5].encode()),
    ]


async def test_a_csv_file_that_breaks_off_has_a_gap(
    exporter: Cencori, folder: FileSource, read: Reader, tmp_path: Path
) -> None:
    exporter.fill(20, NOW - DAY, NOW - HOUR)
    path = exporter.drop(tmp_path, "csv")
    write(path, path.read_bytes()[:-60])
    [file] = await read(folder)
    assert len(file.bad) == 1
    assert len(file.records) in (18, 19)
    [(gap, reason)] = file.pages[-1].gaps
    assert reason == "export_broken_off"
    assert file.pages[-1].covers[0].start == gap.end


async def test_a_bad_record_of_json_is_reported_with_its_line_and_no_other_is_lost(
    folder: FileSource, read: Reader, tmp_path: Path
) -> None:
    good = '{"id": "1", "created_at": "2026-03-10T10:00:00+00:00"}'
    nested = '{"id": "2", "created_at": "2026-03-10T09:00:00Z", "metadata": %s}'
    rows = [
        good, '"text"', "null", "[1]", '{"id": "3"}', '{"id": "4", "created_at": "soon"}',
        '{"id": "5", "created_at" "2026-03-10T10:00:00+00:00"}',
        nested % ("[" * 3000 + "]" * 3000),
        good.replace("1", "6", 1),
    ]  # fmt: skip
    write(tmp_path / "x.json", '{"logs": [\n' + ",\n".join(rows) + "\n]}")
    [file] = await read(folder)
    assert [event.native_id for event in events([file])][:1] == ["1"]
    assert [event.native_id for event in events([file])][-1:] == ["6"]
    shown = [(line, problem) for line, problem, _ in file.bad]
    assert shown[:6] == [
        (3, "not an object"),
        (4, "not an object"),
        (5, "not an object"),
        (6, "its created_at is not a time"),
        (7, "its created_at is not a time"),
        (8, "not JSON"),
    ]
    assert len(file.records) + len(file.bad) == len(rows)


async def test_bytes_of_a_time_that_are_no_utf_8_make_a_bad_record_and_no_bug(
    folder: FileSource, read: Reader, tmp_path: Path
) -> None:
    good = b'{"id": "1", "created_at": "2026-03-10T10:00:00+00:00"}'
    bad = b'{"id": "2", "created_at": "2026-03-10\xff"}'
    write(tmp_path / "x.json", b'{"logs": [\n' + good + b",\n" + bad + b"\n]}")
    [file] = await read(folder)
    assert [event.native_id for event in events([file])] == ["1"]
    assert [(line, problem) for line, problem, _ in file.bad] == [
        (3, "its created_at is not a time")
    ]
