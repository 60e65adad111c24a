"""Files that the operator names: what is no regular file of a sane size is refused at once."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.descriptions.acme import write
from tests.support.clock import NOON
from tests.support.odd_files import ODD, at_once

from auditrelay import config
from auditrelay.cli.description import conversations
from auditrelay.errors import ConfigError, StateError
from auditrelay.files import open_regular, read_file, replace_file
from auditrelay.http.tls import tls_context
from auditrelay.settings import PeerSettings
from auditrelay.sources import Folder
from auditrelay.store.sqlite import disk_reserve
from auditrelay.store.sqlite.state_dir import locked
from auditrelay.store.sqlite.tip import TIP, TipFile

SINK = '[sinks.out]\ntype = "file"\npath = "-"\n'


def of_description(folder: Path) -> None:
    source = '[sources.crm]\ntype = "rest"\ndescription = "odd"\n'
    config.load(write(folder, source + SINK, "auditrelay.toml"), {"HOME": "/h"})


def of_secret(folder: Path) -> None:
    source = (
        '[sources.voice]\ntype = "cekura"\norganization_id = "42"\n'
        f'api_key = "${{file:{folder / "odd"}}}"\n'
    )
    config.load(write(folder, source + SINK, "auditrelay.toml"), {"HOME": "/h"})


def of_credential(folder: Path) -> None:
    source = (
        '[sources.voice]\ntype = "cekura"\norganization_id = "42"\napi_key = "${credential:odd}"\n'
    )
    environ = {"HOME": "/h", "CREDENTIALS_DIRECTORY": str(folder)}
    config.load(write(folder, source + SINK, "auditrelay.toml"), environ)


def of_tls(key: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        files = {"client_cert": __file__, "client_key": __file__, key: folder / "odd"}
        if key == "ca_file":
            files = {key: folder / "odd"}
        tls_context("sinks.out", PeerSettings.model_validate(files), "https://a.example")

    return read


def of_conversation(folder: Path) -> None:
    conversations.read(folder)


READERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "sources.crm.description": (of_description, "odd"),
    "sources.voice.api_key": (of_secret, "odd"),
    "sources.voice.api_key ": (of_credential, "odd"),
    "sinks.out.ca_file": (of_tls("ca_file"), "odd"),
    "sinks.out.client_cert": (of_tls("client_cert"), "odd"),
    "sinks.out.client_key": (of_tls("client_key"), "odd"),
    "": (of_conversation, "about.toml"),
}
"""By the key that names a file: what reads the configuration, and the name of the file."""


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("key", READERS)
def test_what_is_no_file_is_refused_at_once_with_its_key_and_name(
    key: str, odd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, words = ODD[odd]
    read, name = READERS[key]
    make(tmp_path / name)
    with at_once(), pytest.raises(ConfigError) as caught:
        read(tmp_path)
    (problem,) = caught.value.problems
    assert problem.startswith(key.strip())
    assert f"{tmp_path / name}" in problem
    assert words in problem
    assert "\n" not in problem


@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_file_in_the_state_directory_costs_what_it_stands_for(
    odd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept is as if it were not there; what is replaced is there afterwards."""
    monkeypatch.chdir(tmp_path)
    make, _ = ODD[odd]
    make(tmp_path / TIP)
    make(tmp_path / "session")
    with at_once():
        assert TipFile(tmp_path).read() is None
        assert Folder(tmp_path).load("session") is None


@pytest.mark.parametrize("odd", ["pipe", "socket", "folder"])
def test_the_lock_and_the_reserve_do_not_wait(
    odd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, words = ODD[odd]
    for name in ("lock", "ballast"):
        make(tmp_path / name)
    with at_once():
        assert not disk_reserve.Reserve(tmp_path).is_there
        with pytest.raises(StateError, match=words), locked(tmp_path, "1", NOON):
            pass


def test_what_is_half_written_beside_a_file_is_replaced_whatever_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "kept.new")
    with at_once():
        replace_file(tmp_path / "kept", b"new")
    assert read_file(tmp_path / "kept") == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_link_is_followed_only_where_it_may_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"here")
    (tmp_path / "link").symlink_to("file")  # as Kubernetes mounts its secrets
    assert read_file(tmp_path / "link") == b"here"
    with pytest.raises(OSError, match="put the file itself there"):
        open_regular(tmp_path / "link", follow=False)


def test_a_file_of_exactly_the_most_bytes_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1234")
    assert read_file(tmp_path / "file", 4) == b"1234"
    with pytest.raises(OSError, match="longer than 3 bytes"):
        read_file(tmp_path / "file", 3)
