"""
Whether this replica has the key of the evidence that is in force.

What waits in the state has tags by that key. To a replica with another key every row would seem to
be changed by a stranger, and what it writes would seem so to the others. So one key is in force for
all of them; another one comes into force when none is left that has it.
"""

from enum import Enum, auto
from typing import Final
from uuid import UUID

from auditrelay.errors import StateError
from auditrelay.store.replicas import LIFE, Situation

_DEAD: Final = 1.2
"""After how many lives a replica that still seems to live is not one that has died before us."""


class May(Enum):
    """What may be taken."""

    ALL = auto()
    KEEPER = auto()
    """The keeper alone: what it begins with puts the key into force."""
    NOTHING = auto()


class KeyInForce:
    """The *key* (its id; "" without one) of a replica, and what it may take with that."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._since: float | None = None

    def saw(self, now: Situation, me: UUID | None, at: float) -> May:
        """
        Return what the replica *me* may take.

        Raises StateError once it is certain that others live who have the key in force.
        """
        if now.key == self._key:
            self._since = None
            return May.ALL
        others = [
            each.name
            for each in now.replicas
            if each.id != me and each.fresh and each.info.get("key") == now.key
        ]
        if not others:
            self._since = None
            return May.KEEPER
        if self._since is None:
            self._since = at
        if at - self._since > _DEAD * LIFE:
            raise StateError(
                f"evidence.key is {_named(self._key)}, and that of {', '.join(sorted(others))} is "
                f"{_named(now.key)}: give all replicas one key. To replace it, stop all of them "
                "first (docs/evidence.md, Keys)"
            )
        return May.NOTHING


def _named(key: str) -> str:
    return f"the one with the id {key}" if key else "not set"
