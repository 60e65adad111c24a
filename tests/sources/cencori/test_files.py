"""Cencori's exports in a folder: which are read, what each covers, and bad rows and files."""

import asyncio
import contextlib
import json
import os
import tracemalloc
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from auditrelay import sources
from auditrelay.config import load
from auditrelay.errors import Refused, Rejected
from auditrelay.events import NOTHING, AuditEvent
from auditrelay.events.normalize import Normalizer
from auditrelay.sandbox.vendors import cencori as double
from auditrelay.sandbox.vendors.cencori import HEADER, ORGANIZATION_SLUG, Cencori
from auditrelay.service import app
from auditrelay.sources import ExportFile, ExportPage, FileSource, cencori
from auditrelay.sources.cencori import export, files, settings
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval, micros

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


@pytest.fixture
def vendor() -> Cencori:
    return Cencori(clock=NOW.timestamp)


@pytest.fixture
def folder(tmp_path: Path) -> files.ExportFolder:
    return make_folder(tmp_path)


def make_folder(directory: Path, **changes: Any) -> files.ExportFolder:
    given = {"type": "cencori", "mode": "files", "directory": directory, **changes}
    made = cencori.build("labs", settings.Settings.model_validate(given), Metrics())
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


@pytest.fixture
def read() -> Reader:
    return Reader()


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
        vendor="cencori",
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


# --- what is read


@pytest.mark.parametrize("kind", ["json", "csv"])
async def test_an_export_is_read_whole_and_has_the_span_it_covers(
    vendor: Cencori, folder: FileSource, read: Reader, tmp_path: Path, kind: Any
) -> None:
    made = vendor.fill(30, NOW - DAY, NOW - HOUR)
    path = vendor.drop(tmp_path, kind)
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


async def test_both_forms_of_a_row_are_the_same_event_apart_from_fields_that_csv_lacks(
    vendor: Cencori, folder: FileSource, read: Reader, tmp_path: Path
) -> None:
    vendor.fill(40, NOW - DAY, NOW - HOUR)
    vendor.drop(tmp_path, "json")
    vendor.drop(tmp_path, "csv")
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
    vendor: Cencori,
    folder: FileSource,
    read: Reader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export, "PAGE_ROWS", 10)
    vendor.fill(30, NOW - DAY, NOW - HOUR)
    for kind in ("json", "csv"):
        vendor.drop(tmp_path, kind)
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
    vendor: Cencori, folder: FileSource, tmp_path: Path
) -> None:
    vendor.fill(20_000, NOW - DAY, NOW - HOUR)
    for kind in ("json", "csv"):
        path = vendor.drop(tmp_path, kind)
        assert path.stat().st_size > 3_500_000
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
    assert count == 40_000
    assert peak < 3_000_000


# --- deduplication


async def test_a_file_is_deduplicated_by_its_content_under_any_name(
    vendor: Cencori, folder: FileSource, read: Reader, tmp_path: Path
) -> None:
    vendor.fill(5, NOW - DAY, NOW - HOUR)
    path = vendor.drop(tmp_path, "json")
    assert len(await read(folder)) == 1
    old(path.rename(tmp_path / "renamed.json"), 5)
    write(tmp_path / "copy.json", (tmp_path / "renamed.json").read_bytes())
    assert await read(folder) == []
    assert await read(make_folder(tmp_path)) == []  # after a restart
    write(tmp_path / "copy.json", (tmp_path / "copy.json").read_bytes() + b"\n")
    assert [file.name for file in await read(folder)] == ["copy.json"]


async def test_of_two_files_with_one_content_only_the_first_is_read(
    vendor: Cencori, folder: FileSource, read: Reader, tmp_path: Path
) -> None:
    vendor.fill(5, NOW - DAY, NOW - HOUR)
    for name in ("a.csv", "b.csv"):
        vendor.drop(tmp_path, "csv", name=name)
    assert len(await read(folder)) == 1


