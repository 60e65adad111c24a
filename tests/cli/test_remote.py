"""A command that the service or this process does."""

from pathlib import Path
from typing import Any

import pytest
from tests.support.clock import FakeClock

from auditrelay.cli import remote
from auditrelay.config.model import Alerts, Config, Log, Spool, Status
from auditrelay.errors import RelayError
from auditrelay.service.desk import Drop, Dropped, Replayed


def test_an_answer_to_another_request_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def replayed(*_: Any) -> tuple[Replayed, None]:
        return Replayed((1,)), None

    config = Config(None, tmp_path, Status(), Log(), Spool(), Alerts(), {}, {})
    monkeypatch.setattr(remote, "_until_stopped", replayed)
    assert remote.run_command(config, FakeClock(), Drop((1,)), Replayed) == (Replayed((1,)), None)
    with pytest.raises(RelayError, match=r"answers Drop with Replayed: .* different versions"):
        remote.run_command(config, FakeClock(), Drop((1,)), Dropped)
