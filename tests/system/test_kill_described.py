"""
A service that reads described vendors is killed with SIGKILL in the middle of its walks.

Whatever page it was at: nothing is lost, and in Elasticsearch, which recognises an event by its
uid, nothing is there twice.
"""

import asyncio
import json
import signal
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemon import Daemon, configure, eventually, sinks

from auditrelay.descriptions import FOLDER, PAGES
from auditrelay.sandbox import Sandbox, faults
from auditrelay.sandbox.described import Described
from auditrelay.sandbox.history import Span

pytestmark = pytest.mark.process

EVENTS = 60
PAGE = 10


def double_of(name: str, feed: str | None = None) -> Described:
    """Return the double of a shipped description, with a short past."""
    page = PAGES / (f"{name}.{feed}.json" if feed else f"{name}.json")
    double = Described(FOLDER / f"{name}.toml", feed=feed, page=page)
    now = datetime.now(UTC)
    double.fill(EVENTS, now - timedelta(minutes=50), now - timedelta(minutes=3))
    return double


def records_in(sandbox: Sandbox, vendor: str) -> Counter[str]:
    """Return how often each record of *vendor* is in Elasticsearch, by its text."""
    return Counter(
        json.dumps(json.loads(document["event"]["original"]), sort_keys=True)
        for document in sandbox.elastic.stored.documents
        if document["event"].get("module") == vendor
    )


@pytest.mark.parametrize("page", [1, 4])
async def test_nothing_is_lost_and_nothing_twice_wherever_in_a_walk_it_is_killed(
    tmp_path: Path, page: int
) -> None:
    """By addresses, by the cursors of a client with a token, and by ids."""
    async with (
        Sandbox() as sandbox,
        double_of("okta") as okta,
        double_of("box") as box,
        double_of("openai", "organization") as openai,
    ):
        doubles = {"okta": okta, "box": box, "openai": openai}
        tables: dict[str, Any] = {
            name: {
                **double.settings(),
                "page_size": PAGE,
                "poll_interval": "1s",
                "settle": "0s",
                "overlap": "5s",
                "resweep": [],
                "initial_lookback": "1h",
            }
            for name, double in doubles.items()
        }
        elastic = {"elastic": sinks(sandbox, batch_events=7)["elastic"]}
        daemon = Daemon(configure(tmp_path, tables, elastic))
        sandbox.elastic.faults.add(faults.delay(0.02), method="POST", times=None)
        for double in doubles.values():
            now = datetime.now(UTC)  # others were read while it was about the double before
            double.fill(EVENTS, now - timedelta(seconds=1), now)
            reached = asyncio.Event()
            double.before_page[page] = reached.set
            await daemon.start()
            await asyncio.wait_for(reached.wait(), 20)
            assert await daemon.end(signal.SIGKILL) == -signal.SIGKILL
        async with daemon:
            await eventually(
                lambda: all(
                    len(records_in(sandbox, name)) >= len(double.history)
                    for name, double in doubles.items()
                ),
                what="caught up",
            )
            assert await daemon.end() == 0
        assert "Traceback" not in daemon.log
        for name, double in doubles.items():
            everything = double.history.select(Span(), double.clock())
            made = {json.dumps(entry.record, sort_keys=True) for entry in everything}
            assert len(made) == 2 * EVENTS
            assert records_in(sandbox, name) == dict.fromkeys(made, 1)
        assert Counter(sandbox.elastic.stored.uids).most_common(1)[0][1] == 1
