"""Units on whose settings the replicas do not agree. Pure."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from auditrelay.store.parts import peer_of
from auditrelay.store.replicas import Replica

ROLL_OUT: Final = timedelta(minutes=10)
"""For how long replicas may differ: while a new configuration is rolled out, they do."""


class Disagreements:
    """Since when the digests of a unit's settings differ among the live replicas."""

    def __init__(self) -> None:
        self._since: dict[str, datetime] = {}

    def saw(self, replicas: Iterable[Replica], now: datetime) -> None:
        """Take note of what the live ones of *replicas* serve, and how."""
        digests: dict[str, set[str]] = {}
        for replica in replicas:
            if replica.fresh and not replica.command:
                for unit, served in replica.serves.items():
                    # Also about the number of its parts.
                    digests.setdefault(peer_of(unit), set()).add(served.digest)
        since, self._since = self._since, {}
        for unit, different in digests.items():
            if len(different) > 1:
                self._since[unit] = since.get(unit, now)

    def lasting(self, now: datetime) -> dict[str, datetime]:
        """Return the units that are in dispute for longer than a roll-out, and since when."""
        return {unit: since for unit, since in self._since.items() if now - since >= ROLL_OUT}
