"""`init` writes the starter, for its owner alone and never over another file."""

import re
import stat
from pathlib import Path

import pytest

from auditrelay import config
from auditrelay.cli.init import starter, write
from auditrelay.config import load
from auditrelay.config.model import SINKS, SOURCES
from auditrelay.errors import ConfigError
from auditrelay.telemetry import scrubber

ENVIRON = {
    "HOME": "/home/op",
    **dict.fromkeys(re.findall(r"\$\{env:(\w+)\}", starter()), "a-pretend-secret"),
}


@pytest.fixture(autouse=True)
def own_scrubber(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "scrubber", scrubber.Scrubber())


def filled_in() -> str:
    text = starter().replace('organization_id = ""', 'organization_id = "42"')
    return text.replace('url = ""', 'url = "https://splunk.example:8088"')


def test_init_writes_a_file_for_its_owner_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new.toml"
    write(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text() == starter()
    assert f"auditrelay -c {file} check" in capsys.readouterr().out


def test_the_starter_loads_once_it_is_completed(tmp_path: Path) -> None:
    file = tmp_path / "auditrelay.toml"
    write(file)
    with pytest.raises(ConfigError) as caught:
        load(file, ENVIRON)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "sources.acme-voice.organization_id",
        "sinks.splunk.url",
    ]
    file.write_text(filled_in())
    found = load(file, ENVIRON)
    found.require_work()
    assert found.warnings == ()


def test_the_starter_has_a_table_of_every_type(tmp_path: Path) -> None:
    """All but the first source and the first sink are commented out."""
    file = tmp_path / "c.toml"
    file.write_text(re.sub(r"^# (\[|[a-z_]+ = )", r"\1", filled_in(), flags=re.MULTILINE))
    found = load(file, ENVIRON)
    assert {each.type for each in found.sources.values()} == set(SOURCES)
    assert {each.type for each in found.sinks.values()} == set(SINKS)


def test_a_comment_of_the_starter_is_above_its_key() -> None:
    assert "# An API key of the organisation.\napi_key = " in starter()
    assert "project_id" not in starter(), "what has a default, or is optional, is left out"


def test_init_never_overwrites(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("mine")
    with pytest.raises(ConfigError, match="exists already; not overwritten"):
        write(file)
    assert file.read_text() == "mine"
    link = tmp_path / "link.toml"
    link.symlink_to(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match="exists already"):
        write(link)


def test_init_says_why_it_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory"):
        write(tmp_path / "nowhere" / "c.toml")
