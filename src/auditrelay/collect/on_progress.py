"""How a long command reports its progress."""

from collections.abc import Awaitable, Callable
from typing import Any

OnProgress = Callable[[dict[str, Any]], Awaitable[None]]
"""Called at each step with the progress, as JSON values."""
