"""The keys of the sink, and what is wrong with others."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from auditrelay.config import load
from auditrelay.config.model import secrets_in
from auditrelay.errors import ConfigError
from auditrelay.settings.secrets import Resolved
from auditrelay.sinks.otlp import Settings
from auditrelay.status.model import Credential
from auditrelay.status.report import report

ENDPOINT = "https://collector.example:4318"


def read(**keys: Any) -> Settings:
    return Settings.model_validate({"type": "otlp", "endpoint": ENDPOINT, **keys})


def test_what_is_usual() -> None:
    settings = read()
    assert (settings.encoding, settings.partial, settings.format) == ("protobuf", "isolate", "ocsf")
    assert settings.addresses == {"endpoint": ENDPOINT}
    assert (settings.proves, settings.headers, settings.notes) == ("taken", {}, ())


def test_the_port_of_the_other_transport_is_noticed() -> None:
    [note] = read(endpoint="https://collector.example:4317").notes
    assert note.startswith("endpoint: 4317 is the port of OTLP over gRPC")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"endpoint": f"{ENDPOINT}/v1/logs"}, "leave out /v1/logs: it is added"),
        ({"endpoint": f"{ENDPOINT}/v1/logs/"}, "leave out /v1/logs: it is added"),
        ({"endpoint": "collector:4318"}, "write https://host"),
        ({"endpoint": "http://collector.example:4318"}, "would send the credentials in clear"),
        ({"encoding": "grpc"}, "'protobuf' or 'json'"),
        ({"partial": "retry"}, "'isolate' or 'count'"),
        ({"batch_bytes": "21MiB"}, "less than or equal to 20971520"),
        ({"batch_bytes": "9KB"}, "greater than or equal to 10000"),
        ({"headers": {"a b": "x"}}, "'a b' is not the name of a header"),
        ({"headers": {"": "x"}}, "'' is not the name of a header"),
        ({"headers": {"content-Type": "x"}}, "content-Type is a header that auditrelay sets"),
        ({"headers": {"Host": "x"}}, "Host is a header that auditrelay sets"),
        ({"headers": {"X-Key": "x", "x-key": "y"}}, "a header is there twice"),
        ({"headers": {"X-Key": ""}}, "is empty"),
        ({"headers": {"X-Key": "a\nb"}}, "no HTTP header may have"),
        ({"headers": {"X-Key": 5}}, "must be a text"),
        ({"headers": "X-Key=abc"}, "is not a table in JSON"),
    ],
)
def test_a_wrong_key_is_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        read(**keys)


def test_a_variable_may_be_the_table_of_headers() -> None:
    assert read(headers='{"X-Key": "abc"}').headers["X-Key"].reveal() == "abc"


def test_a_tenant_in_the_file_is_no_secret_and_everything_else_is() -> None:
    settings = read(
        headers={
            "X-Scope-OrgID": "acme",
            "X-Tenant": Resolved("${env:TENANT}", {"TENANT": "acme"}),
            "Authorization": "word",
            "api-key": "word",
            "X-Odd": "Zq81-hyKq-0f2c-77aB",
        }
    )
    hidden = {name: secret.hidden for name, secret in secrets_in(settings)}
    assert hidden == {
        "headers.X-Scope-OrgID": (),
        "headers.X-Tenant": ("acme",),
        "headers.Authorization": ("word",),
        "headers.api-key": ("word",),
        "headers.X-Odd": ("Zq81-hyKq-0f2c-77aB",),
    }


FILE = """
[sources.bland]
type = "bland"
api_key = "${env:KEY}"
[sinks.collector]
type = "otlp"
endpoint = "https://collector.example:4318"
headers = { %s }
"""


def written(folder: Path, headers: str) -> Path:
    path = folder / "auditrelay.toml"
    path.write_text(FILE % headers)
    path.chmod(0o644)
    return path


def test_the_secrets_of_a_table_are_known_to_the_scrubber_and_warned_of(tmp_path: Path) -> None:
    headers = 'Authorization = "Bearer abcdef0123456789", X-Scope-OrgID = "acme"'
    environ = {"HOME": str(tmp_path), "KEY": "k-1234567"}
    config = load(written(tmp_path, headers), environ)
    known = [secret.reveal() for secret in config.secrets() if secret.hidden]
    assert "Bearer abcdef0123456789" in known
    [warning] = [each for each in config.warnings if "can read its secrets" in each]
    assert "(sinks.collector.headers.Authorization)" in warning


def test_the_status_says_where_each_secret_of_a_table_comes_from(tmp_path: Path) -> None:
    headers = 'Authorization = "Bearer ${env:KEY}", X-Scope-OrgID = "acme"'
    config = load(written(tmp_path, headers), {"HOME": str(tmp_path), "KEY": "k-1234567"})
    now = datetime(2026, 3, 10, tzinfo=UTC)
    (row,) = report(config, (), (), spool_bytes=0, now=now).sinks
    assert row.credentials == (Credential("headers.Authorization", ("${env:KEY}",)),)


@pytest.mark.parametrize(
    "value",
    [
        '{ Authorization = ["Bearer abcdef0123456789"] }',
        '{ A = { b = "abcdef0123456789" } }',
        '{ A = "abcdef0123456789\\n" }',
        '"abcdef0123456789"',
        '["abcdef0123456789"]',
    ],
)
def test_an_error_about_headers_shows_none_of_them(tmp_path: Path, value: str) -> None:
    path = written(tmp_path, "")
    path.write_text(path.read_text().replace("{  }", value))
    with pytest.raises(ConfigError, match=r"sinks\.collector\.headers") as caught:
        load(path, {"HOME": str(tmp_path), "KEY": "k-1234567"})
    assert "abcdef0123456789" not in str(caught.value)


def test_an_error_about_a_table_shows_no_secret_in_it(tmp_path: Path) -> None:
    headers = 'Authorization = "Bearer abcdef0123456789", X-Key = "${env:MISSING}"'
    path = written(tmp_path, f'{headers}, Content-Type = "abcdef0123456789x"')
    with pytest.raises(ConfigError) as caught:
        load(path, {"HOME": str(tmp_path), "KEY": "k-1234567"})
    assert "abcdef0123456789" not in str(caught.value)
    assert "sinks.collector.headers.X-Key: the environment variable MISSING is not set" in str(
        caught.value
    )