@pytest.mark.parametrize("kind", ["json", "csv"])
async def test_exports_that_overlap_show_the_same_events(
    vendor: Cencori, folder: FileSource, read: Reader, tmp_path: Path, kind: Any
) -> None:
    at = NOW - HOUR
    for _ in range(3):  # three that are equal in a CSV file
        vendor.add(at, **SAME)
    vendor.add(at, **{**SAME, "description": "another"})
    vendor.drop(tmp_path, kind, "24h", name="one.x".replace("x", kind))
    first = uids(await read(folder))
    assert len(set(first)) == 4
    vendor.add(NOW, **SAME)
    vendor.add(at - MINUTE, **SAME)
    vendor.drop(tmp_path, kind, "7d", name="two.x".replace("x", kind))
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
    vendor: Cencori,
    folder: FileSource,
    read: Reader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for _ in range(25):
        vendor.add(NOW - HOUR, **SAME)
    vendor.drop(tmp_path, "csv")
    whole = uids(await read(folder))
    assert len(set(whole)) == 25
    for size in (1, 7, 24):
        monkeypatch.setattr(export, "PAGE_ROWS", size)
        assert uids(await Reader()(folder)) == whole


async def test_a_row_of_csv_belongs_to_the_configured_organisation(
    vendor: Cencori, read: Reader, tmp_path: Path
) -> None:
    vendor.add(NOW - HOUR)
    vendor.drop(tmp_path, "csv")
    mine = make_folder(tmp_path, organization_slug=ORGANIZATION_SLUG)
    assert mine.scope == ORGANIZATION_SLUG
    read_files = await read(mine)
    assert uids(read_files, "one") != uids(read_files, "two")


# --- when it is read


async def test_a_file_that_is_being_written_waits_until_it_is_quiet(
    vendor: Cencori, folder: FileSource, read: Reader, tmp_path: Path
) -> None:
    vendor.fill(5, NOW - DAY, NOW - HOUR)
    path = vendor.drop(tmp_path, "csv", age=0)
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
    vendor: Cencori, folder: FileSource, read: Reader, tmp_path: Path
) -> None:
    vendor.add(NOW - HOUR)
    path = vendor.drop(tmp_path, "csv", age=-86400)
    assert await read(folder) == []
    path.write_bytes(path.read_bytes() + b"\n")
    old(path, -86400)
    assert await read(folder, NOW + MINUTE) == []  # it was changed
    assert await read(folder, NOW + MINUTE + timedelta(seconds=9)) == []
    assert await read(folder, NOW) == []  # our clock was set back
    assert len(await read(folder, NOW + 2 * MINUTE)) == 1


async def test_a_file_that_changes_between_two_reads_covers_nothing(
    vendor: Cencori, folder: FileSource, tmp_path: Path
) -> None:
    vendor.fill(5, NOW - DAY, NOW - HOUR)
    path = vendor.drop(tmp_path, "json")

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


async def test_the_oldest_export_is_read_first(
    vendor: Cencori, folder: FileSource, read: Reader, tmp_path: Path
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


@pytest.mark.parametrize("kind", ["json", "csv"])
@pytest.mark.parametrize("most", [1_000, None])
async def test_a_truncated_export_declares_the_possible_gap(
    *,
    vendor: Cencori,
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
    vendor.switches.max_rows = most
    vendor.fill(1_200, NOW - 5 * DAY, NOW - HOUR)
    vendor.drop(tmp_path, kind)
    [file] = await read(folder)
    oldest = datetime.fromtimestamp(min(event.at for event in events([file])) / 1e6, UTC)
    [(gap, reason)] = file.pages[-1].gaps
    [span] = file.pages[-1].covers
    assert reason == "export_cut"
    assert gap.start == (NOW - 7 * DAY if kind == "json" else NOW + 12 * HOUR - 7 * DAY)
    assert gap.end == span.start
    assert timedelta(0) < span.start - oldest <= timedelta(milliseconds=1)


async def test_a_file_with_a_name_of_its_own_is_forwarded_and_covers_nothing(
    vendor: Cencori, folder: FileSource, read: Reader, tmp_path: Path
) -> None:
    vendor.fill(5, NOW - DAY, NOW - HOUR)
    for kind in ("json", "csv"):
        vendor.drop(tmp_path, kind, name=f"mine.{kind}")
    for file in await read(folder):
        assert len(file.records) == 5
        assert (file.pages[-1].covers, file.pages[-1].gaps) == ((), ())


async def test_an_empty_export_covers_its_range(
    vendor: Cencori, folder: FileSource, read: Reader, tmp_path: Path
) -> None:
    for kind in ("json", "csv"):
        vendor.drop(tmp_path, kind)
    read_files = await read(folder)
    assert [one.records for one in read_files] == [[], []]
    assert all(one.pages[-1].covers for one in read_files)


# --- bad rows and bad files


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
    vendor: Cencori, folder: FileSource, read: Reader, tmp_path: Path
) -> None:
    vendor.fill(20, NOW - DAY, NOW - HOUR)
    path = vendor.drop(tmp_path, "csv")
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
    vendor: Cencori,
    read: Reader,
    tmp_path: Path,
    name: str,
    text: str | bytes,
    reason: str,
    words: str,
) -> None:
    vendor.add(NOW - HOUR)
    folder = make_folder(tmp_path, organization_slug=ORGANIZATION_SLUG)
    old(write(tmp_path / name, text), 3600)
    vendor.drop(tmp_path, "json")
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
    vendor: Cencori,
    folder: FileSource,
    read: Reader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vendor.add(NOW - HOUR)
    vendor.drop(tmp_path, "json")
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


