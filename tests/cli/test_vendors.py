"""``check`` and ``sample`` against every vendor: what it has, or why it refuses, in its words."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemon import Ended, command, configure

from auditrelay.sandbox import Vendor, vendors
from auditrelay.sandbox.vendors import Refusal

pytestmark = pytest.mark.process

WIDE = {"COLUMNS": "2000"}
"""So that no sentence is broken into the lines of its column."""

FILE = {"file": {"type": "file", "path": "-"}}

CASES = [
    (kind, refusal) for kind, vendor in vendors.available().items() for refusal in vendor.REFUSALS
]


def table(double: Vendor, refusal: Refusal | None = None) -> dict[str, Any]:
    """Return the table of a source that reads *double*, and is refused if there is a *refusal*."""
    changes = refusal.provoke(double) if refusal else {}
    keys = {**double.settings(), **changes}
    return {key: value for key, value in keys.items() if value is not None}


def rows(ended: Ended) -> dict[str, tuple[str, str]]:
    """Return result and words of each row of the table that ``check`` prints, by name."""
    lines = [line.strip("│").split("│") for line in ended.stdout.splitlines() if "│" in line]
    return {name.strip(): (result.strip(), words.strip()) for name, _, result, words in lines}


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def test_check_says_of_every_refusal_what_the_vendor_says_and_what_to_do(
    tmp_path: Path, stack: AsyncExitStack
) -> None:
    """All at once, each against a double of its own."""
    sources = {}
    secrets = []
    for number, (kind, refusal) in enumerate(CASES):
        double = await stack.enter_async_context(vendors.available()[kind]())
        double.fill(3, datetime.now(UTC) - timedelta(minutes=30), datetime.now(UTC))
        sources[f"s{number}"] = table(double, refusal)
        secrets.append(double.secret)
    config = configure(tmp_path, sources, FILE)
    ended = await command(config, "check", environ=WIDE)
    assert ended.status == 1
    found = rows(ended)
    for number, (kind, refusal) in enumerate(CASES):
        result, words = found[f"s{number}"]
        assert result == "failed", (kind, refusal.name)
        assert words.startswith(f"{refusal.status} from GET http://127.0.0.1:"), words
        assert refusal.words in words
        if refusal.status in (401, 403, 404):
            _, _, advice = words.partition("; ")
            assert len(advice) > 20, f"{kind}, {refusal.name}: {words}"
    assert "Traceback" not in ended.stderr
    assert not [secret for secret in secrets if secret in ended.stdout + ended.stderr]


async def test_check_says_that_every_vendor_answers(tmp_path: Path, stack: AsyncExitStack) -> None:
    sources = {}
    for kind, vendor in vendors.available().items():
        double = await stack.enter_async_context(vendor())
        double.fill(3, datetime.now(UTC) - timedelta(minutes=30), datetime.now(UTC))
        sources[kind] = table(double)
    ended = await command(configure(tmp_path, sources, FILE), "check", environ=WIDE)
    assert ended.status == 0, ended.stdout
    found = rows(ended)
    for kind in vendors.available():
        assert found[kind] == ("ok", "answers; 3 events in the last hour")


@pytest.mark.parametrize("kind", vendors.available())
async def test_sample_prints_the_newest_records_as_they_are(
    tmp_path: Path, stack: AsyncExitStack, kind: str
) -> None:
    double = await stack.enter_async_context(vendors.available()[kind]())
    double.fill(5, datetime.now(UTC) - timedelta(minutes=30), datetime.now(UTC))
    config = configure(tmp_path, {"it": table(double)}, FILE)
    ended = await command(config, "sample", "it", "--as", "raw", "--count", "2")
    assert ended.status == 0, ended.stderr
    texts = ended.stdout.replace("}\n{", "}\0{").split("\0")
    newest = [entry.record for entry in double.history._entries[-2:]]
    assert [json.loads(text) for text in texts] == newest[::-1]
    assert not (tmp_path / "state").exists(), "it stores nothing"


@pytest.mark.parametrize("kind", vendors.available())
async def test_sample_says_why_it_is_refused(
    tmp_path: Path, stack: AsyncExitStack, kind: str
) -> None:
    refusal = next(it for it in vendors.available()[kind].REFUSALS if it.status == 403)
    double = await stack.enter_async_context(vendors.available()[kind]())
    config = configure(tmp_path, {"it": table(double, refusal)}, FILE)
    ended = await command(config, "sample", "it", environ=WIDE)
    assert ended.status == 1
    assert ended.stdout == ""
    assert refusal.words in ended.stderr
    assert "Traceback" not in ended.stderr
