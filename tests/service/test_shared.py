"""Opening a shared store: what is waited for, and what is an error at once."""

from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
from tests.support.clock import FakeClock

from auditrelay.config.model import Alerts, Config, Log, Spool, Status
from auditrelay.errors import StateError
from auditrelay.service import shared
from auditrelay.service.shared import Share
from auditrelay.settings.secrets import SecretAddress
from auditrelay.store.postgres import schema
from auditrelay.telemetry.metrics import Metrics

AWAY = psycopg.OperationalError("connection failed: Connection refused")
NO_DATABASE = psycopg.OperationalError('connection failed: FATAL: database "x" does not exist')


def share(folder: Path, clock: FakeClock, patience: float | None) -> Share:
    store = SecretAddress("postgresql://relay@127.0.0.1:1/x")
    config = Config(None, folder, Status(), Log(), Spool(), Alerts(), {}, {}, store=store)
    return Share(config, clock, Metrics(shared=True), seat=None, patience=patience)


def answers(share: Share, monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> list[Exception]:
    """Let each attempt to connect fail with the next of *errors*; then the tables are there."""
    left = list(errors)

    def connect(_: str) -> None:
        if left:
            raise left.pop(0)

    address = SimpleNamespace(connect=connect, schema="auditrelay")
    monkeypatch.setattr(share, "_address", address)
    monkeypatch.setattr(shared, "Connection", lambda *_, **__: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(schema, "create", lambda _: None)
    return left


async def test_a_database_that_is_away_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    opening = share(tmp_path, clock, None)
    left = answers(opening, monkeypatch, *[AWAY] * 50)
    began = clock.monotonic()
    await opening.prepare()
    assert not left
    waited = clock.monotonic() - began
    assert 100 < waited < 250, "a few seconds each time"
    await opening.close()


async def test_a_run_that_has_an_end_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    opening = share(tmp_path, clock, 20.0)
    answers(opening, monkeypatch, *[AWAY] * 50)
    began = clock.monotonic()
    with pytest.raises(StateError, match="cannot be reached"):
        await opening.prepare()
    assert clock.monotonic() - began <= 20
    await opening.close()


async def test_what_waiting_does_not_change_is_an_error_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    opening = share(tmp_path, clock, None)
    answers(opening, monkeypatch, NO_DATABASE)
    began = clock.monotonic()
    with pytest.raises(StateError, match="does not exist"):
        await opening.prepare()
    assert clock.monotonic() == began
    await opening.close()
