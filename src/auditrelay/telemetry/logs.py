"""
The log: one JSON object a line, scrubbed of secrets, with the records of libraries in the same log.

Names of log events are promises to other people's dashboards (docs/log-events.md). A line never
contains the contents of an event.
"""

import contextlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TextIO

import orjson
import structlog

from auditrelay.telemetry.scrubber import escape, scrubber
from auditrelay.telemetry.throttle import Throttle
from auditrelay.window import iso

MAX_TEXT = 2000
"""Most characters of one text in a log line."""

MAX_TRACEBACK = 32_000

_QUOTED = re.compile(r"""['"].*['"]""", re.DOTALL)

log = structlog.get_logger()
"""``log.info("window_collected", source=...)``: a fixed name and fields, never a sentence."""


def _loggable(value: object, depth: int = 4) -> object:
    """Return *value* as a JSON value, with every text scrubbed."""
    if isinstance(value, bool | float | None) or (
        isinstance(value, int) and value.bit_length() < 64
    ):
        return value
    if isinstance(value, timedelta):
        return value.total_seconds()
    if depth and isinstance(value, Mapping):
        return {scrubber.scrub(str(key)): _loggable(item, depth - 1) for key, item in value.items()}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_loggable(item, depth - 1) for item in value]
    if isinstance(value, datetime):
        value = iso(value)
    return scrubber.scrub(str(value), MAX_TEXT)


def _line(
    _logger: object, level: str, fields: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Put the fields of a log line in order, and scrub them."""
    line: dict[str, Any] = {
        "timestamp": iso(datetime.now(UTC), "microseconds"),
        "level": level,
        "event": _loggable(fields.pop("event", "")),
    }
    error = fields.pop("exc_info", None)
    for key, value in fields.items():
        line[key] = _loggable(value)
    if error:
        line["exception"] = _traceback(error)
    return line


def _traceback(error: object) -> str:
    """Return the traceback for the value of ``exc_info``: an exception, a triple, or true."""
    if isinstance(error, tuple):
        error = error[1]
    elif not isinstance(error, BaseException):
        error = sys.exc_info()[1]
    if not isinstance(error, BaseException):
        return ""
    text = scrubber.hide("".join(_formatted(error)), MAX_TRACEBACK)
    return "\n".join(escape(line, MAX_TEXT) for line in text.rstrip().split("\n"))


def _formatted(error: BaseException) -> Iterator[str]:
    """
    Yield the traceback of *error* as Python prints it, but for what the messages quote.

    Python's own messages quote the value that does not fit, and that is often one of an event.
    """
    if error.__cause__ is not None:
        yield from _formatted(error.__cause__)
        yield "\nThe above exception was the direct cause of the following exception:\n\n"
    elif error.__context__ is not None and not error.__suppress_context__:
        yield from _formatted(error.__context__)
        yield "\nDuring handling of the above exception, another exception occurred:\n\n"
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _formatted(member)
    yield "Traceback (most recent call last):\n"
    yield from traceback.format_tb(error.__traceback__)
    yield _QUOTED.sub("'...'", "".join(traceback.format_exception_only(error)))


def _json(_logger: object, _level: str, line: Mapping[str, Any]) -> str:
    return orjson.dumps(line).decode()


_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def _is_journal(stream: TextIO) -> bool:
    """Return whether *stream* is systemd's journal, by the device and inode in $JOURNAL_STREAM."""
    with contextlib.suppress(OSError, ValueError):  # closed, or not a file
        status = os.fstat(stream.fileno())
        return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
    return False


def _for_journal(renderer: Callable[..., str]) -> Callable[..., str]:
    """Return *renderer* with the priority prefix that `journalctl -p` filters by."""

    def render(logger: object, level: str, line: Mapping[str, Any]) -> str:
        return f"<{_PRIORITIES[level]}>{renderer(logger, level, line)}"

    return render


class _Stream:
    """Writes finished lines to a stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        """Write one *line* in one call."""
        # A full disk or a broken pipe behind the log must not stop the delivery of events.
        with contextlib.suppress(OSError):
            self._stream.write(line + "\n")
            self._stream.flush()

    debug = info = warning = error = critical = exception = msg


class _FromLibraries(logging.Handler):
    """
    Forwards the log records of libraries (uvicorn, APScheduler, httpx) to our log.

    One a minute that differs in more than its numbers: asyncio logs hundreds a second while no
    descriptor is free for a new connection.
    """

    def __init__(self) -> None:
        super().__init__()
        self._throttle = Throttle()

    def emit(self, record: logging.LogRecord) -> None:
        """Write *record* as an event ``library_message``."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):  # the library's arguments do not match its text
            message = str(record.msg)
        held_back = self._throttle.admit(f"{record.name} {re.sub('[0-9]+', '0', message[:500])}")
        if held_back is None:
            return
        log.log(
            min(record.levelno // 10 * 10, logging.CRITICAL),  # rounded down to a named level
            "library_message",
            logger=record.name,
            message=message,
            **({"held_back": held_back} if held_back else {}),
            **({"exc_info": record.exc_info} if record.exc_info else {}),
        )


Level = Literal["debug", "info", "warning", "error"]

Format = Literal["auto", "console", "json"]


def setup(level: Level = "info", format: Format = "auto", stream: TextIO | None = None) -> None:  # noqa: A002  # the name of the key
    """
    Send the log to *stream* (stderr): one JSON object a line, or readable lines on a terminal.

    May be called again. Libraries are logged from WARNING on, at any *level*: at INFO httpx logs
    every address in full, with its query.
    """
    stream = sys.stderr if stream is None else stream
    renderer: Callable[..., str] = _json
    if format == "console" or (format == "auto" and stream.isatty()):
        renderer = structlog.dev.ConsoleRenderer(
            colors=stream.isatty() and "NO_COLOR" not in os.environ,
            exception_formatter=structlog.dev.plain_traceback,
            sort_keys=False,
        )
    if _is_journal(stream):
        renderer = _for_journal(renderer)
    structlog.configure(
        processors=[_line, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        context_class=dict,
        logger_factory=lambda *_names: _Stream(stream),
        cache_logger_on_first_use=False,  # so that a level that is read again applies at once
    )
    logging.basicConfig(handlers=[_FromLibraries()], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)
    for library in ("httpx", "httpcore"):
        logging.getLogger(library).setLevel(logging.WARNING)
