"""Log lines are safe: one JSON object each, no secret, no forged line."""

import io
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.logged import log_plainly

from auditrelay.settings.secrets import Secret
from auditrelay.telemetry import logs
from auditrelay.telemetry.scrubber import Scrubber


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Disk(io.StringIO):
    full = False

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        return super().write(text)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """The log as JSON lines; the hidden secret is ``hunter2222``."""
    hidden = Scrubber()
    hidden.learn(Secret("hunter2222"))
    monkeypatch.setattr(logs, "scrubber", hidden)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    root.handlers = []
    logs.setup("info", "json", stream)
    yield stream
    log_plainly()
    logging.captureWarnings(capture=False)
    root.handlers, root.level = handlers, level


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_time_level_event_and_fields(log: io.StringIO) -> None:
    logs.log.info("window_collected", source="a", pages=3)
    (line,) = lines(log)
    assert list(line) == ["timestamp", "level", "event", "source", "pages"]
    assert line["level"] == "info"
    assert line["event"] == "window_collected"
    assert line["timestamp"].endswith("Z")
    assert datetime.fromisoformat(line["timestamp"]).tzinfo == UTC


def test_lines_below_the_level_are_left_out(log: io.StringIO) -> None:
    logs.log.debug("batch_delivered")
    logs.setup("debug", "json", log)
    logs.log.debug("batch_delivered")
    logs.setup("error", "json", log)
    logs.log.warning("request_retried")
    assert [line["event"] for line in lines(log)] == ["batch_delivered"]


def test_no_secret_leaves_in_a_log_line(log: io.StringIO) -> None:
    logs.log.info(
        "e",
        a="hunter2222",
        b={"hunter2222": ["x hunter2222", ("hunter2222",)]},
        c=ValueError("hunter2222"),
        d=b"hunter2222",
        e={"hunter2222"},
    )
    try:
        int("hunter2222")
    except ValueError:
        logs.log.exception("crashed")
    logging.getLogger("uvicorn").error("got %s", "hunter2222")
    assert "hunter2222" not in log.getvalue()
    assert len(lines(log)) == 3


def test_no_text_can_forge_a_line(log: io.StringIO) -> None:
    forged = 'x"}\n{"level":"error","event":"forged"}\r\x1b[2J\u2028'
    logs.log.info("e", message=forged)
    logs.log.info(forged)
    logging.getLogger("x").warning(forged)
    assert len(lines(log)) == 3
    assert all("\n" not in str(line) and "\x1b" not in str(line) for line in lines(log))
    assert not any(line["event"] == "forged" for line in lines(log))


def test_no_text_can_forge_a_line_on_a_terminal(log: io.StringIO) -> None:
    terminal = Terminal()
    logs.setup("info", "auto", terminal)
    logs.log.info("e", message="a\nb\x1b[2Jc")
    assert "a\\nb\\x1b[2Jc" in terminal.getvalue()
    assert terminal.getvalue().count("\n") == 1


def test_auto_is_json_unless_it_is_a_terminal(
    log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal, file = Terminal(), io.StringIO()
    logs.setup("info", "auto", terminal)
    logs.log.info("started", sources=2)
    logs.setup("info", "auto", file)
    logs.log.info("started", sources=2)
    assert re.search(r"\[info +\] started +sources=2\n", terminal.getvalue())
    assert json.loads(file.getvalue())["sources"] == 2


def test_only_the_journal_gets_a_priority_with_each_line(
    log: io.StringIO, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "stderr"
    with path.open("w+") as stream:
        status = os.fstat(stream.fileno())
        for journal in (f"{status.st_dev}:{status.st_ino}", "8:12345"):
            monkeypatch.setenv("JOURNAL_STREAM", journal)
            logs.setup("debug", "auto", stream)
            for level in ("debug", "info", "warning", "error"):
                logs.log.log(getattr(logging, level.upper()), "started")
    lines = path.read_text().splitlines()
    assert [line.partition("{")[0] for line in lines] == ["<7>", "<6>", "<4>", "<3>", *[""] * 4]
    assert {json.loads(line[line.index("{") :])["event"] for line in lines} == {"started"}


def test_libraries_are_logged_from_warning_on_and_httpx_shows_no_address(log: io.StringIO) -> None:
    logs.setup("debug", "json", log)
    logging.getLogger("httpx").info('HTTP Request: GET https://h/?token=x "HTTP/1.1 200 OK"')
    logging.getLogger("apscheduler").debug("looking for jobs")
    logging.getLogger("uvicorn.access").info("GET /?token=x")
    logging.getLogger("apscheduler").warning("run of job %s missed", "poll")
    logging.getLogger("odd").log(35, "between %d", "levels")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("deprecated", stacklevel=1)
    logged = [(line["level"], line["event"], line["logger"]) for line in lines(log)]
    assert logged == [
        ("warning", "library_message", "apscheduler"),
        ("warning", "library_message", "odd"),
        ("warning", "library_message", "py.warnings"),
    ]
    assert lines(log)[0]["message"] == "run of job poll missed"


def test_a_library_that_repeats_itself_is_logged_once_a_minute(log: io.StringIO) -> None:
    logs.setup("debug", "json", log)
    for descriptor in range(2000):
        logging.getLogger("asyncio").error("accept() out of resource: <socket fd=%d>", descriptor)
    logging.getLogger("asyncio").error("something else")
    assert [line["message"] for line in lines(log)] == [
        "accept() out of resource: <socket fd=0>",
        "something else",
    ]


def test_an_exception_of_a_library_comes_with_its_traceback(log: io.StringIO) -> None:
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        logging.getLogger("asyncio").exception("task failed")
    (line,) = lines(log)
    assert "test_logs.py" in line["exception"]
    assert line["exception"].endswith("ZeroDivisionError: division by zero")


def test_any_value_of_a_field_becomes_json(log: io.StringIO) -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    deep: list[Any] = []
    deep.append(deep)
    logs.log.info(
        "e", at=noon, wait=timedelta(seconds=1.5), huge=2**70, path=Path("/x"), none=None, deep=deep
    )
    (line,) = lines(log)
    assert line["at"] == "2026-03-01T12:00:00Z"
    assert line["wait"] == 1.5
    assert line["huge"] == str(2**70)
    assert line["path"] == "/x"
    assert line["none"] is None


def test_a_long_text_is_cut(log: io.StringIO) -> None:
    logs.log.info("e", text="x" * 10**6)
    assert len(lines(log)[0]["text"]) == logs.MAX_TEXT


def test_a_full_disk_behind_the_log_stops_nothing(log: io.StringIO) -> None:
    disk = Disk()
    logs.setup("info", "json", disk)
    disk.full = True
    logs.log.error("event_dead_lettered")
    disk.full = False
    logs.log.info("stopped")
    assert [line["event"] for line in lines(disk)] == ["stopped"]
