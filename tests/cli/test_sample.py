"""``auditrelay sample`` of a source that is a folder; of the others see the process tests."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.daemon import command, configure

from auditrelay.sandbox.vendors.cencori import Cencori

pytestmark = pytest.mark.process

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


async def test_the_newest_rows_of_the_newest_export_are_shown_and_nothing_is_kept(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "exports"
    folder.mkdir()
    vendor = Cencori(clock=NOW.timestamp)
    vendor.fill(5, NOW - 4 * HOUR, NOW - 3 * HOUR)
    vendor.drop(folder, "json", name="old.json", age=7200)
    newest = vendor.fill(5, NOW - 2 * HOUR, NOW - HOUR)
    vendor.drop(folder, "json", name="new.json")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    config = configure(
        tmp_path,
        {"one": {"type": "cencori", "mode": "files", "directory": str(folder)}},
        {"lines": {"type": "file", "path": "-"}},
    )
    for words, count in (((), 3), (("--count", "7"), 7)):
        ended = await command(config, "sample", "one", "--as", "raw", *words)
        assert ended.status == 0, ended.stderr
        shown = [json.loads(text)["id"] for text in _documents(ended.stdout)]
        assert len(shown) == count
        assert shown[:3] == newest[::-1][:3]
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def _documents(text: str) -> list[str]:
    """Cut a text into the JSON documents that stand in it one after the other."""
    decoder, found, rest = json.JSONDecoder(), [], text.strip()
    while rest:
        _, end = decoder.raw_decode(rest)
        found.append(rest[:end])
        rest = rest[end:].lstrip()
    return found
