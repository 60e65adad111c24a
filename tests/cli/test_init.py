"""`init` writes the starter, for its owner alone and never over another file."""

import stat
from pathlib import Path

import pytest

from auditrelay.cli.init import STARTER, init
from auditrelay.errors import ConfigError


def test_init_writes_a_file_for_its_owner_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new.toml"
    init(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text() == STARTER
    assert f"auditrelay -c {file} check" in capsys.readouterr().out


def test_init_never_overwrites(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("mine")
    with pytest.raises(ConfigError, match="exists already; not overwritten"):
        init(file)
    assert file.read_text() == "mine"
    link = tmp_path / "link.toml"
    link.symlink_to(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match="exists already"):
        init(link)


def test_init_says_why_it_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory"):
        init(tmp_path / "nowhere" / "c.toml")
