"""``auditrelay sample --pages``: each page of a window, and how its walk ended."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemon import Ended, command, configure

from auditrelay.sandbox import Vendor, faults
from auditrelay.sandbox.messages import Request
from auditrelay.sandbox.vendors.bland import Bland
from auditrelay.sandbox.vendors.jitsudo import Jitsudo

pytestmark = pytest.mark.process

END = datetime(2026, 3, 1, 12, tzinfo=UTC)
START = END - timedelta(minutes=250)
FROM = "2026-03-01T07:50:00Z"
TO = "2026-03-01T12:00:00Z"


async def sample(folder: Path, vendor: Vendor, *words: str, **changes: Any) -> Ended:
    """Run ``sample one --pages`` for the window that *vendor* was filled in."""
    config = written(folder, {**vendor.settings(), **changes})
    ended = await command(config, "sample", "one", "--pages", "--from", FROM, "--to", TO, *words)
    assert _names(folder) == ["auditrelay.toml"], "nothing is stored"
    assert vendor.secret not in ended.stdout + ended.stderr
    return ended


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def written(folder: Path, source: dict[str, Any]) -> Path:
    return configure(folder, {"one": source}, {"lines": {"type": "file", "path": "-"}})


async def test_each_page_of_a_window_is_a_line_and_the_last_line_is_how_the_walk_ended(
    tmp_path: Path,
) -> None:
    async with Bland() as vendor:
        vendor.fill(250, START, END)
        ended = await sample(tmp_path, vendor)
    assert (ended.status, ended.stderr) == (0, "")
    assert ended.stdout == (
        f"one from {FROM} to {TO}\n"
        "  page 1: 100 records, 100 new; 2026-03-01T10:20:00Z .. 2026-03-01T11:59:00Z; total 250; "
        "more pages\n"
        "  page 2: 100 records, 100 new; 2026-03-01T08:40:00Z .. 2026-03-01T10:19:00Z; total 250; "
        "more pages\n"
        "  page 3: 50 records, 50 new; 2026-03-01T07:50:00Z .. 2026-03-01T08:39:00Z; total 250; "
        "last page\n"
        "  complete: 250 events on 3 pages\n"
    )


async def test_a_window_longer_than_max_window_is_walked_in_parts(tmp_path: Path) -> None:
    async with Bland() as vendor:
        vendor.fill(3, END - timedelta(minutes=3), END)
        ended = await sample(tmp_path, vendor, max_window="2h")
    assert ended.status == 0
    assert [line for line in ended.stdout.splitlines() if not line.startswith("  page")] == [
        f"one from {FROM} to 2026-03-01T09:50:00Z",
        "  complete: 0 events on 1 page",
        "one from 2026-03-01T09:50:00Z to 2026-03-01T11:50:00Z",
        "  complete: 0 events on 1 page",
        f"one from 2026-03-01T11:50:00Z to {TO}",
        "  complete: 3 events on 1 page",
    ]
    assert "  page 1: 0 records, 0 new; total 0; last page" in ended.stdout.splitlines()


async def test_a_repeated_page_is_shown_and_named(tmp_path: Path) -> None:
    async with Bland() as vendor:
        vendor.fill(250, START, END)
        vendor.on_request = lambda request: request.query.update(page="1")
        # The vendor does not say which page it shows, or the source itself would notice.
        vendor.faults.add(faults.rewrite(_without_page_numbers), times=None)
        ended = await sample(tmp_path, vendor)
    assert ended.status == 1
    lines = ended.stdout.splitlines()
    assert [line.partition(";")[0] for line in lines[1:]] == [
        "  page 1: 100 records, 100 new",
        "  page 2: 100 records, 0 new",
        "  repeated_page: a page came a second time",
        "  A poll reads this part in smaller ones instead.",
    ]


def _without_page_numbers(_: Request, response: Any) -> Any:
    body = json.loads(response.body)
    del body["data"]["current_page"]
    response.body = json.dumps(body).encode()
    return response


async def test_pages_that_move_are_walked_again_and_named(tmp_path: Path) -> None:
    async with Bland() as vendor:
        ids = vendor.fill(150, START, END)

        def move(request: Request) -> None:
            if request.query["page"] == "2":
                vendor.history.remove(ids.pop())

        vendor.on_request = move
        ended = await sample(tmp_path, vendor)
    assert ended.status == 1
    assert "  page 2: 49 records, 49 new;" in ended.stdout
    assert "  Again (walk 4 of at most 4): the pages moved" in ended.stdout
    assert "\n  pages_moved: records kept moving between the pages\n" in ended.stdout


async def test_a_total_that_is_never_reached_is_named_and_breaks_no_walk(tmp_path: Path) -> None:
    def one_more(_: Request, response: Any) -> Any:
        body = json.loads(response.body)
        body["data"]["total"] += 1
        response.body = json.dumps(body).encode()
        return response

    async with Bland() as vendor:
        vendor.fill(3, START, END)
        vendor.faults.add(faults.rewrite(one_more), times=None)
        ended = await sample(tmp_path, vendor)
    assert ended.status == 0
    assert ended.stdout.splitlines()[-1] == (
        "  total_mismatched: two walks agree, and show 3 events; the vendor's total is 4. A "
        "poll takes the part as read, and logs a warning."
    )
    assert [line["event"] for line in ended.lines] == ["total_mismatched"]


async def test_a_vendor_that_throttles_ends_the_walk_with_its_answer(tmp_path: Path) -> None:
    async with Bland() as vendor:
        vendor.fill(250, START, END)
        # A longer wait than a poll takes: there is no other attempt.
        vendor.faults.add(faults.too_many(retry_after="1000"), nth=2)
        ended = await sample(tmp_path, vendor, max_window="4h")
    assert ended.status == 1
    lines = ended.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines[1:]] == ["  page 1", "  status_429"]
    assert lines[-1].startswith("  status_429: 429 from GET http://127.0.0.1:")
    assert ended.stdout.count("one from") == 1, "the second part is not walked"


async def test_a_refused_key_is_named(tmp_path: Path) -> None:
    async with Bland() as vendor:
        ended = await sample(tmp_path, vendor, api_key="wrong-key-1")
    assert ended.status == 1
    assert "\n  status_401: 401 from GET http://127.0.0.1:" in ended.stdout


async def test_a_cursor_is_shown_as_a_digest_by_which_a_repeated_one_is_seen(
    tmp_path: Path,
) -> None:
    cursors: set[str] = set()
    async with Jitsudo() as vendor:
        vendor.fill(250, START, END)
        vendor.on_request = lambda request: cursors.update([request.query.get("cursor", "")])
        honest = await sample(tmp_path, vendor, page_size=100)
        vendor.switches.more = "repeating"
        repeating = await sample(tmp_path, vendor, page_size=100)
    assert honest.status == 0
    assert len(set(_digests(honest))) == len(_digests(honest)) == 2
    assert honest.stdout.splitlines()[-1] == "  complete: 250 events on 3 pages"
    assert repeating.status == 1
    assert len(set(_digests(repeating))) < len(_digests(repeating))
    assert "\n  cursor_repeats: JITSudo returned a cursor" in repeating.stdout
    assert not [cursor for cursor in cursors - {""} if cursor in honest.stdout + repeating.stdout]
    assert len(cursors) > 2


def _digests(ended: Ended) -> list[str]:
    return re.findall(r"; no total; more pages, cursor ([0-9a-f]{8})$", ended.stdout, re.MULTILINE)


async def test_at_debug_the_requests_are_shown_too(tmp_path: Path) -> None:
    async with Bland() as vendor:
        vendor.fill(150, START, END)
        config = written(tmp_path, vendor.settings())
        ended = await command(
            config,
            *("--log-level", "debug", "sample", "one", "--pages", "--from", FROM, "--to", TO),
        )
    assert [(line["event"], line["status"]) for line in ended.lines] == [("request", 200)] * 2
    assert vendor.secret not in ended.stderr


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--pages",), "--pages needs the start of the window: add --from T"),
        (("--pages", "--to", TO), "--pages needs the start of the window: add --from T"),
        (("--from", FROM), "--from and --to are the window of --pages: add --pages"),
        (("--to", TO), "--from and --to are the window of --pages: add --pages"),
        (
            ("--pages", "--from", FROM, "--as", "raw"),
            "--pages prints no events: leave out --as",
        ),
        (
            ("--pages", "--from", FROM, "--count", "3"),
            "--pages prints no events: leave out --count",
        ),
        (
            ("--pages", "--from", "yesterday"),
            (
                "--from: 'yesterday' is not a time: write 2026-03-01T00:00:00Z, 2026-03-01, or "
                "how long ago, such as 36h"
            ),
        ),
        (
            ("--pages", "--from", TO, "--to", FROM),
            (
                "the range ends before it starts: 2026-03-01T12:00:00+00:00 .. "
                "2026-03-01T07:50:00+00:00"
            ),
        ),
        (("--pages", "--from", "1969-12-31"), "--from is before 1970: 1969-12-31T00:00:00+00:00"),
    ],
)
async def test_options_that_do_not_go_together_are_wrong_usage(
    tmp_path: Path, words: tuple[str, ...], problem: str
) -> None:
    config = written(
        tmp_path, {"type": "bland", "api_key": "some-key", "base_url": "http://127.0.0.1:9"}
    )
    ended = await command(config, "sample", "one", *words)
    assert (ended.status, ended.stdout, ended.stderr) == (2, "", f"auditrelay: {problem}\n")


async def test_a_range_that_has_not_settled_says_so(tmp_path: Path) -> None:
    config = written(
        tmp_path, {"type": "bland", "api_key": "some-key", "base_url": "http://127.0.0.1:9"}
    )
    ended = await command(config, "sample", "one", "--pages", "--from", "10s")
    assert ended.status == 2
    assert "(without --to, the last 1m are left out: they have not settled yet)" in ended.stderr


async def test_a_source_that_reads_files_has_no_pages(tmp_path: Path) -> None:
    folder = tmp_path / "exports"
    folder.mkdir()
    config = written(tmp_path, {"type": "cencori", "mode": "files", "directory": str(folder)})
    ended = await command(config, "sample", "one", "--pages", "--from", FROM)
    assert (ended.status, ended.stdout) == (2, "")
    assert ended.stderr == (
        "auditrelay: one reads files and cannot be asked for a window: it has no pages; leave out "
        "--pages\n"
    )
