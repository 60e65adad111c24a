"""``init --interactive`` as a person meets it: a terminal, questions, and what they come to."""

import asyncio
import json
import os
import pty
import re
import select
import signal
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from auditrelay import sources
from auditrelay.cli import first_run, init
from auditrelay.config.model import SOURCES
from auditrelay.errors import ConfigError
from auditrelay.sandbox import Sandbox

pytestmark = pytest.mark.process

GOOGLE_KEY = '{\n  "client_email": "a@b.example",\n  "private_key": "a-pretend-secret"\n}\n'
COMMAND = [sys.executable, "-m", "auditrelay", "init", "--interactive"]


class Terminal:
    """A dumb terminal that runs the command in *folder*, and what it has shown."""

    def __init__(self, folder: Path, path: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, path],
            cwd=folder,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "dumb"},
            start_new_session=True,
        )
        os.close(theirs)
        self.shown = ""

    def answer(self, question: str, answer: str) -> None:
        """Wait until what was shown ends with the *question*, and answer it."""
        self.read_until(lambda: re.search(question + r"[^\n]*: $", self.shown) is not None)
        os.write(self._ours, f"{answer}\n".encode())
        self.shown += "\n"

    def read_until(self, seen: object) -> None:
        deadline = time.monotonic() + 60
        while not (callable(seen) and seen()):
            assert time.monotonic() < deadline, self.shown
            if not select.select([self._ours], [], [], 0.1)[0]:
                continue
            try:
                data = os.read(self._ours, 65536)
            except OSError:  # the other side is closed: it has ended
                data = b""
            if not data:
                break
            self.shown += data.decode().replace("\r\n", "\n")

    def waits(self) -> bool:
        """Return whether the process sleeps, which it does in the read of an answer alone."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text("utf-8")
        return stat.rpartition(")")[2].split()[0] == "S"

    def end(self) -> int:
        self.read_until(lambda: False)
        return self.process.wait(30)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@contextmanager
def terminal(folder: Path, path: str = "c.toml") -> Iterator[Terminal]:
    made = Terminal(folder, path)
    try:
        yield made
    finally:
        made.close()


def contents(folder: Path) -> dict[str, int]:
    """Return the mode of each file in *folder*, by its path."""
    return {
        str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode)
        for path in folder.rglob("*")
    }


def answer_source(made: Terminal, sandbox: Sandbox, key: str) -> None:
    given = sandbox.jitsudo.settings()
    made.answer("Type of source", "?")
    made.answer("Type of source", "jits")
    made.answer("Its name", "")
    made.answer("base_url", given["base_url"])
    made.answer("tenant_id", given["tenant_id"])
    made.answer("api_key", key)
    made.answer("Another key", "")
    made.answer("Another source", "")


def answer_sink(made: Terminal, sandbox: Sandbox) -> None:
    made.answer("Type of sink", "splunk_hec")
    made.answer("Its name", "siem")
    made.answer("url", sandbox.splunk.settings()["url"])
    made.answer("token", sandbox.splunk.settings()["token"])
    made.answer("Another key", "")
    made.answer("Another sink", "")


async def test_what_is_asked_is_written_and_tried_and_no_secret_is_shown(tmp_path: Path) -> None:
    async with Sandbox() as sandbox:
        sandbox.jitsudo.add(datetime.now(UTC) - timedelta(minutes=9))
        secrets = (sandbox.jitsudo.settings()["api_key"], sandbox.splunk.settings()["token"])

        def drive(made: Terminal) -> int:
            answer_source(made, sandbox, secrets[0])
            answer_sink(made, sandbox)
            return made.end()

        with terminal(tmp_path) as made:
            status = await asyncio.to_thread(drive, made)
    assert status == 0, made.shown
    assert not any(secret in made.shown for secret in secrets)
    assert contents(tmp_path) == {
        "c.toml": 0o600,
        "credentials": 0o700,
        "credentials/acme-access.api_key": 0o600,
        "credentials/siem.token": 0o600,
    }
    text = (tmp_path / "c.toml").read_text("utf-8")
    assert not any(secret in text for secret in secrets)
    table = tomllib.loads(text)["sinks"]["siem"]
    assert table["token"] == f"${{file:{tmp_path}/credentials/siem.token}}"
    assert (tmp_path / "credentials/siem.token").read_text() == f"{secrets[1]}\n"
    for shown in ("okta", "answers; ", "The newest event of acme-access, as siem gets it:\n{"):
        assert shown in made.shown, shown
    sample = json.loads(made.shown.partition("gets it:\n")[2].partition("\n")[0])
    assert sample["sourcetype"] == "auditrelay:jitsudo:audit"
    assert sandbox.splunk.stored.total == 0, "it was shown, not sent"


async def test_a_table_that_does_not_fit_is_asked_for_again_and_a_failed_check_is_exit_status_1(
    tmp_path: Path,
) -> None:
    async with Sandbox() as sandbox:

        def drive(made: Terminal) -> int:
            made.answer("Type of source", "nonsense")
            made.answer("Type of source", "jitsudo")
            made.answer("Its name", "a/b")
            made.answer("Its name", "a")
            made.answer("base_url", "http://jitsudo.example.com")
            made.answer("tenant_id", "t")
            made.answer("api_key", "0123456789")
            made.answer("Another key", "")
            made.answer("Its name", "a")
            made.answer("base_url", sandbox.jitsudo.settings()["base_url"])
            made.answer("tenant_id", sandbox.jitsudo.settings()["tenant_id"])
            made.answer("api_key", "a-wrong-key-0123456789")
            made.answer("Another key", "")
            made.answer("Another source", "")
            answer_sink(made, sandbox)
            return made.end()

        with terminal(tmp_path) as made:
            status = await asyncio.to_thread(drive, made)
    assert status == 1
    for shown in ("is not a type of source", "does not fit", "made-up", "Fix what"):
        assert shown in made.shown, shown
    assert (
        "a.tenant_id: is not a UUID"
        in made.shown.partition("does not fit")[2].partition("Its name")[0]
    )
    assert (tmp_path / "credentials/a.api_key").read_text() == "a-wrong-key-0123456789\n"


def test_without_the_secrets_the_variables_are_named_and_nothing_is_tried(tmp_path: Path) -> None:
    with terminal(tmp_path) as made:
        made.answer("Type of source", "okta")
        made.answer("Its name", "acme-okta")
        made.answer("domain", "acme.okta.com")
        made.answer("token", "")
        made.answer("Another source", "")
        made.answer("Type of sink", "axiom")
        made.answer("Its name", "")
        made.answer("dataset", "audit")
        made.answer("token", "")
        made.answer("Another key", "")
        made.answer("Another sink", "")
        assert made.end() == 0
    assert "OKTA_TOKEN, AXIOM_TOKEN" in made.shown
    assert contents(tmp_path) == {"c.toml": 0o600}
    found = tomllib.loads((tmp_path / "c.toml").read_text("utf-8"))
    assert found["sources"]["acme-okta"] == {
        "type": "okta",
        "domain": "acme.okta.com",
        "token": "${env:OKTA_TOKEN}",
    }


def test_a_reference_that_is_given_for_a_secret_stays_one(tmp_path: Path) -> None:
    """As for a key of Google's, which is a file of several lines that no prompt can take."""
    key = tmp_path / "google.json"
    key.write_text(GOOGLE_KEY)
    key.chmod(0o600)
    with terminal(tmp_path) as made:
        made.answer("Type of source", "google_workspace")
        made.answer("Its name", "google")
        made.answer("application", "login")
        made.answer("administrator", "security@acme.example")
        made.answer("service_account", f"${{file:{tmp_path}/none.json}}")
        made.answer("Its name", "google")
        assert "none.json" in made.shown.partition("That does not fit")[2]
        made.answer("application", "login")
        made.answer("administrator", "security@acme.example")
        made.answer("service_account", f"${{file:{key}}}")
        made.answer("Another source", "")
        made.answer("Type of sink", "splunk_hec")
        made.answer("Its name", "siem")
        made.answer("url", "https://splunk.example.com:8088")
        made.answer("token", "${env:TOKEN_OF_THE_TEST}")
        made.answer("Another key", "")
        made.answer("Another sink", "")
        assert made.end() == 0
    assert "are not set here: TOKEN_OF_THE_TEST" in made.shown
    assert contents(tmp_path) == {"c.toml": 0o600, "google.json": 0o600}
    found = tomllib.loads((tmp_path / "c.toml").read_text("utf-8"))
    assert found["sources"]["google"]["service_account"] == f"${{file:{key}}}"
    assert found["sinks"]["siem"]["token"] == "${env:TOKEN_OF_THE_TEST}"


