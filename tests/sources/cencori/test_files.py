"""Cencori's exports in a folder: which are read, what each says, and what becomes of bad ones."""

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
from auditrelay.sources import Drop, Parcel, ParcelPage, cencori
from auditrelay.sources.cencori import export as exported
from auditrelay.sources.cencori import files, settings
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval, micros

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)

Look = Callable[..., Awaitable[list["Told"]]]


class Told:
    """What became of one parcel: its pages, or why it was rejected."""

    def __init__(self, parcel: Parcel) -> None:
        self.key, self.name = parcel.key, parcel.name
        self.pages: list[ParcelPage] = []
        self.rejected: Rejected | None = None

    @property
    def records(self) -> list[bytes]:
        return [record for page in self.pages for record in page.records]

    @property
    def bad(self) -> list[tuple[int, str, bytes]]:
        return [(bad.line, bad.why, bad.text) for page in self.pages for bad in page.bad]


@pytest.fixture
def vendor() -> Cencori:
    return Cencori(clock=NOW.timestamp)


@pytest.fixture
def drop(tmp_path: Path) -> files.Drop:
    return make_drop(tmp_path)


def make_drop(directory: Path, **changes: Any) -> files.Drop:
    given = {"type": "cencori", "mode": "files", "directory": directory, **changes}
    made = cencori.build("labs", settings.Settings.model_validate(given), Metrics())
    assert isinstance(made, files.Drop)
    return made


class Reader:
    """Reads a drop as the collector does: what was read whole is known from then on."""

    def __init__(self) -> None:
        self.known: set[bytes] = set()

    async def __call__(self, drop: Drop, now: datetime = NOW) -> list[Told]:
        found = []

        async def is_known(key: bytes) -> bool:
            return key in self.known

        async for parcel in drop.parcels(is_known, now):
            found.append(told := Told(parcel))
            try:
                async for page in parcel.pages:
                    told.pages.append(page)
            except Rejected as error:
                told.rejected = error
            else:
                assert [page.last for page in told.pages][-1:] == [True]
                self.known.add(parcel.key)
            assert not any(page.last for page in told.pages[:-1])
            assert not any(page.covers or page.gaps for page in told.pages if not page.last)
        return found


@pytest.fixture
def look() -> Reader:
    return Reader()


def old(path: Path, age: float = 60) -> Path:
    """Let *path* have been written *age* seconds ago."""
    at = NOW.timestamp() - age
    os.utime(path, (at, at))
    return path


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return old(path)


def uids(told: list[Told], scope: str = "") -> list[str]:
    return [event.uid for event in events(told, scope)]


def events(told: list[Told], scope: str = "") -> list[AuditEvent]:
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
        for each in told
        for page in each.pages
        for event in normalize(page.records, micros(NOW))
    ]


# --- what is read


@pytest.mark.parametrize("kind", ["json", "csv"])
async def test_an_export_is_read_whole_and_says_what_it_covers(
    vendor: Cencori, drop: Drop, look: Reader, tmp_path: Path, kind: Any
) -> None:
    made = vendor.fill(30, NOW - DAY, NOW - HOUR)
    path = vendor.drop(tmp_path, kind)
    before = path.read_bytes()
    [told] = await look(drop)
    assert told.name == path.name
    assert told.key == sha256(before).digest()
    found = events([told])
    assert len({event.uid for event in found}) == 30
    start = NOW - 7 * DAY if kind == "json" else NOW + 12 * HOUR - 7 * DAY
    end = NOW - MINUTE
    if kind == "csv":
        end = datetime.fromtimestamp(max(event.at for event in found) / 1e6, UTC) - MINUTE
    assert told.pages[-1].covers == (Interval(start, end),)
    assert told.pages[-1].gaps == ()
    assert told.bad == []
    if kind == "json":
        assert [event.native_id for event in found] == made[::-1]
    assert path.read_bytes() == before
    assert await look(drop) == []


