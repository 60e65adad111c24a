"""The keys of a shared store: ``store`` and ``replica``."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.config.loading import GOOD, problems, read

from auditrelay.config import load
from auditrelay.errors import ConfigError
from auditrelay.store.postgres.address import Address
from auditrelay.telemetry.scrubber import Scrubber

STORE = 'store = "postgresql://relay:hunter2-secret@db1/audit"\n'


def shared(path: Path, environ: dict[str, str] | None = None) -> str:
    """Return the address of the shared store, as it may be shown."""
    store = read(path, environ).store
    assert store is not None
    return Address(store).safe


def test_the_store_is_sqlite_unless_an_address_is_given(file: Path) -> None:
    assert read(file).store is None
    file.write_text(STORE + GOOD)
    assert shared(file) == "postgresql://relay@db1/audit"


def test_the_address_may_come_from_a_variable_which_wins(file: Path) -> None:
    named = {"AUDITRELAY_STORE": "postgresql://owner@db2/audit", "AUDITRELAY_REPLICA": "b-2"}
    assert shared(file, named) == "postgresql://owner@db2/audit"
    file.write_text(STORE + GOOD)
    assert shared(file, named) == "postgresql://owner@db2/audit"
    assert read(file, named).replica == "b-2"
    wrong = {"AUDITRELAY_STORE": "postgresql://owner:hunter2@db2"}
    (problem,) = problems(file, wrong)
    assert problem.startswith("store (from AUDITRELAY_STORE): names no database")


def test_the_password_is_hidden_wherever_it_is_from(file: Path, scrubber: Scrubber) -> None:
    secret = file.parent / "secret"
    secret.write_text("p@ss/word-in-a-file\n")
    file.write_text(f'store = "postgresql://relay:${{file:{secret}}}@db1/audit"\n{GOOD}')
    made = read(file)
    text = "relay at db1: p@ss/word-in-a-file, p%40ss%2Fword-in-a-file"
    assert scrubber.scrub(text) == "relay at db1: ***, ***"
    assert "p@ss" not in repr(made)
    (problem,) = problems(file, {"AUDITRELAY_STORE": "${env:NONE}"})
    assert problem == "store (from AUDITRELAY_STORE): the environment variable NONE is not set"


def test_a_password_in_a_file_that_others_read_is_warned_of(file: Path) -> None:
    file.write_text('store = "postgresql://relay@db1/audit"\n' + GOOD)
    assert read(file).warnings == ()
    file.write_text(STORE.replace("hunter2-secret", "abc") + GOOD)
    (short,) = read(file).warnings
    assert short.startswith("store: a secret of fewer than 6 characters")
    file.chmod(0o644)
    (literal,) = [each for each in read(file).warnings if "chmod" in each]
    assert "(store, sources.acme-voice.api_key" in literal
    secret = file.parent / "secret"
    secret.write_text("a-long-password")
    secret.chmod(0o644)
    file.chmod(0o600)
    file.write_text(f'store = "postgresql://relay:${{file:{secret}}}@db1/audit"\n{GOOD}')
    (readable,) = read(file).warnings
    assert readable == f"store: every user of this machine can read {secret}: chmod 600"


def test_a_replica_is_called_like_its_host(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for host, name in (
        ("pod-7f.example.com", "pod-7f.example.com"),
        ("_wörk box-", "w-rk-box"),
        ("x" * 70, "x" * 64),
        ("", "replica"),
    ):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        assert read(file).replica == name
    file.write_text('replica = "a"\n' + GOOD)
    assert read(file).replica == "a"


def test_a_session_that_is_renewed_does_not_work_with_a_shared_store(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    table = """
        [sources.labs]
        type = "cencori"
        mode = "dashboard"
        organization_slug = "acme"
        cookie = "sb-acme-auth-token=a-pretend-secret"
        [sinks.out]
        type = "file"
        path = "-"
        """
    file.touch(mode=0o600)
    file.write_text(table)
    load(file, {"HOME": "/home/op"})
    file.write_text(STORE + table)
    with pytest.raises(ConfigError) as caught:
        load(file, {"HOME": "/home/op"})
    (problem,) = caught.value.problems
    assert problem.startswith('sources.labs.mode: "dashboard" does not work with a shared store:')
    assert 'use mode = "files", or read this source with an instance of its own' in problem
    for other in (
        table.replace('"dashboard"', '"dashboard"\nenabled = false'),
        table.replace('"dashboard"', '"files"\ndirectory = "/d"').replace("cookie =", "# "),
    ):
        file.write_text(STORE + other)
        load(file, {"HOME": "/home/op"})


def test_without_psycopg_a_shared_store_is_refused_and_sqlite_is_not(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert read(file).store is None
    file.write_text(STORE + GOOD)
    (problem,) = problems(file)
    assert problem.startswith(
        'store: needs the package psycopg: pip install "auditrelay[postgres]"'
    )


@pytest.mark.process
def test_without_a_shared_store_psycopg_is_not_imported(file: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.config.loading import read;"
        "read(Path(sys.argv[1])); print('psycopg' in sys.modules)"
    )

    def imported() -> str:
        return subprocess.run(
            [sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=True
        ).stdout.strip()

    assert imported() == "False"
    file.write_text(STORE + GOOD)
    assert imported() == "True"


SINK = "splunk"
ONLY = GOOD.replace("[sinks.splunk]", "[sinks.splunk]\nreplicas = ['dc1-*', 'home']")


def test_a_source_or_sink_may_name_the_replicas_that_serve_it(file: Path) -> None:
    file.write_text(STORE + ONLY)
    (sink,) = read(file).sinks.values()
    assert [sink.may_be_served_by(name) for name in ("dc1-a", "home", "dc2-a", "dc1")] == [
        True,
        True,
        False,
        False,
    ]
    file.write_text(STORE + GOOD)
    (sink,) = read(file).sinks.values()
    assert sink.may_be_served_by("any")


def test_without_a_shared_store_there_are_no_replicas_to_name(file: Path) -> None:
    file.write_text(ONLY)
    (problem,) = problems(file)
    assert problem.startswith(
        f"sinks.{SINK}.replicas: there are no replicas without a shared store"
    )


def test_a_source_or_sink_that_no_replica_may_serve_is_an_error(file: Path) -> None:
    file.write_text(STORE + ONLY.replace("['dc1-*', 'home']", "[]"))
    (problem,) = problems(file)
    assert problem.startswith(f"sinks.{SINK}.replicas: names no replica")


def test_parts_of_a_sink_need_a_shared_store(file: Path) -> None:
    parts = GOOD.replace("[sinks.splunk]", "[sinks.splunk]\nparts = 3")
    file.write_text(STORE + parts)
    assert read(file).sinks[SINK].parts == 3
    file.write_text(parts)
    (problem,) = problems(file)
    assert problem.startswith(
        f"sinks.{SINK}.parts: one process delivers everything without a shared store"
    )


def test_there_are_no_more_parts_than_requests_in_flight(file: Path) -> None:
    parts = GOOD.replace("[sinks.splunk]", "[sinks.splunk]\nparts = 5")
    file.write_text(STORE + parts)
    (problem,) = problems(file)
    assert problem.startswith(f"sinks.{SINK}.parts: must not be more than concurrency, which is 4")