async def test_a_file_that_is_removed_meanwhile_is_skipped(
    vendor: Cencori,
    folder: files.ExportFolder,
    read: Reader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = vendor.drop(tmp_path, "json")
    usual = folder._scanner.find_complete

    def find_complete(now: datetime) -> Any:
        found = usual(now)
        path.unlink()
        return found

    monkeypatch.setattr(folder._scanner, "find_complete", find_complete)
    assert await read(folder) == []


async def test_a_missing_folder_holds_the_source(read: Reader, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "none")
    for ask in (read(folder), folder.check()):
        with pytest.raises(
            Refused, match="none cannot be read: No such file or directory; create it"
        ):
            await ask


async def test_check_counts_the_exports_and_names_files_that_cannot_be_read(
    vendor: Cencori, folder: FileSource, tmp_path: Path
) -> None:
    assert await folder.check() == f"0 exports in {tmp_path}"
    vendor.drop(tmp_path, "json")
    assert await folder.check() == f"1 export in {tmp_path}"
    vendor.drop(tmp_path, "csv")
    write(tmp_path / "x.txt", "")
    words = await folder.check()
    assert words.startswith(f"2 exports in {tmp_path}, and 1 that cannot be read: x.txt: neither")
    for number in range(4):
        write(tmp_path / f"{number}.csv", "")
    assert (await folder.check()).endswith("; ...")


async def test_a_reader_that_is_cancelled_leaves_no_file_open(
    vendor: Cencori, folder: FileSource, tmp_path: Path
) -> None:
    vendor.fill(3_000, NOW - DAY, NOW - HOUR)
    vendor.drop(tmp_path, "json")
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
    """Run once over the files in ``exports`` and return the lines of the sink."""
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
        async with app.App.open(loaded, attempts=2) as running:
            assert await running.once() == []
        out = tmp_path / "out"
        return out.read_text().splitlines() if out.exists() else []

    return once


async def test_rows_arrive_once_however_often_their_file_does(
    running: Callable[..., Awaitable[list[str]]], tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    vendor = Cencori(clock=now.timestamp)
    vendor.fill(30, now - DAY, now - HOUR)
    vendor.drop(tmp_path / "exports", "json")
    first = await running()
    assert len(first) == 30
    vendor.drop(tmp_path / "exports", "json", name="again.json")
    vendor.fill(5, now - HOUR, now - 2 * MINUTE)
    vendor.drop(tmp_path / "exports", "json", "24h", name="more.json")
    write(tmp_path / "exports" / "bad.txt", "no")
    assert len(await running()) == 35
    assert len(await running()) == 35


def test_a_folder_has_no_state_of_its_own(tmp_path: Path) -> None:
    given = {"type": "cencori", "mode": "files", "directory": tmp_path}
    made = sources.make("labs", settings.Settings.model_validate(given), Metrics(), tmp_path / "s")
    assert isinstance(made, FileSource)
    assert not isinstance(made, sources.Stateful)
