"""How a double refuses every request, for the tests that run over all doubles."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Refusal:
    """
    A way in which a product refuses every request until an operator acts.

    *provoke* causes it and returns the changed settings of the source or sink. The answer then has
    *status*, and contains *words*.
    """

    name: str
    status: int
    words: str
    provoke: Callable[[Any], Mapping[str, Any]]
