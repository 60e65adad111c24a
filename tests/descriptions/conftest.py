"""A folder of shipped descriptions with a made-up one in it, and a scrubber of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.descriptions.acme import PARTS, text, write

from auditrelay import config, descriptions
from auditrelay.descriptions import load
from auditrelay.telemetry.scrubber import Scrubber


@pytest.fixture(autouse=True)
def own_scrubber(monkeypatch: pytest.MonkeyPatch) -> Scrubber:
    """Let no test teach the log's scrubber the secrets of its configuration."""
    own = Scrubber()
    monkeypatch.setattr(config, "scrubber", own)
    return own


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Ship one description, ``hooli``, and nothing else."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    top = PARTS["top"].replace("acme", "hooli").replace("Acme", "Hooli")
    write(folder, text(top=top), "hooli.toml")
    monkeypatch.setattr(descriptions, "FOLDER", folder)
    monkeypatch.setattr(load, "FOLDER", folder)
    descriptions.shipped.cache_clear()
    yield folder
    descriptions.shipped.cache_clear()
