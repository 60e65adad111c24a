"""What the loop of one sink sleeps on."""

import asyncio


class Wakeups:
    """
    Two events for the loop of one sink. Both mean "look again", not that there is something.

    Once *finishing*, the loop ends when nothing waits any more, so it also has to look again
    whenever something in flight has ended.
    """

    def __init__(self) -> None:
        self.spool = asyncio.Event()
        """Set when new events may lie in the spool, or the loop may be able to end."""
        self.slot = asyncio.Event()
        """Set when one more batch may be sent."""
        self.finishing = False

    def wake_waiters(self) -> None:
        """Let the loop look again: something in flight has ended."""
        self.slot.set()
        if self.finishing:
            self.spool.set()

    def finish(self) -> None:
        """Let the loop end once nothing waits any more."""
        self.finishing = True
        self.spool.set()
