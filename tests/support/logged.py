"""The log at a level, as a daemon writes it."""

import io
import json
import logging
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import structlog

from auditrelay.telemetry import logs

Lines = Callable[[], list[dict[str, Any]]]


def log_plainly() -> None:
    """
    Log as little can: what a test logs is shown only if it fails.

    Otherwise structlog lays out and colours each line of each request of all tests.
    """
    structlog.reset_defaults()
    structlog.configure(processors=[structlog.processors.format_exc_info, _plain])


def _plain(_: object, level: str, line: MutableMapping[str, Any]) -> str:
    return f"{level} {line}"


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
        log_plainly()
        logging.captureWarnings(capture=False)
        root.handlers, root.level = handlers, root_level
