"""The settings of a described source: its own keys, the vendor's defaults, and their errors."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.descriptions.acme import PARTS, described

from auditrelay.descriptions.settings import DescribedSettings, settings_class
from auditrelay.settings.secrets import Secret, SecretDocument

KEYS = {"type": "acme", "domain": "eu.acme.example", "token": "a-pretend-token"}


def settings(folder: Path, keys: dict[str, Any] | None = None, /, **parts: str) -> Any:
    """Return the settings with *keys* of a description with *parts* changed."""
    made = settings_class(described(folder, **parts).feed(), "acme")
    return made.model_validate({**KEYS, **(keys or {})})


def problem(folder: Path, keys: dict[str, Any], /, **parts: str) -> str:
    with pytest.raises(ValidationError) as caught:
        settings(folder, keys, **parts)
    [error] = caught.value.errors()
    return f"{'.'.join(map(str, error['loc']))}: {error['msg'].removeprefix('Value error, ')}"


def test_declared_settings_and_secrets_are_keys(tmp_path: Path) -> None:
    found = settings(tmp_path)
    assert isinstance(found, DescribedSettings)
    assert found.values == {"domain": "eu.acme.example"}
    assert found.secret("token").reveal() == "a-pretend-token"
    assert "pretend" not in repr(found)
    assert (found.vendor, found.vendor_key, found.product) == ("acme", "acme", "Acme")
    assert {"actor.id"} == found.IDENTITIES


def test_the_address_is_filled_in_and_the_operators_replaces_it(tmp_path: Path) -> None:
    assert settings(tmp_path).base_url == "https://eu.acme.example"
    assert settings(tmp_path, {"base_url": "http://127.0.0.1:9"}).base_url == "http://127.0.0.1:9"
    assert "plain http would send" in problem(tmp_path, {"base_url": "http://acme.example"})


def test_the_vendors_defaults_hold_unless_the_operator_has_set_others(tmp_path: Path) -> None:
    defaults = '[defaults]\nsettle = "2m"\nmax_window = "1d"\nresweep = ["6h"]\npage_size = 50'
    found = settings(tmp_path, {"settle": "3m"}, defaults=defaults)
    assert (found.settle, found.max_window) == (timedelta(minutes=3), timedelta(days=1))
    assert (found.resweep, found.page_size) == ([timedelta(hours=6)], 50)
    assert found.overlap == timedelta(minutes=10), "what every source has"
    assert settings(tmp_path).page_size == 100, "the vendor's largest"


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"domain": "EU"}, 'domain: must look like "eu.acme.example" and match [a-z0-9.-]+'),
        ({"domain": ""}, "domain: is empty: set a value"),
        ({"domain": 5}, "domain: Input should be a valid string"),
        ({"domain": "-.-"}, "domain: stands in the host of an address: only letters, digits"),
        ({"token": ""}, "token: is empty"),
        ({"token": "a\nb"}, "token: contains a character that no HTTP header may have"),
        ({"page_size": 101}, "page_size: the vendor gives at most 100"),
        ({"page_size": 0}, "page_size: Input should be greater than or equal to 1"),
        ({"overlap": "40d"}, ": overlap must be shorter than max_window"),
        ({"max_window": "40d"}, "max_window: Input should be less than or equal to 30 days"),
        ({"feed": "x"}, "feed: Extra inputs are not permitted"),
        ({"description": "x"}, "description: Extra inputs are not permitted"),
        ({"token_url": "https://x"}, "token_url: Extra inputs are not permitted"),
        ({"pseudonymize": ["target.id"]}, ": pseudonymize: target.id: records of type acme"),
    ],
)
def test_a_wrong_key_is_refused(keys: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    assert problem(tmp_path, keys).startswith(sentence)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("..", "stands in the path of an address, and would lead elsewhere"),
        ("a\tb", "must not contain a control character, or a space at an end"),
        (" a", "must not contain a control character, or a space at an end"),
    ],
)
def test_a_setting_without_a_pattern_cannot_change_the_request(
    value: str, sentence: str, tmp_path: Path
) -> None:
    parts = {
        "settings": PARTS["settings"] + '[settings.org]\nabout = "x"\nexample = "x"\n',
        "request": PARTS["request"].replace("/v1/logs", "/v1/{org}/logs"),
    }
    assert problem(tmp_path, {"org": value}, **parts) == f"org: {sentence}"
    assert settings(tmp_path, {"org": "a/b é"}, **parts).values["org"] == "a/b é"


def test_choices_and_defaults(tmp_path: Path) -> None:
    declared = '[settings.kind]\nabout = "x"\nexample = "a"\nchoices = ["a", "b"]\ndefault = "b"\n'
    parts = {
        "settings": PARTS["settings"] + declared,
        "request": PARTS["request"].replace('"asc"', '"{kind}"'),
    }
    assert settings(tmp_path, **parts).values["kind"] == "b"
    assert problem(tmp_path, {"kind": "c"}, **parts) == 'kind: must be one of "a", "b"'


def test_a_longer_window_than_the_vendor_accepts_is_cut_with_a_note(tmp_path: Path) -> None:
    time = PARTS["time"].rstrip() + '\nlongest = "1d"\n'
    assert settings(tmp_path, time=time).max_window == timedelta(days=1)
    assert settings(tmp_path, time=time).notes == ()
    cut = settings(tmp_path, {"max_window": "2d"}, time=time)
    assert cut.max_window == timedelta(days=1)
    assert cut.notes == (
        "max_window: the vendor accepts windows of 1d at most, so that is used instead of 2d",
    )
    keys = {"max_window": "3d", "overlap": "1d"}
    assert problem(tmp_path, keys, time=time) == (
        ": overlap: must be shorter than 1d, the longest window that the vendor accepts"
    )


def test_an_optional_secret_may_be_left_out_and_is_empty(tmp_path: Path) -> None:
    secrets = PARTS["secrets"].rstrip() + '\ndefault = ""\n'
    made = settings_class(described(tmp_path, secrets=secrets).feed(), "acme")
    found = made.model_validate({key: KEYS[key] for key in ("type", "domain")})
    assert found.secret("token") == Secret("")


OAUTH2 = """
[auth]
kind = "oauth2"
grant = "jwt"
token_url = "https://{domain}/oauth/token"
key = "token"
"""


def test_a_key_of_several_lines_is_a_secret_that_no_header_has(tmp_path: Path) -> None:
    found = settings(tmp_path, {"token": "-----BEGIN\nabc\n-----END\n"}, auth=OAUTH2)
    assert isinstance(found.secret("token"), SecretDocument)
    assert problem(tmp_path, {"token": "  \n"}, auth=OAUTH2) == "token: is empty"


def test_the_authorisation_server_has_an_address_of_its_own(tmp_path: Path) -> None:
    found = settings(tmp_path, {"base_url": "https://gateway.example"}, auth=OAUTH2)
    assert found.token_address == "https://eu.acme.example/oauth/token"
    assert found.addresses["token_url"] == found.token_address
    found = settings(tmp_path, {"token_url": "https://login.example/t"}, auth=OAUTH2)
    assert (found.token_address, found.base_url) == (
        "https://login.example/t",
        "https://eu.acme.example",
    )
    assert "plain http" in problem(tmp_path, {"token_url": "http://login.example"}, auth=OAUTH2)


def test_ids_are_unique_in_the_settings_that_say_so(tmp_path: Path) -> None:
    assert settings(tmp_path).scope == "eu.acme.example"
    unmarked = {"settings": PARTS["settings"].replace("scope = true", "")}
    assert settings(tmp_path, **unmarked).scope == "eu.acme.example", "it stands in the host"
    own = {**unmarked, "records": PARTS["records"].rstrip() + '\norganisation = "org"\n'}
    assert settings(tmp_path, **own).scope == "", "records name it"
    two = '[settings.team]\nabout = "x"\nexample = "x"\nscope = true\n'
    keys, both = {"team": 'a", "b'}, PARTS["settings"] + two
    assert settings(tmp_path, keys, settings=both).scope == '["eu.acme.example", "a\\", \\"b"]'


# --- feeds -------------------------------------------------------------------

FEEDS = {
    "request": "",
    "feeds": """
