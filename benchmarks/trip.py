"""
Count what one event and one empty poll cost, in calls instead of seconds.

    python benchmarks/trip.py [--sink splunk_hec]

One record of a vendor goes through the collector, the store and the deliverer of one sink, all in
this process, against the sandbox. Counted are, from the first byte of the page that shows it to the
commit that records its delivery: the distinct functions of auditrelay that are entered on any
thread (without comprehensions), the modules that they are in, and how often the thread changes
between two calls. Then the calls of the store, for that event and for a poll that finds nothing.
"""

import argparse
import asyncio
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

import auditrelay
from auditrelay import config
from auditrelay.clock import Clock
from auditrelay.sandbox import Sandbox
from auditrelay.service.app import App

OURS = f"{Path(auditrelay.__file__).parent}/"
SANDBOX = f"{OURS}sandbox/"
CONFIG = """\
state_dir = "{folder}/state"
[sources.voice]
type = "bland"
base_url = "{bland.url}"
api_key = "{bland.api_key}"
initial_lookback = "1h"
[sinks.siem]
type = "{sink}"
"""
SINKS = {
    "splunk_hec": 'url = "{splunk.url}"\ntoken = "{splunk.token}"',
    "datadog": 'url = "{datadog.url}"\napi_key = "{datadog.api_key}"',
    "elasticsearch": 'urls = ["{elastic.url}"]\napi_key = "{elastic.api_key}"',
}


class Calls:
    """Records which functions of auditrelay are entered, on which threads, while it is *on*."""

    def __init__(self) -> None:
        self.on = False
        self._entered: list[tuple[CodeType, int]] = []

    def __call__(self, frame: FrameType, what: str, _: Any) -> None:
        """Take one event of the interpreter."""
        if self.on and what == "call":
            self._entered.append((frame.f_code, threading.get_ident()))

    def trip(self) -> list[tuple[str, str, int]]:
        """Return module, function and thread of each call from the body of the page on."""
        calls = [
            (code.co_filename.removeprefix(OURS), code.co_qualname, thread)
            for code, thread in self._entered
            if code.co_filename.startswith(OURS)
            and not code.co_filename.startswith(SANDBOX)
            and not code.co_name.startswith("<")
        ]
        start = next(i for i, (module, _, _) in enumerate(calls) if module == "http/body.py")
        return calls[start:]


@contextmanager
def counted(store: object) -> Iterator[Counter[str]]:
    """Count the calls of the methods of *store* during the block."""
    counts: Counter[str] = Counter()

    def count(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return method(*args, **kwargs)

        return call

    names = [name for name, each in vars(type(store)).items() if callable(each) and name[0] != "_"]
    for name in names:
        setattr(store, name, count(name, getattr(store, name)))
    yield counts
    for name in names:
        delattr(store, name)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until *condition* is true."""
    while not condition():  # noqa: ASYNC110  # of another thread
        await asyncio.sleep(0.01)


async def measure(sink: str, folder: Path, sandbox: Sandbox, calls: Calls) -> None:
    """Print the counts for one event and one empty poll."""
    names = {"bland": sandbox.bland, "splunk": sandbox.splunk, "folder": folder, "sink": sink}
    names |= {"datadog": sandbox.datadog, "elastic": sandbox.elastic}
    file = folder / "config.toml"
    file.write_text((CONFIG + SINKS[sink]).format(**names))
    stored = {"splunk_hec": sandbox.splunk, "datadog": sandbox.datadog}.get(sink, sandbox.elastic)
    async with App.open(config.load(file), Clock()) as app, asyncio.TaskGroup() as tasks:
        topology, store = app._topology, app._store  # noqa: SLF001  # to count inside
        topology.begin(tasks, AsyncIOScheduler(timezone=UTC))
        (collector,) = topology.collectors.values()

        async def polled() -> None:
            rested_at = collector.polls.rested_at
            collector.polls.due.set()
            await until(lambda: collector.polls.rested_at != rested_at)
            await asyncio.sleep(0.3)  # the resweep after it, and what the deliverer does then

        await polled()
        with counted(store) as empty:
            await polled()
        sandbox.bland.add(datetime.now(UTC) - timedelta(minutes=5))
        with counted(store) as one:
            calls.on = True
            await polled()
            await until(lambda: stored.stored.total == 1)
            await until(lambda: one["settle"] > 0)
            await asyncio.sleep(0.3)
            calls.on = False
        await topology.end()
    trip = calls.trip()
    functions = {(module, name) for module, name, _ in trip}
    changes = sum(a[2] != b[2] for a, b in pairwise(trip))
    modules = {module for module, _ in functions}
    print(
        f"one event into {sink}: {len(functions)} functions in {len(modules)} modules, "
        f"{changes} changes of thread"
    )
    print(f"store, one event:  {dict(one)}")
    print(f"store, empty poll: {dict(empty)}")


def main() -> None:
    """Measure as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sink", choices=SINKS, default="splunk_hec")
    sink = parser.parse_args().sink
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    calls = Calls()
    # The sandbox has a thread of its own, which is not counted.
    sandbox, stop, started = Sandbox(), asyncio.Event(), threading.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with sandbox:
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    started.wait()
    threading.setprofile(calls)
    sys.setprofile(calls)
    try:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(measure(sink, Path(folder), sandbox, calls))
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


if __name__ == "__main__":
    main()
