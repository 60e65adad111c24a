"""
What the service manager is told: that everything runs, how it fares, and signs of life.

This is the protocol of systemd, which others speak as well: a datagram of ``NAME=value`` lines to
the Unix socket that ``$NOTIFY_SOCKET`` names
(https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html). Without the variable
nobody is told anything.
"""

import asyncio
import os
import socket
import time
from collections.abc import Mapping
from typing import Final, Protocol

import structlog

LONGEST: Final = 800
"""Most characters of a sentence: systemd drops a datagram of more than 4,096 bytes whole."""

FIRST: Final = 2.0
"""Seconds after the start until the first look: most peers have answered by then."""

SEND_SECONDS: Final = 1.0
"""How long a datagram may wait for the service manager, and so hold up everything else."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Instance(Protocol):
    """What is asked of the running instance."""

    def stuck(self) -> list[str]:
        """Return the names of the loops that make no progress."""

    def summary(self) -> str:
        """Return in a sentence how everything fares."""


class Supervisor:
    """
    The service manager that started this process, as *environ* tells; or nobody.

    It is told, never asked: one that cannot be reached costs a warning.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # A name that begins with @ lies in no folder; the kernel wants a nought for it.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._pulse = _pulse(environ) if address else None
        self._said = ""
        self._reachable = True

    @property
    def restart_command(self) -> str | None:
        """What an operator types to restart the service; None if nobody supervises it."""
        return "systemctl restart auditrelay" if self._address else None

    def ready(self, sentence: str) -> None:
        """Tell that everything runs, or that it runs again after a reload."""
        self._send("READY=1", f"STATUS={_line(sentence)}")
        self._said = _line(sentence)

    def reloading(self) -> None:
        """Tell that the configuration is read again; :meth:`ready` has to follow, whatever came."""
        # systemd compares it with its own clock, so as not to take an older READY for this one's.
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Tell that it ends, and that this is no failure."""
        self._send("STOPPING=1", "STATUS=Stopping: what is in flight may land")

    async def keep_telling(self, instance: Instance) -> None:
        """
        Give a sign of life, and the sentence when it has changed, until cancelled.

        Each comes at half the time after which the service manager restarts what is silent. A
        loop that is stuck silences it; and if the event loop is blocked nothing gets here. Returns
        at once if no sign of life is wanted.
        """
        if self._pulse is None:
            return
        before: list[str] = []
        wait = min(FIRST, self._pulse)
        while True:
            await asyncio.sleep(wait)
            wait = self._pulse
            stuck = instance.stuck()
            if not stuck:
                self._send("WATCHDOG=1")
            elif stuck != before:
                _log.error("loop_stuck", loops=stuck)
            before = stuck
            sentence = _line(instance.summary())
            if sentence != self._said:
                self._send(f"STATUS={sentence}")
                self._said = sentence

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


def _pulse(environ: Mapping[str, str]) -> float | None:
    """Return the seconds between two signs of life, or None if this process need give none."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None  # the variables were inherited: they are meant for a parent
    interval = environ.get("WATCHDOG_USEC", "")
    return int(interval) / 2e6 if interval.isdecimal() and int(interval) else None


def _line(sentence: str) -> str:
    return " ".join(sentence.split())[:LONGEST]
