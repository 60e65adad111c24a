"""Shared by many tests: an event, waits that take no time, a fast disk, a guard on processes."""

import gc
import hashlib
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from tests.support.clock import FakeClock
from tests.support.extent import extent
from tests.support.logged import log_plainly

from auditrelay.events import NOTHING, Actor, AuditEvent, Target

pytest_plugins = [
    "tests.support.postgres",
    "tests.support.pgbouncer",
    "tests.support.states",
    "tests.support.wire",
]

MEMORY, ROOM = "/dev/shm", 2 << 30  # a file system in memory, and the bytes it must have free

if (
    "TMPDIR" not in os.environ
    and os.access(MEMORY, os.W_OK)
    and shutil.disk_usage(MEMORY).free >= ROOM
):
    # A store syncs with every commit: on a disk, half of the time of all tests. They kill
    # processes but never cut the power, so no test depends on what a sync guarantees.
    os.environ["TMPDIR"] = tempfile.tempdir = MEMORY

# The default is for programs with less in memory than a process that has collected all tests.
gc.set_threshold(50_000)

_may_start_processes = True

# The workers of one run share the seed, and the header shows it.
if os.environ.setdefault("FUZZ_SEED", "20261126") == "random":  # which make fuzz asks for
    os.environ["FUZZ_SEED"] = str(int.from_bytes(os.urandom(4)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Begin with the tests of replicas, which wait most of the time.

    So one worker waits while the others compute, and none has a long one left at the end.
    """
    items.sort(key=lambda item: "replicas" not in item.path.parts)


def pytest_report_header() -> str:
    return f"fuzzing: FUZZ_SEED={os.environ['FUZZ_SEED']}"


log_plainly()

# How long an example takes says something of the machine, and nothing of the code.
settings.register_profile(
    "without clocks",
    deadline=None,
    max_examples=extent(30, 200),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("without clocks")


def _refuse_processes(event: str, _arguments: tuple[Any, ...]) -> None:
    if event in ("subprocess.Popen", "os.fork", "os.posix_spawn") and not _may_start_processes:
        raise AssertionError("a test that starts a process is marked: pytest.mark.process")


sys.addaudithook(_refuse_processes)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Let only tests that are marked for it start a process."""
    global _may_start_processes  # noqa: PLW0603  # an audit hook cannot be taken back
    _may_start_processes = item.get_closest_marker("process") is not None
    try:
        return (yield)
    finally:
        _may_start_processes = True


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Spare the garbage collector what stays: thousands of tests, and all modules."""
    gc.freeze()


NOON = 1_767_268_800_000_000  # 2026-01-01T12:00:00Z


def make_event(number: int, **changes: Any) -> AuditEvent:
    """Return the event *number*: each differs from all others, and is a second after the last."""
    raw = b'{"id":%d,"event_type":"pathway.updated"}' % number
    fields: dict[str, Any] = {
        "uid": hashlib.sha256(b"%d" % number).hexdigest()[:40],
        "source": "voice",
        "vendor": "bland",
        "product": "Bland AI",
        "api_host": "api.bland.ai",
        "at": NOON + number * 1_000_000,
        "fetched": NOON + 3_600_000_000,
        "time_raw": None,
        "time_quality": "source",
        "native_id": str(number),
        "native_action": "pathway.updated",
        "native_category": "pathway",
        "kind": "pathway",
        "verb": "update",
        "outcome": "success",
        "actor": Actor(kind="user", id="a1", email="dana@acme.example"),
        "target": Target(type="convo_pathway", id=f"p{number}"),
        "org_id": "org-1",
        "org_name": None,
        "project_id": None,
        "project_name": None,
        "privilege": None,
        "changes": (),
        "reason": None,
        "message": f"dana@acme.example pathway.updated {number}",
        "metadata": msgspec.Raw(b'{"version_number":3}'),
        "unmapped": NOTHING,
        "raw": msgspec.Raw(raw),
        "raw_sha256": hashlib.sha256(raw).hexdigest(),
        "warnings": (),
        "tags": (),
    }
    return AuditEvent(**{**fields, **changes})


@pytest.fixture
def event() -> Callable[..., AuditEvent]:
    return make_event


@pytest.fixture
def speed() -> float:
    """How many times faster waits are; infinitely, unless a folder or module overrides it."""
    return math.inf


@pytest.fixture
def clock(speed: float) -> FakeClock:
    """A clock for all that a test builds; waiting on it takes no time, or less."""
    return FakeClock(speed=speed)


@pytest.fixture
def waits(clock: FakeClock) -> list[float]:
    """The seconds that were waited for on the clock."""
    return clock.waits
