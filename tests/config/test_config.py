"""Which file is loaded, the state folder, checks across tables, and warnings."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from tests.config.loading import GOOD, SINKS, SOURCES, problems, read, vendor

from auditrelay.config import load
from auditrelay.errors import ConfigError
from auditrelay.telemetry.scrubber import Scrubber

# --- where it comes from -----------------------------------------------------------------------


def test_a_small_file_gets_every_default(file: Path) -> None:
    found = read(file)
    assert found.path == file
    assert found.state_dir == Path("/home/op/.local/state/auditrelay")
    assert found.status.listen == "127.0.0.1:9464"
    assert (found.log.level, found.log.format) == ("info", "auto")
    assert found.spool.max_bytes == 2 * 2**30
    assert (found.spool.retention, found.spool.remember) == (timedelta(7), timedelta(400))
    assert vendor(found).api_key.reveal() == "literal-key-1"
    assert found.sinks["splunk"].concurrency == 4
    assert found.warnings == ()


def test_the_file_is_the_named_one_else_that_of_the_first_default_path(
    tmp_path: Path, file: Path
) -> None:
    here, etc, named = tmp_path / "auditrelay.toml", tmp_path / "etc.toml", tmp_path / "n.toml"
    for path in (etc, here, named):
        path.write_text(GOOD)
        path.chmod(0o600)
    environ = {"AUDITRELAY_CONFIG": str(named)}
    assert read(file, environ).path == file
    assert read(None, environ).path == named
    assert read(None).path == here
    here.unlink()
    assert read(None).path == etc


def test_a_missing_configuration_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (problem,) = problems(None, {"AUDITRELAY_PORT": "tcp://10.0.0.1:9464"})
    assert "auditrelay.toml" in problem
    assert "`auditrelay init`" in problem


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"[sources\n", "line 1, column 9: not valid TOML"),
        (b'a = 1\nb = "\n', "line 2, column 6: not valid TOML"),
        (b"a = 1\na = 2", "not valid TOML"),
        (b"a = '\xff'", "is not text in UTF-8 (byte 5)"),
    ],
)
def test_a_file_that_cannot_be_read_says_where(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_bytes(content)
    (problem,) = problems(path)
    assert problem.startswith(f"{path}: ")
    assert message in problem


def test_a_folder_is_not_a_configuration_file(tmp_path: Path) -> None:
    assert problems(tmp_path) == [f"{tmp_path}: cannot be read: Is a directory"]


def test_a_byte_order_mark_is_ignored(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert vendor(read(file)).organization_id == "42"


@pytest.mark.process
def test_the_configuration_can_come_from_a_pipe() -> None:
    code = (
        "from pathlib import Path; from auditrelay.config import load;"
        "print(load(Path('/dev/stdin'), {'HOME': '/h'}).sinks['out'].path)"
    )
    text = '[sinks.out]\ntype = "file"\npath = "-"\n'
    ran = subprocess.run(
        [sys.executable, "-c", code], input=text, capture_output=True, text=True, check=False
    )
    assert (ran.stdout, ran.stderr) == ("-\n", "")


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "XDG_STATE_HOME": "/x"}, "/var/lib/a"),
        ({"XDG_STATE_HOME": "/x"}, "/x/auditrelay"),
        ({"XDG_STATE_HOME": "relative"}, "/home/op/.local/state/auditrelay"),
        ({"AUDITRELAY_STATE_DIR": "/given", "STATE_DIRECTORY": "/var/lib/a"}, "/given"),
    ],
)
def test_the_state_is_in_the_folder_that_the_system_names(
    environ: dict[str, str], folder: str, file: Path
) -> None:
    assert read(file, environ).state_dir == Path(folder)


def test_without_a_home_state_dir_must_be_set(file: Path) -> None:
    with pytest.raises(ConfigError, match="state_dir: is missing"):
        load(file, {}, sources=SOURCES, sinks=SINKS)


# --- problems ----------------------------------------------------------------------------------


def test_a_name_that_is_not_a_source_is_an_error(file: Path) -> None:
    file.write_text(GOOD + 'sources = ["acme-*", "acme-voce"]')
    assert problems(file) == [
        'sinks.splunk.sources: "acme-voce" is not a source; did you mean acme-voice?'
    ]


@pytest.mark.parametrize("pattern", ["acne-*", "acme-voic?x", "[b]*"])
def test_a_pattern_that_matches_no_source_yet_is_a_warning(pattern: str, file: Path) -> None:
    file.write_text(GOOD + f'sources = ["acme-*", "{pattern}"]')
    found = read(file)
    assert found.warnings == (f'sinks.splunk.sources: "{pattern}" matches no source yet',)
    assert found.sources_of("splunk") == ("acme-voice",)


def test_a_resweep_must_not_reach_back_beyond_spool_remember(file: Path) -> None:
    file.write_text(GOOD + '[spool]\nremember = "30d"')
    (problem,) = problems(file)
    assert problem.startswith("spool.remember: must be at least 31d for sources.acme-voice")


# --- secrets -----------------------------------------------------------------------------------


def test_the_log_learns_every_secret(file: Path, scrubber: Scrubber) -> None:
    read(file)
    assert scrubber.scrub("literal-key-1 and literal-token-1") == "*** and ***"


def test_a_file_with_secrets_that_other_users_can_read_is_a_warning(file: Path) -> None:
    file.chmod(0o640)
    (warning,) = read(file).warnings
    assert warning.startswith(f"{file}: other users of this machine can read its secrets")
    assert "(sources.acme-voice.api_key, sinks.splunk.token)" in warning
    assert "literal-" not in warning
    file.write_text(
        GOOD.replace("literal-key-1", "${env:A}").replace("literal-token-1", "${env:A}")
    )
    assert read(file, {"A": "key-in-env"}).warnings == ()


def test_a_file_that_every_user_can_write_is_refused(file: Path) -> None:
    file.chmod(0o602)
    (problem,) = problems(file)
    assert problem.startswith(f"{file}: every user of this machine can write it")


@pytest.mark.parametrize(
    ("mode", "words"),
    [(0o600, None), (0o640, None), (0o644, "read"), (0o622, "write"), (0o666, "write")],
)
def test_a_secret_file_that_other_users_can_open_is_a_warning(
    file: Path, mode: int, words: str | None
) -> None:
    secret = file.with_name("key")
    secret.write_text("key-of-a-file")
    secret.chmod(mode)
    file.write_text(GOOD.replace("literal-key-1", f"${{file:{secret}}}"))
    found = [warning for warning in read(file).warnings if str(secret) in warning]
    warned = (
        f"sources.acme-voice.api_key: every user of this machine can {words} {secret}: chmod 600"
    )
    assert found == ([] if words is None else [warned])


def test_in_a_pod_a_secret_that_everybody_can_read_is_no_warning(file: Path) -> None:
    secret = file.with_name("key")
    secret.write_text("key-of-a-file")
    file.write_text(GOOD.replace("literal-key-1", f"${{file:{secret}}}"))
    secret.chmod(0o644)
    pod = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    # The files of a CSI driver are root's: with 0600 they could not be read.
    assert read(file, pod).warnings == ()
    assert read(file).warnings
    secret.chmod(0o666)
    assert read(file, pod).warnings


def test_a_secret_in_a_variable_is_not_in_the_file(file: Path) -> None:
    file.chmod(0o644)
    file.write_text(
        GOOD.replace('api_key = "literal-key-1"\n', "").replace('token = "literal-token-1"\n', "")
    )
    found = read(
        file,
        {
            "AUDITRELAY_SOURCES__ACME_VOICE__API_KEY": "key-from-env",
            "AUDITRELAY_SINKS__SPLUNK__TOKEN": "token-from-env",
        },
    )
    assert found.warnings == ()


def test_a_short_secret_and_plain_http_are_warnings(file: Path) -> None:
    file.write_text(
        GOOD.replace("literal-key-1", "abc").replace("https://", "http://")
        + "allow_insecure_http = true"
    )
    short, plain = read(file).warnings
    assert short.startswith("sources.acme-voice.api_key: a secret of fewer than 6 characters")
    assert plain.startswith("sinks.splunk: allow_insecure_http")


@pytest.mark.parametrize("kind", ["file", "credential"])
def test_a_key_of_the_evidence_is_not_kept_beside_the_state_that_it_protects(
    tmp_path: Path, file: Path, kind: str
) -> None:
    state, kept = tmp_path / "state", tmp_path / "keys"
    for folder in (state, kept):
        folder.mkdir(mode=0o700)
        (folder / "key").touch(mode=0o600)
        (folder / "key").write_text("5d" * 32)
    (tmp_path / "link").symlink_to(state)

    def found(folder: Path) -> list[str]:
        name = "key" if kind == "credential" else str(folder / "key")
        key = f'[evidence]\nkey = "${{{kind}:{name}}}"\n'
        file.write_text(f'state_dir = "{state}"\n{GOOD}{key}')
        environ = {"CREDENTIALS_DIRECTORY": str(folder)}
        try:
            read(file, environ)
        except ConfigError as error:
            return list(error.problems)
        return []

    assert found(kept) == []
    for folder in (state, tmp_path / "link"):
        (problem,) = found(folder)
        assert f"evidence.key: {folder / 'key'} is in the state directory" in problem
        assert "keep it elsewhere" in problem
