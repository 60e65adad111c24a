"""
When the evidence is sealed, and what becomes of a head: an event, a log line, a line of a file.

Nothing of this stands between a vendor's reply and its delivery: a seal that fails is logged and
tried again, and what it would have sealed waits.
"""

import asyncio
import contextlib
import os
import secrets
import sqlite3
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import structlog

from auditrelay import __version__
from auditrelay.clock import Clock
from auditrelay.config.model import Config
from auditrelay.errors import EvidenceBroken, LeaseLost, RelayError
from auditrelay.events import AuditEvent
from auditrelay.events.notices import sealed_event
from auditrelay.evidence.heads import Head, Keys
from auditrelay.files import open_regular
from auditrelay.service.configured import configured
from auditrelay.service.store import EvidenceLog
from auditrelay.settings.reserved import ALERTS
from auditrelay.store.sealing import Branch, Run, Sealed
from auditrelay.window import moment

FIRST: Final = timedelta(minutes=5)
"""How long the first seal waits for the first window of each source."""

SOONEST: Final = timedelta(minutes=1)
"""How long after a seal an early one may follow."""

AGAIN: Final = timedelta(minutes=5)
"""When a seal that has failed is tried again."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def head_event(sealed: Sealed) -> AuditEvent:
    """Return the event that carries the head of a seal."""
    head, before = sealed.head, sealed.before
    return sealed_event(
        source=ALERTS,
        uid=head.uid,
        head=head.word,
        log=head.log,
        size=head.size,
        root=head.root,
        before=None if before is None else (before.size, before.root),
        sources=_shown(sealed.sources, "accepted", "covered_until"),
        sinks=_shown(sealed.sinks, "position", "dead"),
        now=moment(sealed.at),
    )


def _shown(states: Mapping[str, Mapping[str, object]], *names: str) -> dict[str, dict[str, object]]:
    return {
        each: {name: state[name] for name in names if name in state}
        for each, state in states.items()
    }


class Sealer:
    """
    Seals the *log* of a process that serves the state, from its begin to its end.

    *config* returns the configuration in force. *announce* is called once a head's event is in the
    spool, *on_seal* after each seal: with None, or why it has failed and since when they do.
    """

    def __init__(
        self,
        log: EvidenceLog,
        config: Callable[[], Config],
        *,
        keys: Keys | None,
        clock: Clock,
        announce: Callable[[], None],
        on_seal: Callable[[tuple[str, datetime] | None], None],
    ) -> None:
        self.due = asyncio.Event()
        """Set when there is a reason not to wait for the next hour."""
        self.looked = asyncio.Event()
        """Set when a source may have read its first window."""
        self._log = log
        self._config = config
        self._make_head = Head if keys is None else keys.head
        self._clock = clock
        self._announce = announce
        self._on_seal = on_seal
        self._failing_since: datetime | None = None
        self._run = secrets.token_hex(16)
        self._begun = False
        self._tried_at = -SOONEST.total_seconds()
        self._untold: list[Head] = []
        """Heads that are not in the file yet."""

    async def begin(self) -> None:
        """Tell that this process begins; if that fails, the first seal does it."""
        try:
            await self._begin()
        except RelayError as error:  # the state is usable: what is not, other work comes upon
            _log.error("ledger_not_sealed", reason=str(error))

    async def _begin(self) -> None:
        versions = {
            "auditrelay": __version__,
            "python": ".".join(map(str, sys.version_info[:3])),
            "sqlite": sqlite3.sqlite_version,
        }
        config = self._config()
        run = Run(self._run, versions, configured(config), config.evidence.keys_before)
        branch = await self._log.begin(run)
        self._begun = True
        if branch is not None:
            _report(branch)

    async def keep_sealing(self, has_read: Callable[[], bool]) -> None:
        """Seal until cancelled, at first once *has_read*: every source has read its window."""
        self._log.waiting.on_much = self.due.set
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST.total_seconds()):
                while not has_read():
                    self.looked.clear()
                    await self.looked.wait()
        while True:
            done = await self.seal()
            wait = self._config().evidence.every if done else AGAIN
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait.total_seconds()):
                    await self.due.wait()
            early = self._tried_at + SOONEST.total_seconds() - self._clock.monotonic()
            if early > 0:
                await self._clock.sleep(early)
            self.due.clear()

    async def reload(self) -> None:
        """Tell of the configuration that is in force now, and seal if it is another one."""
        try:
            if await self._log.configure(configured(self._config())):
                self.due.set()
        except RelayError as error:
            _log.error("ledger_not_sealed", reason=str(error))

    async def end(self) -> None:
        """Tell that this process stops in an orderly way, and seal that."""
        try:
            if not self._begun:  # an end without a begin would make a new state look like a copy
                await self._begin()
            await self._log.end(self._run)
        except RelayError as error:
            _log.error("ledger_not_sealed", reason=str(error))
            return
        await self.seal()

    async def seal(self) -> bool:
        """Seal what was done; return whether that has succeeded."""
        self._tried_at = self._clock.monotonic()
        try:
            if not self._begun:
                await self._begin()
            try:
                sealed = await self._log.seal(head_event, self._make_head)
            except EvidenceBroken as error:
                _log.error("evidence_broken", reason=str(error))
                _report(await self._log.continue_damaged())
                sealed = await self._log.seal(head_event, self._make_head)
        except LeaseLost:
            raise
        except RelayError as error:  # nothing else stops for it
            _log.error("ledger_not_sealed", reason=str(error))
            self._failing_since = self._failing_since or self._clock.now()
            self._on_seal((str(error), self._failing_since))
            return False
        self._failing_since = None
        self._on_seal(None)
        self._announce()
        head = sealed.head
        _log.info("ledger_sealed", log=head.log, size=head.size, head=head.word)
        await self._write_heads(head)
        return True

    async def _write_heads(self, head: Head) -> None:
        """Append *head* to the file of heads, if there is one, and those that it lacks."""
        path = self._config().evidence.heads
        if path is None:
            return
        self._untold.append(head)
        try:
            await asyncio.to_thread(
                _append, path, "".join(f"{each.word}\n" for each in self._untold)
            )
        except OSError as error:
            _log.warning("heads_not_written", path=str(path), reason=error.strerror or str(error))
        else:
            self._untold.clear()


def _append(path: Path, lines: str) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    file = open_regular(path, flags, 0o644, follow=False)
    try:
        os.write(file, lines.encode("ascii"))
        os.fsync(file)
    finally:
        os.close(file)


def _report(branch: Branch) -> None:
    # If it is an alert, that is raised by what the status page finds.
    tip = branch.tip
    _log.warning(
        "evidence_continued",
        log=branch.log,
        before=branch.before,
        size=branch.size,
        why=branch.why,
        tip_log=None if tip is None else tip.log,
        tip_size=None if tip is None else tip.size,
    )
