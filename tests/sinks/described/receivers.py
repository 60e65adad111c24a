"""Sinks of descriptions, and replies to them, without a network."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from tests.descriptions.receivers.files import text, write
from tests.support.clock import FakeClock
from tests.support.rigs import made_of

from auditrelay.descriptions.receiver.load import read
from auditrelay.descriptions.receiver.model import ReceiverFile
from auditrelay.http.replies import Reply
from auditrelay.sinks import Sink
from auditrelay.telemetry.metrics import Metrics

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def file_of(folder: Path, **parts: str) -> ReceiverFile:
    """Return the made-up description with *parts* changed."""
    return read(write(folder, text(**parts))).file


def reply(status: int, body: str = "", headers: Mapping[str, str] | None = None) -> Reply:
    """Return a reply to a batch."""
    given = httpx.Headers({"content-type": "application/json", **(headers or {})})
    return Reply(status, given, body.encode(), "POST https://eu.globex.example/v1/events", NOW)


def sink_of(folder: Path, keys: Mapping[str, Any] | None = None, **parts: str) -> Sink:
    """Return the sink of the made-up description with *parts* changed."""
    given = {
        "type": "http",
        "description": str(write(folder, text(**parts))),
        "site": "eu.globex.example",
        "token": "token-0123456789",
        **(keys or {}),
    }
    return made_of("globex", given, Metrics(), FakeClock())[1]
