"""How a long command says how far it has come."""

from collections.abc import Awaitable, Callable
from typing import Any

OnProgress = Callable[[dict[str, Any]], Awaitable[None]]
"""Called with each step of progress, as values for JSON."""
