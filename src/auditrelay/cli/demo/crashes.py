"""
A crash test of the disk that the state is on: the daemon is killed again and again while it works.

SIGKILL leaves what the program has written to the operating system, so this shows that the state is
whole wherever the program ends, on this file system and with its locks. It cannot show what a disk
does that confirms writes which it has not made: only a cut of the power shows that.
"""

import asyncio
import contextlib
import random
import statistics
import time
from datetime import timedelta
from typing import Final, Self

import typer

from auditrelay.cli.demo.child import Fleet
from auditrelay.cli.demo.view import View
from auditrelay.errors import RelayError
from auditrelay.sandbox import Sandbox
from auditrelay.settings.values import format_duration

_SPREAD: Final = (0.3, 1.7)
"""The least and the most of the interval after which the daemon is killed: also as it starts."""

_LOOK: Final = 0.02
"""Seconds between two looks at what has arrived."""


class Crashes:
    """
    Kills a daemon of *fleet* about *every* so often during a ``with`` block, and starts it again.

    Leaving the block ends the kills; all daemons run then.
    """

    def __init__(self, fleet: Fleet, sandbox: Sandbox, view: View, every: timedelta) -> None:
        self.fleet = fleet
        self.sandbox = sandbox
        self.kills = 0
        self.recoveries: list[float] = []
        """Seconds from each kill, and restart, to the first event that arrived after it."""
        self._view = view
        self._every = every
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._rng = random.Random()  # noqa: S311  # any instant is as good as another

    async def __aenter__(self) -> Self:
        """Begin to kill."""
        self._view.announce(
            f"{'the daemon' if len(self.fleet.daemons) == 1 else 'a daemon'} is killed about every "
            f"{format_duration(self._every)} (SIGKILL)"
        )
        self._task = asyncio.create_task(self._kill_again_and_again())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Kill no more. Raises RelayError if the daemon ended by itself."""
        assert self._task is not None  # noqa: S101  # __aenter__ made it
        self._over.set()
        await self._task
        await self.fleet.started()

    async def _kill_again_and_again(self) -> None:
        while await self._live_for(self._every.total_seconds() * self._rng.uniform(*_SPREAD)):
            daemon = self._rng.choice(self.fleet.daemons)
            await daemon.kill()
            self.kills += 1
            self._view.announce(f"kill {self.kills}{daemon.name and ': '}{daemon.name}")
            await daemon.begin()

    async def _live_for(self, seconds: float) -> bool:
        """Wait so long, and see when the first event arrives; return false if all is over."""
        began, before = time.monotonic(), self._arrived()
        recovered = not self.kills
        while (lived := time.monotonic() - began) < seconds:
            if any(daemon.ended for daemon in self.fleet.daemons):
                raise RelayError("the daemon has ended by itself; see the lines above")
            if not recovered and self._arrived() != before:
                self.recoveries.append(lived)
                recovered = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), _LOOK)
                return False
        return True

    def _arrived(self) -> int:
        return sum(siem.stored.total for siem in self.sandbox.siems.values())


async def print_reckoning(crashes: Crashes, lost: int) -> bool:
    """Print what the kills have cost; return whether no event was lost or, visibly, repeated."""
    sandbox, times = crashes.sandbox, sorted(crashes.recoveries)
    whole, said = await crashes.fleet.daemons[0].run("coverage", "--check")
    made = sum(len(list(vendor.known_ids())) for vendor in sandbox.vendors.values())
    typer.echo(f"\nCrash test: {crashes.kills} kills, {made:,} events, {lost:,} lost.")
    repeated = 0
    for name, siem in sandbox.siems.items():
        if siem.DEDUPLICATES:
            twice = sum(count - 1 for count in siem.stored.by_native_id.values())
            repeated += twice
            typer.echo(f"  {name}: {twice:,} repeated (it recognises an event by its id)")
        else:
            again = sum(count - 1 for count in siem.stored.by_uid.values())
            typer.echo(f"  {name}: {again:,} repeated, which it cannot recognise")
    if times:
        typer.echo(
            f"  from a restart to the first delivery: {times[0]:.1f} s at least, "
            f"median {statistics.median(times):.1f} s, {times[-1]:.1f} s at most, over "
            f"{len(times)} restarts; {crashes.kills - len(times)} were killed before it"
        )
    elif crashes.kills:
        typer.echo("  no restart came to a delivery before the next kill: kill less often")
    typer.echo("  the evidence is intact" if whole else f"  the evidence is NOT intact:\n{said}")
    return whole and not lost and not repeated