async def test_both_forms_of_a_row_say_the_same_but_for_what_csv_leaves_out(
    vendor: Cencori, drop: Drop, look: Reader, tmp_path: Path
) -> None:
    vendor.fill(40, NOW - DAY, NOW - HOUR)
    vendor.drop(tmp_path, "json")
    vendor.drop(tmp_path, "csv")
    told = await look(drop)
    by_form = {Path(one.name).suffix: events([one]) for one in told}
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
    vendor: Cencori, drop: Drop, look: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exported, "PAGE_ROWS", 10)
    vendor.fill(30, NOW - DAY, NOW - HOUR)
    for kind in ("json", "csv"):
        vendor.drop(tmp_path, kind)
    for told in await look(drop):
        assert [len(page.records) for page in told.pages] == [10, 10, 10, 0]
    monkeypatch.setattr(exported, "PAGE_ROWS", 10_000)
    monkeypatch.setattr(exported, "PAGE_BYTES", 2_000)
    for told in await Reader()(drop):
        sizes = [sum(map(len, page.records)) for page in told.pages[:-1]]
        assert all(2_000 <= size < 4_000 for size in sizes)
        assert len(told.records) == 30


async def test_memory_does_not_grow_with_the_file(
    vendor: Cencori, drop: Drop, tmp_path: Path
) -> None:
    vendor.fill(50_000, NOW - DAY, NOW - HOUR)
    for kind in ("json", "csv"):
        path = vendor.drop(tmp_path, kind)
        assert path.stat().st_size > 8_000_000
    count = 0

    async def nothing_is_known(_key: bytes) -> bool:
        return False

    tracemalloc.start()
    try:
        async for parcel in drop.parcels(nothing_is_known, NOW):
            async for page in parcel.pages:
                count += len(page.records)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 100_000
    assert peak < 3_000_000


# --- what is the same, and what is not


async def test_a_file_is_known_by_its_content_whatever_it_is_called(
    vendor: Cencori, drop: Drop, look: Reader, tmp_path: Path
) -> None:
    vendor.fill(5, NOW - DAY, NOW - HOUR)
    path = vendor.drop(tmp_path, "json")
    assert len(await look(drop)) == 1
    old(path.rename(tmp_path / "renamed.json"), 5)
    write(tmp_path / "copy.json", (tmp_path / "renamed.json").read_bytes())
    assert await look(drop) == []
    assert await look(make_drop(tmp_path)) == []  # after a restart
    write(tmp_path / "copy.json", (tmp_path / "copy.json").read_bytes() + b"\n")
    assert [told.name for told in await look(drop)] == ["copy.json"]


async def test_of_two_files_with_one_content_only_the_first_is_read(
    vendor: Cencori, drop: Drop, look: Reader, tmp_path: Path
) -> None:
    vendor.fill(5, NOW - DAY, NOW - HOUR)
    for name in ("a.csv", "b.csv"):
        vendor.drop(tmp_path, "csv", name=name)
    assert len(await look(drop)) == 1


@pytest.mark.parametrize("kind", ["json", "csv"])
async def test_exports_that_overlap_show_the_same_events(
    vendor: Cencori, drop: Drop, look: Reader, tmp_path: Path, kind: Any
) -> None:
    at = NOW - HOUR
    for _ in range(3):  # three that a CSV file cannot tell apart
        vendor.add(at, **SAME)
    vendor.add(at, **{**SAME, "description": "another"})
    vendor.drop(tmp_path, kind, "24h", name="one.x".replace("x", kind))
    first = uids(await look(drop))
    assert len(set(first)) == 4
    vendor.add(NOW, **SAME)
    vendor.add(at - MINUTE, **SAME)
    vendor.drop(tmp_path, kind, "7d", name="two.x".replace("x", kind))
    second = uids(await look(drop))
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
    vendor: Cencori, drop: Drop, look: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(25):
        vendor.add(NOW - HOUR, **SAME)
    vendor.drop(tmp_path, "csv")
    whole = uids(await look(drop))
    assert len(set(whole)) == 25
    for size in (1, 7, 24):
        monkeypatch.setattr(exported, "PAGE_ROWS", size)
        assert uids(await Reader()(drop)) == whole


async def test_a_row_of_csv_belongs_to_the_configured_organisation(
    vendor: Cencori, look: Reader, tmp_path: Path
) -> None:
    vendor.add(NOW - HOUR)
    vendor.drop(tmp_path, "csv")
    mine = make_drop(tmp_path, organization_slug=ORGANIZATION_SLUG)
    assert mine.scope == ORGANIZATION_SLUG
    told = await look(mine)
    assert uids(told, "one") != uids(told, "two")


# --- when it is read