def test_who_needs_another_key_of_a_type_is_asked_for_it_as_for_the_others(tmp_path: Path) -> None:
    """Such as a password, the site of Datadog, or what is no text."""
    with terminal(tmp_path) as made:
        made.answer("Type of source", "jitsudo")
        made.answer("Its name", "a")
        made.answer("base_url", "https://jitsudo.example.com")
        made.answer("tenant_id", "00000000-0000-0000-0000-000000000000")
        made.answer("api_key", "")
        made.answer("Another key", "bearer_token")
        made.answer("bearer_token", "${env:BEARER_OF_THE_TEST}")
        made.answer("Another key", "page_size")
        made.answer("page_size", "many")
        made.answer("quotes\npage_size", "50")  # it takes no other key
        made.read_until(lambda: made.shown.endswith("[acme-access]: "))
    assert "page_size" not in made.shown.partition("That does not fit")[2]
    assert "api_key and bearer_token exclude each other" in made.shown


def test_other_keys_are_written_as_toml_has_them_and_their_secrets_are_hidden(
    tmp_path: Path,
) -> None:
    with terminal(tmp_path) as made:
        made.answer("Type of source", "okta")
        made.answer("Its name", "acme-okta")
        made.answer("domain", "acme.okta.com")
        made.answer("token", "")
        made.answer("Another source", "")
        made.answer("Type of sink", "loki")
        made.answer("Its name", "loki")
        made.answer("url", "https://loki.example.com")
        made.answer("Another key", "?")
        made.answer("Another key", "user")
        made.answer("user", "12345")
        made.answer("Another key", "password")
        made.answer("password", "a-password-of-loki")
        made.answer("Another key", "")
        made.answer("Another sink", "otlp")
        made.answer("Its name", "otlp")
        made.answer("endpoint", "https://collector.example.com:4318")
        made.answer("Another key", "headers")
        made.answer("headers", "a-text")
        made.answer("quotes\nheaders", '{ X-Scope-OrgID = "audit" }')
        made.answer("Another key", "")
        made.answer("Another sink", "")
        assert made.end() == 0
    assert "\n  tenant, user, password\n" in made.shown
    assert "a-password-of-loki" not in made.shown
    assert "not as TOML has it" in made.shown
    found = tomllib.loads((tmp_path / "c.toml").read_text("utf-8"))["sinks"]
    assert found["loki"]["user"] == "12345"
    assert found["loki"]["password"] == f"${{file:{tmp_path}/credentials/loki.password}}"
    assert found["otlp"]["headers"] == {"X-Scope-OrgID": "audit"}


