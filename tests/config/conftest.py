"""A configuration file, and a scrubber that learns only its secrets."""

from pathlib import Path

import pytest
from tests.config.loading import GOOD

from auditrelay import config
from auditrelay.telemetry.scrubber import Scrubber


@pytest.fixture(autouse=True)
def scrubber(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scrubber:
    """Ignore the machine's own configuration, and replace the log's scrubber."""
    monkeypatch.setattr(
        config, "DEFAULT_PATHS", (tmp_path / "auditrelay.toml", tmp_path / "etc.toml")
    )
    scrubber = Scrubber()
    monkeypatch.setattr(config, "scrubber", scrubber)
    return scrubber


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "given.toml"
    path.write_text(GOOD)
    path.chmod(0o600)
    return path
