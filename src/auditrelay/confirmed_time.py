"""
What time it certainly is: our own clock, compared with what the replies of peers say.

The clock of a machine may be years off for a few seconds (a boot before NTP, a snapshot, a
suspend), and so may that of a peer. What is written for good must not rest on one of them alone: it
rests on a moment that two of them agree is past, see docs/decisions/0032-confirmed-time.md.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

TOLERANCE: Final = timedelta(minutes=1)
"""Clocks that differ by no more agree: less than any overlap."""

LEAP: Final = timedelta(hours=1)
"""How far our clock alone may go beyond the moment that the last run knew to be past, at once."""

PACE: Final = 60
"""And how many seconds further with each second that passes: a day's rest is 24 minutes."""

REPEATED: Final = 600.0
"""Seconds after which a peer whose replies say no time any more is not held to what one said."""

EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""No peer, and no event of one, is older: such a time is a mistake."""

LATEST: Final = datetime(9000, 1, 1, tzinfo=UTC)
"""A date that is later is no claim: arithmetic on it would overflow."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """
    What a reply said: it was made *at* that time, and was *age* old when it came, *since*.

    *agreed* is whether our clock showed the same then: if they differ later, ours has jumped.
    """

    at: datetime
    age: timedelta
    since: float
    agreed: bool


class ConfirmedTime:
    """
    The time by our own clock (*now*) and by the ``Date`` of the peers' replies.

    Between replies a peer's clock is continued by *monotonic*, which no step moves.
    """

    def __init__(self, now: Callable[[], datetime], monotonic: Callable[[], float]) -> None:
        self.heard_once = asyncio.Event()
        """Set once a reply of this run has said what time it is."""
        self._now = now
        self._monotonic = monotonic
        self._claims: dict[str, _Claim] = {}
        self._mark: tuple[datetime, float] | None = None
        """A moment that an earlier run knew to be past, and since when this one knows it."""

    def hear(self, peer: str, date: datetime | None, age: timedelta) -> None:
        """
        Record that a reply of *peer* says *date*, and that a cache has kept it for *age*.

        One that says none (or what is no time) takes nothing back at once. But a gateway may have
        said something wrong once, for a peer that never says what time it is.
        """
        known = self._claims.get(peer)
        if date is None or not EARLIEST <= date <= LATEST:
            if known is not None and not known.agreed and self._since(known) > REPEATED:
                del self._claims[peer]
            return
        if age and known is not None and date < self._continued(known):
            return  # an old reply takes nothing back
        at = date.astimezone(UTC)
        self._claims[peer] = _Claim(at, age, self._monotonic(), _agree(self._now(), at))
        self.heard_once.set()

    def resume(self, mark: datetime) -> None:
        """Continue from *mark*, which an earlier run knew to be past."""
        self._mark = mark, self._monotonic()

    def has_heard(self, peer: str) -> bool:
        """Return whether a reply of *peer* has said in this run what time it is."""
        return peer in self._claims

    @property
    def is_bounded(self) -> bool:
        """Whether a jump of our own clock would be noticed: by a reply, or by an earlier run."""
        return bool(self._claims) or self._mark is not None

    @property
    def mark(self) -> datetime:
        """What the next run should continue from."""
        certain = self.certain()
        if self._claims or self._mark is None:
            return certain
        return max(certain, self._mark[0])  # our clock may be behind, and may have been right

    def certain(self, peer: str | None = None) -> datetime:
        """
        Return the latest moment that is certainly past, for what is written about *peer* or at all.

        Its own clock must say so and that of another one: ours, or another peer's if none agrees
        with ours. Where *peer* has said nothing, ours and any peer's. Where none has, it is our
        clock, within the bounds of *LEAP* and *PACE* beyond what an earlier run knew.
        """
        own = self._now()
        heard = {name: self._continued(claim) for name, claim in self._claims.items()}
        its = heard.pop(peer, None) if peer is not None else None
        if its is not None:
            if _agree(own, its):
                return own
            # Peers that are ahead by the same shift, as behind one gateway, would outvote ours.
            is_ours_confirmed = any(_agree(own, each) for each in heard.values())
            return min(its, own if is_ours_confirmed else max([own, *heard.values()]))
        if heard:
            latest = max(heard.values())
            return own if own <= latest + TOLERANCE else latest
        if self._mark is None:
            return own
        mark, since = self._mark
        return min(own, mark + LEAP + PACE * timedelta(seconds=self._monotonic() - since))

    def now(self, peer: str) -> datetime:
        """Return what time it most likely is where *peer* is: ours, unless its clock differs."""
        return self._now() - self.ahead_of(peer)

    def ahead_of(self, peer: str) -> timedelta:
        """
        Return by how much our clock is ahead of that of *peer*: by nothing if they agree.

        A reply that a cache has kept says only when it was made: its peer's clock shows something
        between that and its age more. The one who sets an age could else move that clock by years.
        """
        own, claim = self._now(), self._claims.get(peer)
        if claim is None:
            return timedelta(0)
        its = self._continued(claim)
        if its < own:
            its = min(own, its + claim.age)
        return timedelta(0) if _agree(own, its) else own - its

    def agreeing(self) -> int:
        """Return how many peers agree with our clock."""
        return sum(not self.ahead_of(name) for name in self._claims)

    def differences(self) -> dict[str, timedelta]:
        """Return by how much our clock is ahead of that of each peer; not where they agree."""
        ahead = {name: self.ahead_of(name) for name in sorted(self._claims)}
        return {name: by for name, by in ahead.items() if by}

    def _continued(self, claim: _Claim) -> datetime:
        return claim.at + timedelta(seconds=self._since(claim))

    def _since(self, claim: _Claim) -> float:
        return self._monotonic() - claim.since


def _agree(one: datetime, other: datetime) -> bool:
    return abs(one - other) <= TOLERANCE