[feeds.admin]
about = "Of administrators."
[feeds.admin.request]
base_url = "https://{domain}"
path = "/admin"
[feeds.users.request]
base_url = "https://{domain}"
path = "/users"
[feeds.users.actions]
"x" = "user/delete"
""",
}


def test_a_table_of_a_feed_replaces_the_whole_table_at_the_top(tmp_path: Path) -> None:
    found = described(tmp_path, **FEEDS)
    admin, users = found.feed("admin"), found.feed("users")
    assert (admin.key, users.key) == ("acme:admin", "acme:users")
    assert (admin.request.path, users.request.path) == ("/admin", "/users")
    assert set(admin.actions) == {"user.create", "user.*"}
    assert set(users.actions) == {"x"}
    assert admin.feeds == ("admin", "users")


def test_a_feed_is_named_unless_there_is_a_default(tmp_path: Path) -> None:
    made = settings_class(described(tmp_path, **FEEDS).feed("admin"), "acme")
    with pytest.raises(ValidationError, match="feed\n  Field required"):
        made.model_validate(KEYS)
    assert made.model_validate({**KEYS, "feed": "admin"}).vendor_key == "acme:admin"
    default = {**FEEDS, "top": PARTS["top"].rstrip() + '\ndefault_feed = "users"\n'}
    made = settings_class(described(tmp_path, **default).feed(), "acme")
    found = made.model_validate(KEYS)
    assert found.vendor_key == "acme:users"