@pytest.mark.parametrize("how", ["interrupt", "end of input"])
def test_to_break_it_off_leaves_nothing(tmp_path: Path, how: str) -> None:
    with terminal(tmp_path) as made:
        made.answer("Type of source", "cekura")
        made.answer("Its name", "")
        made.answer("organization_id", "42")
        made.answer("api_key", "a-key-of-cekura-0001")
        made.answer("Another key", "")
        if how == "interrupt":
            made.read_until(lambda: made.shown.endswith("no more): "))
            made.read_until(made.waits)  # or the signal comes before it begins to
            made.process.send_signal(signal.SIGINT)
        else:
            made.answer("Another source", "\x04")
        assert made.end() != 0
    assert "Traceback" not in made.shown
    assert contents(tmp_path) == {}


def test_without_a_terminal_it_says_what_to_do(tmp_path: Path) -> None:
    ended = subprocess.run(
        COMMAND, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "auditrelay init --source TYPE --sink TYPE" in ended.stderr
    assert contents(tmp_path) == {}


def test_a_file_that_is_there_is_not_asked_for(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("mine")
    with terminal(tmp_path) as made:
        assert made.end() == 2
    assert "exists already" in made.shown


def test_a_folder_that_is_not_there_is_not_asked_for(tmp_path: Path) -> None:
    with terminal(tmp_path, "none/c.toml") as made:
        assert made.end() == 2
    assert "none/c.toml: cannot be written" in made.shown
    assert "Type of source" not in made.shown


def test_a_name_whose_secrets_are_there_is_asked_for_again_at_once(tmp_path: Path) -> None:
    """They are those of another configuration in the same folder, and would not be overwritten."""
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "voice.api_key").write_text("of-another-configuration")
    with terminal(tmp_path) as made:
        made.answer("Type of source", "cekura")
        made.answer("Its name", "voice")
        made.answer("secrets of this name already; take another one\nIts name", "voice-2")
        made.answer("organization_id", "42")
        made.read_until(lambda: made.shown.endswith("CEKURA_API_KEY): "))


def test_what_was_written_is_removed_if_the_rest_cannot_be(tmp_path: Path) -> None:
    answers = first_run._Answers(tmp_path / "credentials")
    answers.files = {tmp_path / "credentials" / name: "s" for name in ("a", "b")}
    (tmp_path / "c.toml").write_text("mine")
    with pytest.raises(ConfigError, match="File exists; nothing was written"):
        first_run._write(tmp_path / "c.toml", answers, "")
    assert contents(tmp_path).keys() == {"c.toml"}
    assert (tmp_path / "c.toml").read_text() == "mine"


@pytest.mark.parametrize("name", sorted({*SOURCES, *SOURCES.described} - {"rest"}))
def test_each_key_that_a_source_needs_is_asked_for(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the answers of its own example each type passes the check of its settings."""
    example = init._example(sources, name)
    given = tomllib.loads(example)["sources"]
    ((table_name, keys),) = given.items()
    for value in keys.values():
        if isinstance(value, str) and (found := re.fullmatch(r"\$\{env:(\w+)\}", value)):
            monkeypatch.setenv(found[1], "a-pretend-secret")
    monkeypatch.setattr("builtins.input", example_in)
    monkeypatch.setattr("getpass.getpass", lambda _: "")
    answers = first_run._Answers(tmp_path)
    table = first_run._ask_keys(example, keys, table_name, answers)
    assert table == keys


def example_in(prompt: str) -> str:
    """Return what the *prompt* shows as an example."""
    return prompt.partition("(such as ")[2].removesuffix("): ")
