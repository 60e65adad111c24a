"""A folder of shipped descriptions with a made-up one in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.descriptions.described import PARTS, text, write

from auditrelay import descriptions
from auditrelay.descriptions import load


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
