"""What a run found: each check that held, and each that did not, in words."""

import sys
from collections.abc import Collection
from typing import Any

_SHOWN = 5
_LONGEST = 600


class Findings:
    """Prints a line a check as it is made, and remembers how many did not hold."""

    def __init__(self) -> None:
        self.held = 0
        self.failed: list[str] = []

    def check(self, claim: str, *, holds: bool, seen: object = "") -> None:
        """Note whether *claim* holds; *seen* says what was seen instead."""
        if holds:
            self.held += 1
            print(f"  ok    {claim}")
        else:
            self.failed.append(claim)
            print(f"  FAIL  {claim}: {seen}")
        sys.stdout.flush()

    def same(self, claim: str, seen: Any, wanted: Any) -> None:
        """Note whether what was *seen* is what was *wanted*."""
        self.check(claim, holds=seen == wanted, seen=f"{_short(seen)}, not {_short(wanted)}")

    def none(self, claim: str, wrong: Collection[object]) -> None:
        """Note whether nothing is *wrong*; else say how much, and show the first few."""
        shown = "; ".join(_short(each) for each in list(wrong)[:_SHOWN])
        self.check(claim, holds=not wrong, seen=f"{len(wrong)} wrong, such as {shown}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
