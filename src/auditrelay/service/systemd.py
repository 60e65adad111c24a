"""
sd_notify: readiness, status line and watchdog, for systemd and others that speak its protocol.

A notification is a datagram of ``NAME=value`` lines to the Unix socket that ``$NOTIFY_SOCKET``
names (https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html). Without the
variable nothing is sent.
"""

import os
import socket
from collections.abc import Mapping
from typing import Final, Protocol

import structlog

from auditrelay.clock import Clock

MAX_STATUS: Final = 800
"""Most characters of a status line: systemd discards a datagram of more than 4,096 bytes."""

FIRST: Final = 2.0
"""Seconds after the start until the first notification: most peers have answered by then."""

SEND_SECONDS: Final = 1.0
"""How long a datagram may wait for the service manager; the event loop waits with it."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Instance(Protocol):
    """What the supervisor needs to know of the running instance."""

    def stuck(self) -> list[str]:
        """Return the names of the loops that make no progress."""

    def summary(self) -> str:
        """Return the overall health in a sentence."""


class Supervisor:
    """
    The service manager that started this process, by *environ*; or none.

    Never raises, and blocks for *SEND_SECONDS* at the most: one that cannot be reached costs a
    warning in the log.
    """

    def __init__(self, environ: Mapping[str, str], clock: Clock) -> None:
        self._clock = clock
        address = environ.get("NOTIFY_SOCKET", "")
        # A name that begins with @ is in the abstract namespace: the kernel wants a NUL for it.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._interval = _watchdog_interval(environ) if address else None
        self._last_status = ""
        self._reachable = True

    @property
    def restart_command(self) -> str | None:
        """What an operator types to restart the service; None without a service manager."""
        return "systemctl restart auditrelay" if self._address else None

    def ready(self, sentence: str) -> None:
        """Notify that everything runs, or runs again after a reload, with *sentence* as status."""
        self._send("READY=1", f"STATUS={_status_line(sentence)}")
        self._last_status = _status_line(sentence)

    def reloading(self) -> None:
        """Notify that the configuration is read again; :meth:`ready` has to follow in any case."""
        # systemd compares it with its own CLOCK_MONOTONIC, which is that of the real clock, to tell
        # an older READY from the one that follows.
        self._send("RELOADING=1", f"MONOTONIC_USEC={int(self._clock.monotonic() * 1e6)}")

    def stopping(self) -> None:
        """Notify that the service stops, and that this is no failure."""
        self._send("STOPPING=1", "STATUS=Stopping: draining requests in flight")

    async def keep_notifying(self, instance: Instance) -> None:
        """
        Send the watchdog ping, and the status line when it has changed, until cancelled.

        A ping is due at half the time after which the service manager restarts a silent service.
        While a loop of *instance* is stuck none is sent; a blocked event loop sends none either.
        Returns at once if no watchdog is configured.
        """
        if self._interval is None:
            return
        before: list[str] = []
        wait = min(FIRST, self._interval)
        while True:
            await self._clock.sleep(wait)
            wait = self._interval
            stuck = instance.stuck()
            if not stuck:
                self._send("WATCHDOG=1")
            elif stuck != before:
                _log.error("loop_stuck", loops=stuck)
            before = stuck
            sentence = _status_line(instance.summary())
            if sentence != self._last_status:
                self._send(f"STATUS={sentence}")
                self._last_status = sentence

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        message = "\n".join(lines).encode(errors="replace")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(SEND_SECONDS)
                sender.sendto(message, self._address)
        except OSError as error:
            if self._reachable:
                _log.warning("supervisor_unreachable", reason=str(error))
            self._reachable = False
        else:
            self._reachable = True


def _watchdog_interval(environ: Mapping[str, str]) -> float | None:
    """Return the seconds between two watchdog pings, or None if this process need send none."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None  # the variables were inherited: they are meant for a parent
    interval = environ.get("WATCHDOG_USEC", "")
    return int(interval) / 2e6 if interval.isdecimal() and int(interval) else None


def _status_line(sentence: str) -> str:
    return " ".join(sentence.split())[:MAX_STATUS]
