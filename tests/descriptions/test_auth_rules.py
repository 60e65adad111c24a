"""Tables of credentials that contradict themselves are refused when the file is read."""

from pathlib import Path

import pytest
from tests.support.authorized import CLIENT_CREDENTIALS, feed, settings_of

from auditrelay.descriptions import load
from auditrelay.errors import ConfigError

FILE = """
vendor = "acme"
product = "Acme"
docs = ["https://acme.example/docs"]
checked = 2026-10-30
evidence = "documentation"

[secrets.client_id]
about = "The client's id."

[secrets.client_secret]
about = "The client's secret."

[secrets.key]
about = "The key."

[auth]
kind = "oauth2"
token_url = "https://login.acme.example/token/"
{auth}

[request]
base_url = "https://api.acme.example"
path = "/logs"

[time]
start = "query:from"
end = "query:to"

[pages]
kind = "none"

[records]
at = "data"
id = "id"
time = "at"
organisation = "org"

[event]
action = "action"

[actions]
"login" = "session/login"
"""

CLIENT = 'grant = "client_credentials"\nclient_id = "client_id"\nclient_secret = "client_secret"\n'
JWT = 'grant = "jwt"\nkey = "key"\n'


def problems(path: Path, auth: str) -> list[str]:
    file = path / "acme.toml"
    file.write_text(FILE.format(auth=auth), "utf-8")
    try:
        load.read(file)
    except ConfigError as error:
        return [line for line in error.problems if "auth." in line]
    return []


@pytest.mark.parametrize(
    ("auth", "problem"),
    [
        (JWT + 'send = "basic"', 'auth.send: is "basic", and there is no client_id to send'),
        (
            CLIENT + 'scope = "a"\nparams = { scope = "b" }',
            "auth.params.scope: is set by auth.scope: leave it out",
        ),
        (
            CLIENT + 'audience = "a"\nparams = { audience = "b" }',
            "auth.params.audience: is set by auth.audience: leave it out",
        ),
        (
            CLIENT + 'params = { grant_type = "b" }',
            "auth.params.grant_type: is set by the grant: leave it out",
        ),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(
    tmp_path: Path, auth: str, problem: str
) -> None:
    (line,) = problems(tmp_path, auth)
    assert line.endswith(problem)


@pytest.mark.parametrize(
    "auth",
    [
        CLIENT + 'params = { resource = "b", scope = "c" }\nsend = "basic"',
        CLIENT + 'scope = "a"\nparams = { audience = "b" }',
        JWT + 'client_id = "client_id"\nsend = "basic"',
    ],
)
def test_any_other_table_is_not(tmp_path: Path, auth: str) -> None:
    assert problems(tmp_path, auth) == []


def test_the_slash_at_the_end_of_a_token_address_is_kept() -> None:
    """Some servers redirect without it, and redirects are never followed."""
    address = "https://login.acme.example/token/"
    made = settings_of(
        feed({**CLIENT_CREDENTIALS, "token_url": address}),
        {"client_id": "1", "client_secret": "2", "base_url": "https://a/"},
        learn=False,
    )
    assert made.token_address == address
    assert made.base_url == "https://a"
