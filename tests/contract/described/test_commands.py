"""The commands that ask a source work for a vendor that only a description knows."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.daemon import Ended, command, configure

from auditrelay.descriptions import FOLDER, PAGES
from auditrelay.sandbox.described import Described

SINK = {"out": {"type": "file", "path": "-"}}


@asynccontextmanager
async def vendor(name: str, feed: str | None = None, events: int = 9) -> AsyncIterator[Described]:
    """Run the double of a shipped description, with events of the last hours."""
    page = PAGES / (f"{name}.{feed}.json" if feed else f"{name}.json")
    async with Described(FOLDER / f"{name}.toml", feed=feed, page=page) as double:
        newest = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=10)
        for number in range(events):
            double.add(newest - timedelta(minutes=5) * number)
        yield double


async def run(folder: Path, double: Described, *words: str) -> Ended:
    config = configure(folder, {"acme": double.settings()}, SINK)
    return await command(config, *words)


@pytest.mark.process
@pytest.mark.parametrize(
    ("name", "feed"),
    [("okta", None), ("buildkite", None), ("hcp_terraform", None), ("github", "organization")],
)
async def test_sample_shows_the_newest_events(name: str, feed: str | None, tmp_path: Path) -> None:
    async with vendor(name, feed) as double:
        ended = await run(tmp_path, double, "sample", "acme", "--as", "ocsf", "--count", "2")
        assert ended.status == 0, ended.stderr
        decoder, text, found = json.JSONDecoder(), ended.stdout.strip(), []
        while text:
            value, end = decoder.raw_decode(text)
            found.append(value)
            text = text[end:].lstrip()
        assert len(found) == 2
        assert found[0]["time"] >= found[1]["time"]
        ended = await run(tmp_path, double, "sample", "acme", "--pages", "--from", "2h")
        assert ended.status == 0, ended.stderr
        assert "complete: " in ended.stdout


@pytest.mark.process
async def test_check_shows_what_is_proved_and_notes_below_the_table(tmp_path: Path) -> None:
    async with vendor("okta") as double:
        ended = await run(tmp_path, double, "check", "--thorough")
        assert ended.status == 0, ended.stdout
        table, _, notes = ended.stdout.partition("\nNotes on acme:\n")
        assert "both bounds" in " ".join(table.replace("│", " ").split())
        assert "the lower bound is included, the upper one is not" in notes
        ended = await run(tmp_path, double, "check", "--thorough", "--offline")
        assert ended.status == 2
        assert "--offline and --thorough exclude each other" in ended.stderr


@pytest.mark.process
async def test_record_writes_an_example_and_shows_what_is_left(tmp_path: Path) -> None:
    out = tmp_path / "examples"
    async with vendor("okta") as double:
        words = ("description", "record", "acme", "--out", str(out))
        ended = await run(tmp_path, double, *words)
        assert ended.status == 0, ended.stderr
        assert "an empty window is empty" in ended.stdout
        assert "eventType: " in ended.stdout
        assert "ana.example@" not in ended.stdout
        assert {"about.toml", "1.request.json", "2.reply.json"} <= {
            file.name for file in (out / "two_pages").iterdir()
        }
        again = await run(tmp_path, double, *words)
        assert again.status == 2
        assert "exists already; not overwritten" in again.stderr
    async with vendor("okta", events=1) as double:
        ended = await run(tmp_path, double, "description", "record", "acme", "--out", f"{out}2")
        assert ended.status == 1
        assert "an example needs two pages" in ended.stderr
        ended = await run(tmp_path, double, "description", "record", "acmee", "--out", f"{out}2")
        assert ended.status == 2
        assert "there is no source 'acmee'" in ended.stderr
