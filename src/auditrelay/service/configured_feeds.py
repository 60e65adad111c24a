"""
Which sinks receive which sources, by the configurations of all replicas. Pure.

During a roll-out they differ: an old replica that restarts must not cut off what a new one has
added. So only what no live replica has had in its configuration for a while is over.
"""

from collections.abc import Iterable
from typing import Final

from auditrelay.settings.reserved import ALERTS
from auditrelay.store.parts import name_of
from auditrelay.store.replicas import Replica

UNWANTED: Final = 600.0
"""Seconds for which no live replica has it configured until a source or a feed is orphaned."""


class ConfiguredFeeds:
    """What was seen, and when last, by the clock of this machine (seconds)."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._sources: dict[str, float] = {}
        self._feeds: dict[tuple[str, str], float] = {}

    def saw(self, replicas: Iterable[Replica], now: float) -> None:
        """Take note of what the live ones of *replicas* serve."""
        self._since = now if self._since is None else self._since
        for replica in replicas:
            if not replica.fresh:
                continue
            for unit, served in replica.serves.items():
                kind, name = unit.partition(" ")[0], name_of(unit)
                if kind == "source":
                    self._sources[name] = now
                for source in (*served.sources, ALERTS) if kind == "sink" else ():
                    self._feeds[name, source] = now
            # What it has in its configuration and leaves to others is no less configured: they may
            # all be away.
            for sink, sources in replica.info.get("elsewhere", {}).items():
                for source in (*sources, ALERTS):
                    self._feeds[sink, source] = now

    def current(self, now: float) -> tuple[dict[str, list[str]], list[str]] | None:
        """
        Return by sink the sources that it receives, and all sources; None if not known yet.

        Sources that a replica has and cannot serve just now are still received by its sinks.
        """
        if self._since is None or now - self._since < UNWANTED:
            return None
        configured: dict[str, list[str]] = {}
        for (sink, source), seen in sorted(self._feeds.items()):
            if now - seen < UNWANTED:
                configured.setdefault(sink, []).append(source)
        sources = {name for name, seen in self._sources.items() if now - seen < UNWANTED}
        sources.update(source for fed in configured.values() for source in fed)
        return configured, sorted(sources)
