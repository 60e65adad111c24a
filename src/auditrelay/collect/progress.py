"""How a long command says how far it has come."""

from collections.abc import Awaitable, Callable
from typing import Any

Tell = Callable[[dict[str, Any]], Awaitable[None]]
"""Is told of progress, as values for JSON."""