async def test_a_file_that_is_being_written_is_left_until_it_lies_still(
    vendor: Cencori, drop: Drop, look: Reader, tmp_path: Path
) -> None:
    vendor.fill(5, NOW - DAY, NOW - HOUR)
    path = vendor.drop(tmp_path, "csv", age=0)
    whole = path.read_bytes()
    for length in (0, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        old(path, 0)
        assert await look(drop) == []
    path.write_bytes(whole)
    old(path, 0)
    assert await look(drop, NOW + timedelta(seconds=9)) == []
    [told] = await look(drop, NOW + timedelta(seconds=10))
    assert len(told.records) == 5


async def test_a_file_whose_clock_is_ahead_is_read_when_it_stays_the_same(
    vendor: Cencori, drop: Drop, look: Reader, tmp_path: Path
) -> None:
    vendor.add(NOW - HOUR)
    path = vendor.drop(tmp_path, "csv", age=-86400)
    assert await look(drop) == []
    path.write_bytes(path.read_bytes() + b"\n")
    old(path, -86400)
    assert await look(drop, NOW + MINUTE) == []  # it was changed
    assert await look(drop, NOW + MINUTE + timedelta(seconds=9)) == []
    assert await look(drop, NOW) == []  # our clock was set back
    assert len(await look(drop, NOW + 2 * MINUTE)) == 1


async def test_a_file_that_changes_between_two_reads_claims_nothing(
    vendor: Cencori, drop: Drop, tmp_path: Path
) -> None:
    vendor.fill(5, NOW - DAY, NOW - HOUR)
    path = vendor.drop(tmp_path, "json")

    async def nothing_is_known(_key: bytes) -> bool:
        return False

    async for parcel in drop.parcels(nothing_is_known, NOW):
        path.write_bytes(path.read_bytes() + b"\n")
        with pytest.raises(Rejected, match="changed while it was read") as caught:
            [page async for page in parcel.pages]
        assert caught.value.reason == "file_changed"


@pytest.mark.parametrize(
    "name",
    [".a.csv", "a.csv.part", "a.json.crdownload", "a.tmp", "a.csv~", "A.CSV.PARTIAL", ".x.csv.swp"],
)
async def test_what_a_program_is_still_writing_is_passed_over(
    drop: Drop, look: Reader, tmp_path: Path, name: str
) -> None:
    write(tmp_path / name, "half")
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    assert await look(drop) == []
    assert await drop.check() == f"0 exports in {tmp_path}"


async def test_the_oldest_export_is_read_first(
    vendor: Cencori, drop: Drop, look: Reader, tmp_path: Path
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
    assert [told.name for told in await look(drop)] == [
        "audit-log-acme-7d-2026-03-08.json",
        "audit-log-acme-7d-2026-03-09.json",
        "b.json",
        "a.json",
    ]


# --- what it claims


@pytest.mark.parametrize("kind", ["json", "csv"])
@pytest.mark.parametrize("most", [1_000, None])
async def test_an_export_that_was_cut_declares_what_may_be_missing(
    *,
    vendor: Cencori,
    drop: Drop,
    look: Reader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Any,
    most: int | None,
) -> None:
    if most is None:
        monkeypatch.setattr(double, "MOST_EXPORTED", 50)
        monkeypatch.setattr("auditrelay.sources.cencori.export_span.CUTS", (50,))
    vendor.switches.max_rows = most
    vendor.fill(1_200, NOW - 5 * DAY, NOW - HOUR)
    vendor.drop(tmp_path, kind)
    [told] = await look(drop)
    oldest = datetime.fromtimestamp(min(event.at for event in events([told])) / 1e6, UTC)
    [(gap, reason)] = told.pages[-1].gaps
    [span] = told.pages[-1].covers
    assert reason == "export_cut"
    assert gap.start == (NOW - 7 * DAY if kind == "json" else NOW + 12 * HOUR - 7 * DAY)
    assert gap.end == span.start
    assert timedelta(0) < span.start - oldest <= timedelta(milliseconds=1)


async def test_a_file_with_a_name_of_its_own_is_forwarded_and_covers_nothing(
    vendor: Cencori, drop: Drop, look: Reader, tmp_path: Path
) -> None:
    vendor.fill(5, NOW - DAY, NOW - HOUR)
    for kind in ("json", "csv"):
        vendor.drop(tmp_path, kind, name=f"mine.{kind}")
    for told in await look(drop):
        assert len(told.records) == 5
        assert (told.pages[-1].covers, told.pages[-1].gaps) == ((), ())


async def test_an_empty_export_covers_its_range(
    vendor: Cencori, drop: Drop, look: Reader, tmp_path: Path
) -> None:
    for kind in ("json", "csv"):
        vendor.drop(tmp_path, kind)
    told = await look(drop)
    assert [one.records for one in told] == [[], []]
    assert all(one.pages[-1].covers for one in told)


# --- bad rows and bad files


async def test_a_bad_row_of_csv_is_told_with_its_line_and_costs_no_other(
    drop: Drop, look: Reader, tmp_path: Path
) -> None:
    good = "2026-03-10T10:00:00.000Z,project,created,project,p1,-,a@b.c,-,ok,-"
    rows = [
        good, "only,three,columns", good.replace("p1", "p2"), good.replace("2026-03-10T10", "soon"),
        good + ",more", good.replace("ok", 'no "quotes"'), good.replace("p1", "p3"),
    ]  # fmt: skip
    write(tmp_path / "x.csv", "\n".join([HEADER, *rows]))
    [told] = await look(drop)
    assert [event.target.id for event in events([told])] == ["p1", "p2", "p3"]
    assert told.bad == [
        (3, "it has 3 columns instead of 10", b"only,three,columns"),
        (5, "its Timestamp is not a time", rows[3].encode()),
        (6, "it has 11 columns instead of 10", rows[4].encode()),
        (7, "a quote stands inside of a field that is not quoted", rows[5].encode()),
    ]


async def test_a_csv_file_that_breaks_off_says_so(
    vendor: Cencori, drop: Drop, look: Reader, tmp_path: Path
) -> None:
    vendor.fill(20, NOW - DAY, NOW - HOUR)
    path = vendor.drop(tmp_path, "csv")
    write(path, path.read_bytes()[:-60])
    [told] = await look(drop)
    assert len(told.bad) == 1
    assert len(told.records) in (18, 19)
    [(gap, reason)] = told.pages[-1].gaps
    assert reason == "export_broken_off"
    assert told.pages[-1].covers[0].start == gap.end


async def test_a_bad_record_of_json_is_told_with_its_line_and_costs_no_other(
    drop: Drop, look: Reader, tmp_path: Path
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
    [told] = await look(drop)
    assert [event.native_id for event in events([told])][:1] == ["1"]
    assert [event.native_id for event in events([told])][-1:] == ["6"]
    shown = [(line, why) for line, why, _ in told.bad]
    assert shown[:6] == [
        (3, "it is not an object"),
        (4, "it is not an object"),
        (5, "it is not an object"),
        (6, "its created_at is not a time"),
        (7, "its created_at is not a time"),
        (8, "it is not JSON"),
    ]
    assert len(told.records) + len(told.bad) == len(rows)


@pytest.mark.parametrize(
    ("name", "text", "reason", "words"),
    [
        ("x.txt", "hello", "not_an_export", "neither a JSON nor a CSV file by its name"),
        ("x.csv.gz", b"\x1f\x8b", "not_an_export", "neither a JSON nor a CSV file by its name"),
        ("x", "", "not_an_export", "neither a JSON"),
        ("x.json", "", "not_an_export", "line 1: not the beginning of a JSON export"),
        ("x.json", "[]", "not_an_export", "not the beginning of a JSON export"),
        ("x.json", '{"logs": [{"id": "1"', "file_breaks_off", "it breaks off before its end"),
        ("x.json", '{"logs": [{"id": "1"}', "file_breaks_off", "line 1: it breaks off"),
        ("x.json", '{"records": []}', "not_an_export", 'it has no list "logs"'),
        ("x.json", '{"logs": [1} ]}', "not_an_export", "line 1: '\\]' is expected where '}'"),
        ("x.csv", "a,b\n1,2", "not_an_export", "line 1: not the header of an export"),
        ("x.csv", '{"logs": []}', "not_an_export", "line 1: not the header"),
        (
            "audit-log-other-7d-2026-03-10.csv", HEADER, "wrong_organization",
            "an export of the organisation 'other', not of 'acme-labs'",
        ),
    ],
)  # fmt: skip
async def test_a_bad_file_is_rejected_left_alone_and_costs_no_other(
    *,
    vendor: Cencori,
    look: Reader,
    tmp_path: Path,
    name: str,
    text: str | bytes,
    reason: str,
    words: str,
) -> None:
    vendor.add(NOW - HOUR)
    drop = make_drop(tmp_path, organization_slug=ORGANIZATION_SLUG)
    old(write(tmp_path / name, text), 3600)
    vendor.drop(tmp_path, "json")
    before = (tmp_path / name).read_bytes()
    told = {one.name: one for one in await look(drop)}
    rejected = told.pop(name).rejected
    assert rejected is not None
    assert rejected.reason == reason
    with pytest.raises(Rejected, match=f"{name}: .*{words}"):
        raise rejected
    [good] = told.values()
    assert len(good.records) == 1
    assert (tmp_path / name).read_bytes() == before


async def test_a_rejected_file_is_told_again_but_not_read_again(
    drop: files.Drop, look: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "x.json", "[]")
    [first] = await look(drop)
    with monkeypatch.context() as patched:
        patched.setattr(files, "open_file", None)
        [second] = await look(drop)
    assert str(second.rejected) == str(first.rejected)
    write(path, '{"logs": []}')
    [third] = await look(drop)
    assert third.rejected is None


async def test_a_file_that_may_not_be_read_is_told_until_it_may(
    vendor: Cencori, drop: Drop, look: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
            [told] = await look(drop)
            keys.add(told.key)
            assert "json: Permission denied" in str(told.rejected)
        assert len(keys) == 1
        assert "cannot be read: audit-log" in await drop.check()
    [told] = await look(drop)
    assert len(told.records) == 1


async def test_a_file_that_is_taken_away_in_between_is_nothing(
    vendor: Cencori,
    drop: files.Drop,
    look: Reader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = vendor.drop(tmp_path, "json")
    usual = drop._folder.complete

    def complete(now: datetime) -> Any:
        found = usual(now)
        path.unlink()
        return found

    monkeypatch.setattr(drop._folder, "complete", complete)
    assert await look(drop) == []


async def test_a_folder_that_is_not_there_holds_the_source(look: Reader, tmp_path: Path) -> None:
    drop = make_drop(tmp_path / "none")
    for ask in (look(drop), drop.check()):
        with pytest.raises(
            Refused, match="none cannot be read: No such file or directory; make it"
        ):
            await ask


async def test_check_says_how_many_files_lie_there_and_which_cannot_be_read(
    vendor: Cencori, drop: Drop, tmp_path: Path
) -> None:
    assert await drop.check() == f"0 exports in {tmp_path}"
    vendor.drop(tmp_path, "json")
    assert await drop.check() == f"1 export in {tmp_path}"
    vendor.drop(tmp_path, "csv")
    write(tmp_path / "x.txt", "")
    words = await drop.check()
    assert words.startswith(f"2 exports in {tmp_path}, and 1 that cannot be read: x.txt: neither")
    for number in range(4):
        write(tmp_path / f"{number}.csv", "")
    assert (await drop.check()).endswith("; ...")


async def test_a_reader_that_is_cancelled_leaves_no_file_open(
    vendor: Cencori, drop: Drop, tmp_path: Path
) -> None:
    vendor.fill(3_000, NOW - DAY, NOW - HOUR)
    vendor.drop(tmp_path, "json")
    begun = asyncio.Event()

    async def nothing_is_known(_key: bytes) -> bool:
        return False

    async def read() -> None:
        async for parcel in drop.parcels(nothing_is_known, NOW):
            async for _ in parcel.pages:
                begun.set()

    task = asyncio.create_task(read())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await drop.close()
    assert not [path for path in open_files() if path.startswith(str(tmp_path))]


def open_files() -> list[str]:
    """Return what this process has open."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(descriptor.readlink()))
    assert found
    return found


# --- the whole way


@pytest.fixture
def running(tmp_path: Path) -> Callable[..., Awaitable[list[str]]]:
    """Run once over what lies in ``drop`` and return the lines that came out."""
    folder = tmp_path / "drop"
    folder.mkdir()
    config = tmp_path / "c.toml"
    config.write_text(
        f'state_dir = "{tmp_path / "state"}"\n[sources.labs]\ntype = "cencori"\nmode = "files"\n'
        f'directory = "{folder}"\n[sinks.out]\ntype = "file"\npath = "{tmp_path / "out"}"\n'
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
    vendor.drop(tmp_path / "drop", "json")
    first = await running()
    assert len(first) == 30
    vendor.drop(tmp_path / "drop", "json", name="again.json")
    vendor.fill(5, now - HOUR, now - 2 * MINUTE)
    vendor.drop(tmp_path / "drop", "json", "24h", name="more.json")
    write(tmp_path / "drop" / "bad.txt", "no")
    assert len(await running()) == 35
    assert len(await running()) == 35


def test_a_folder_has_nothing_to_keep(tmp_path: Path) -> None:
    given = {"type": "cencori", "mode": "files", "directory": tmp_path}
    made = sources.make("labs", settings.Settings.model_validate(given), Metrics(), tmp_path / "s")
    assert isinstance(made, Drop)
    assert not isinstance(made, sources.Keeper)
