"""The results of a run: checks that passed and that failed."""

import sys
from collections.abc import Collection
from typing import Any

_SHOWN = 5
_MAX_LENGTH = 600


class Findings:
    """Prints one line per check, and counts passed and failed ones."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed: list[str] = []

    def check(self, claim: str, *, ok: bool, seen: object = "") -> None:
        """Record whether *claim* is true (*ok*); *seen* is what was seen instead."""
        if ok:
            self.passed += 1
            print(f"  ok    {claim}")
        else:
            self.failed.append(claim)
            print(f"  FAIL  {claim}: {seen}")
        sys.stdout.flush()

    def same(self, claim: str, seen: Any, wanted: Any) -> None:
        """Record whether *seen* equals *wanted*."""
        self.check(claim, ok=seen == wanted, seen=f"{_short(seen)}, not {_short(wanted)}")

    def none(self, claim: str, wrong: Collection[object]) -> None:
        """Record whether nothing is *wrong*; else show the count and the first few."""
        shown = "; ".join(_short(each) for each in list(wrong)[:_SHOWN])
        self.check(claim, ok=not wrong, seen=f"{len(wrong)} wrong, such as {shown}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]}…"
