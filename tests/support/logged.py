"""The log at a level, as a daemon writes it."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from auditrelay.telemetry import logs

Lines = Callable[[], list[dict[str, Any]]]


@contextmanager
def logged(level: logs.Level) -> Iterator[Lines]:
    """Log from *level* on; yield a function that returns the lines up to now."""
    root = logging.getLogger()
    handlers, root_level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.setup(level, "json", stream)
    try:
        yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    finally:
        structlog.reset_defaults()
        logging.captureWarnings(capture=False)
        root.handlers, root.level = handlers, root_level
