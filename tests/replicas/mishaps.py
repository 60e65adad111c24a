"""
What happens to one replica: a clock that is wrong or stands still, or an end at a bad moment.

As in ``launch``, it is done in the process that was forked, and imports nothing of the tests.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from auditrelay.clock import Clock
from auditrelay.service import configured_feeds, keeper
from auditrelay.store.postgres import leases


@dataclass(frozen=True)
class ClockOff:
    """The time of day is *ahead* (seconds) of what it is, or behind it."""

    ahead: float

    def __call__(self) -> None:
        """Replace the time of day of this process."""
        now = Clock.now

        def wrong(clock: Clock) -> datetime:
            return now(clock) + timedelta(seconds=self.ahead)

        Clock.now = wrong  # type: ignore[method-assign,assignment]  # the fault


def paused_guest() -> None:
    """
    Let the clocks of this process stand still while it does, as those of a paused guest do.

    They go on by at most *most* seconds for each turn of a thread, which is stopped as well.
    """
    most, shown = 0.3, [time.monotonic(), 0.0]

    def tick() -> None:
        while True:
            time.sleep(0.01)
            now = time.monotonic()
            shown[1] += min(now - shown[0], most)
            shown[0] = now

    threading.Thread(target=tick, daemon=True).start()

    def seconds(_: Clock) -> float:
        return 1000.0 + shown[1]

    Clock.monotonic = seconds  # type: ignore[method-assign,assignment]  # the fault
    Clock.boottime = seconds  # type: ignore[method-assign,assignment]  # the fault


@dataclass(frozen=True)
class KilledKeeper:
    """The keeper is killed when it has just asked for a move, and not before the file *go*."""

    go: str

    def __call__(self) -> None:
        """Replace the asking."""
        want = leases.want

        def wanted(db: Any, moves: Any) -> None:
            want(db, moves)
            if os.path.exists(self.go):  # noqa: PTH110  # a text, as it goes to another process
                db.commit()
                os.kill(os.getpid(), signal.SIGKILL)

        leases.want = wanted


@dataclass(frozen=True)
class SoonRetired:
    """What no replica has in its configuration is over soon; then comes another *fault*."""

    fault: Callable[[], None] | None = None

    def __call__(self) -> None:
        """Shorten what is waited for."""
        keeper.RETIRE_INTERVAL = timedelta(seconds=2.5)  # type: ignore[misc]  # it is Final
        configured_feeds.UNWANTED = 2.0  # type: ignore[misc]  # as above
        if self.fault is not None:
            self.fault()
