"""What is sent for a token: the grants, and the ways in which a client identifies itself."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from tests.support.authorized import (
    CLIENT_CREDENTIALS,
    CLIENT_ID,
    CLIENT_SECRET,
    ask,
    feed,
    rig,
    settings_of,
)
from tests.support.clock import FakeClock
from tests.support.logged import logged
from tests.support.peers import reply

from auditrelay.descriptions.credentials.grants import TokenRequest
from auditrelay.descriptions.model import OAuth2Auth
from auditrelay.errors import ConfigError, Refused, Retryable
from auditrelay.sandbox.authorization import Client
from auditrelay.telemetry.scrubber import scrub

ROOT = Path(__file__).parents[3]

KEYS = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}

SETTINGS = {
    name: {"about": "A setting.", "example": "x", "default": default}
    for name, default in {
        "account": "a&b=c d/\u00e9",
        "administrator": "security+admin@acme.example",
        "nothing": "",
    }.items()
}


@pytest.mark.parametrize("send", ["form", "json", "basic"])
async def test_client_credentials_in_every_way(clock: FakeClock, send: Any) -> None:
    client = Client(
        id=CLIENT_ID,
        secret=CLIENT_SECRET,
        send=send,
        params={
            "audience": "https://acme.example/api/v2/",
            "scope": "read:logs read:users",
            "account": "a&b=c d/\u00e9",
        },
    )
    auth = {
        **CLIENT_CREDENTIALS,
        "send": send,
        "audience": "https://acme.example/api/v2/",
        "scope": "read:logs read:users",
        "params": {"account": "{account}", "nothing": "{nothing}"},
    }
    async with rig(clock, auth, client, settings=SETTINGS) as made:
        assert (await ask(made.source())).status == 200
        assert made.token_requests == 1


@pytest.mark.parametrize("send", ["form", "json", "basic"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"params": {}}, "missing: account"),
        ({"params": {"account": "1", "more": "2"}}, "unknown: more"),
        ({"scope": "other"}, "invalid_scope"),
        ({"audience": None}, "missing: audience"),
        ({"grant": "account_credentials"}, "unsupported_grant_type"),
    ],
)
async def test_what_is_wrong_is_in_the_servers_words(
    clock: FakeClock, send: Any, change: Mapping[str, Any], words: str
) -> None:
    params = {"audience": "a", "scope": "s", "account": "1"}
    auth = {
        **CLIENT_CREDENTIALS,
        "send": send,
        "audience": "a",
        "scope": "s",
        "params": {"account": "1"},
    }
    client = Client(id=CLIENT_ID, secret=CLIENT_SECRET, send=send, params=params)
    async with rig(clock, auth, client) as made:
        assert (await ask(made.source())).status == 200
        with pytest.raises(Refused, match=words):
            await ask(made.source("other", auth=change))


@pytest.mark.parametrize(
    ("ours", "theirs"), [("form", "json"), ("json", "basic"), ("basic", "form"), ("form", "basic")]
)
async def test_a_client_that_identifies_itself_in_another_way_is_refused(
    clock: FakeClock, ours: Any, theirs: Any
) -> None:
    client = Client(id=CLIENT_ID, secret=CLIENT_SECRET, send=theirs)
    async with rig(clock, {**CLIENT_CREDENTIALS, "send": ours}, client) as made:
        with pytest.raises(Refused, match=r"40[01] from POST"):
            await ask(made.source())


async def test_account_credentials_as_of_zoom(clock: FakeClock) -> None:
    """https://developers.zoom.us/docs/internal-apps/s2s-oauth/"""
    client = Client("account_credentials", CLIENT_ID, CLIENT_SECRET, "basic", {"account_id": "Ab1"})
    auth = {
        **CLIENT_CREDENTIALS,
        "grant": "account_credentials",
        "send": "basic",
        "params": {"account_id": "Ab1"},
    }
    async with rig(clock, auth, client) as made:
        assert (await ask(made.source())).status == 200


async def test_a_refresh_token(clock: FakeClock) -> None:
    client = Client("refresh_token", CLIENT_ID, CLIENT_SECRET, refresh_token="r-0123456789/+")
    auth = {**CLIENT_CREDENTIALS, "grant": "refresh_token", "refresh_token": "refresh_token"}
    secrets = {**KEYS, "refresh_token": "r-0123456789/+"}
    async with rig(clock, auth, client, secrets=secrets) as made:
        assert (await ask(made.source())).status == 200
        with pytest.raises(Refused, match="authorise the app again"):
            await ask(made.source("other", refresh_token="r-another"))
        assert (await ask(made.source("third"))).status == 200
        assert made.token_requests == 2, "another refresh token is of another user"


async def test_a_basic_credential_is_hidden_in_the_spelling_in_which_it_is_sent(
    clock: FakeClock,
) -> None:
    client = Client(id="ab", secret="+/%&=+/%&=aZ9", send="basic")
    async with rig(clock, {**CLIENT_CREDENTIALS, "send": "basic"}, client) as made:
        await ask(made.source())
        (request,) = made.server.seen
        value = request.headers["authorization"].removeprefix("Basic ")
        assert scrub(f"it repeats Basic {value}") == "it repeats Basic ***"


# --- answers

ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["invalid_client", "1e400", "3600", "t-0123456789abcdef", "a\ud800"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)
KEYS_OF_ANSWERS = ["access_token", "expires_in", "refresh_token", "error", "message", "status"]


@given(
    status=st.sampled_from([200, 201, 204, 302, 400, 401, 403, 404, 408, 418, 422, 429, 500, 503]),
    body=st.dictionaries(st.sampled_from(KEYS_OF_ANSWERS), ODD).map(json.dumps) | st.text(),
)
def test_any_answer_is_a_token_that_can_be_sent_or_an_error_with_a_name(
    status: int, body: str
) -> None:
    settings = settings_of(feed(CLIENT_CREDENTIALS), KEYS, learn=False)
    auth = settings.FEED.auth
    assert isinstance(auth, OAuth2Auth)
    request = TokenRequest("acme", settings, auth, FakeClock())
    answer = reply(status, body.encode("utf-8", "surrogatepass"))
    refusals: list[Refused] = []
    try:
        granted = request.read(answer)
    except Retryable:
        return
    except Refused as error:
        refusals.append(error)
    if refusals:
        assert not refusals[0].of_request, "every request needs a token"
        return
    httpx.Request("GET", "https://a", headers={"authorization": granted.token.reveal()})
    assert granted.life is None or 0 < granted.life < float("inf")


# --- signed claims


@pytest.fixture(scope="module")
def key() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def other_key() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


def pem(key: RSAPrivateKey, form: PrivateFormat = PrivateFormat.PKCS8) -> str:
    return key.private_bytes(Encoding.PEM, form, NoEncryption()).decode()


def account(key: RSAPrivateKey, **changes: Any) -> str:
    """Return a service account's key as Google gives it."""
    return json.dumps(
        {
            "type": "service_account",
            "project_id": "acme-audit-123456",
            "private_key_id": "0f1e2d3c4b5a69788796a5b4c3d2e1f001234567",
            "private_key": pem(key),
            "client_email": "audit-reader@acme-audit-123456.iam.gserviceaccount.com",
            "client_id": "102030405060708090102",
            "auth_uri": "https://accounts.google.com/o/oauth2/auth",
            "token_uri": "https://oauth2.googleapis.com/token",
            **changes,
        },
        indent=2,
    )


JWT: Mapping[str, Any] = {
    "kind": "oauth2",
    "grant": "jwt",
    "token_url": "https://oauth2.googleapis.com/token",
    "key": "service_account",
    "audience": "https://oauth2.googleapis.com/token",
    "subject": "{administrator}",
    "scope": "https://www.googleapis.com/auth/admin.reports.audit.readonly",
}

CLAIMS = {
    "iss": "audit-reader@acme-audit-123456.iam.gserviceaccount.com",
    "sub": "security+admin@acme.example",
    "aud": "https://oauth2.googleapis.com/token",
    "scope": "https://www.googleapis.com/auth/admin.reports.audit.readonly",
}


def jwt_client(key: RSAPrivateKey, **changes: Any) -> Client:
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    number = "0f1e2d3c4b5a69788796a5b4c3d2e1f001234567"
    fields = {"key_id": number, "claims": CLAIMS, **changes}
    return Client("jwt", public_key=public, **fields)


async def test_a_service_accounts_json_as_google_gives_it(
    clock: FakeClock, key: RSAPrivateKey, tmp_path: Path
) -> None:
    file = tmp_path / "google.json"
    file.write_text(account(key))
    secrets = {"service_account": f"${{file:{file}}}"}
    async with rig(clock, JWT, jwt_client(key), secrets=secrets, settings=SETTINGS) as made:
        peer = made.source()
        for _ in range(3):
            assert (await ask(peer)).status == 200
            made.server.revoke()
        assert made.token_requests == 3, "each time with new claims"


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
async def test_a_key_in_pem_with_an_issuer(
    clock: FakeClock, key: RSAPrivateKey, form: PrivateFormat
) -> None:
    auth = {**JWT, "issuer": "the-issuer", "subject": None, "audience": None, "scope": None}
    client = jwt_client(key, key_id=None)
    secrets = {"service_account": pem(key, form)}
    async with rig(clock, auth, client, secrets=secrets, settings=SETTINGS) as made:
        client.claims = {"iss": "the-issuer", "aud": made.server.token_url}
        assert (await ask(made.source())).status == 200


async def test_claims_of_another_key_are_refused(
    clock: FakeClock, key: RSAPrivateKey, other_key: RSAPrivateKey
) -> None:
    secrets = {"service_account": account(other_key)}
    async with rig(clock, JWT, jwt_client(key), secrets=secrets, settings=SETTINGS) as made:
        with pytest.raises(Refused, match=r"Invalid JWT Signature. \(invalid_grant\); check the "):
            await ask(made.source())


async def test_a_wrong_clock_is_in_the_servers_words(clock: FakeClock, key: RSAPrivateKey) -> None:
    secrets = {"service_account": account(key)}
    async with rig(clock, JWT, jwt_client(key), secrets=secrets, settings=SETTINGS) as made:
        made.server.clock = lambda: clock.seconds() - 7200
        with pytest.raises(Refused, match=r"Check your iat and exp values .* the clock of this"):
            await ask(made.source())


async def test_a_rotated_key_is_read_again(
    clock: FakeClock, key: RSAPrivateKey, other_key: RSAPrivateKey, tmp_path: Path
) -> None:
    file = tmp_path / "google.json"
    file.write_text(account(other_key))
    secrets = {"service_account": f"${{file:{file}}}"}
    async with rig(clock, JWT, jwt_client(key), secrets=secrets, settings=SETTINGS) as made:
        peer = made.source()
        file.write_text(account(key))
        assert (await ask(peer)).status == 200
        assert made.token_requests == 2
        file.write_text("{}")
        made.server.revoke()
        assert (await ask(peer)).status == 200


def encrypted(key: RSAPrivateKey) -> str:
    scheme = BestAvailableEncryption(b"passphrase")
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, scheme).decode()


def elliptic() -> str:
    made = generate_ec(SECP256R1())
    return made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def weak() -> str:
    return pem(generate_private_key(65537, 1024))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("k-0123456789", "is neither a private key in PEM form nor a service account's JSON file"),
        ("{", "is not JSON, though it begins like that"),
        ("{" * 10_000, "is not JSON, though it begins like that"),
        ("{}", "has no private_key: it must be the JSON file of a service account's key"),
        ('{"private_key": 7}', "has no private_key"),
        ('{"private_key": "x"}', "is neither a private key in PEM form"),
        ("-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----", "is neither a private"),
        (encrypted, "is encrypted: give the key without a passphrase"),
        (elliptic, "is not an RSA key: only RS256 is supported"),
        (weak, "has 1024 bits: RS256 needs 2048 at least"),
        (pem, "has no client_email, and the description names no issuer"),
        ('{"private_key": "\\ud800"}', "is neither a private key in PEM form"),
    ],
)
async def test_a_key_that_is_none_is_a_configuration_error(
    clock: FakeClock, key: RSAPrivateKey, text: Any, problem: str
) -> None:
    if callable(text):
        text = text(key) if text in (encrypted, pem) else text()
    secrets = {"service_account": text}
    async with rig(clock, JWT, jwt_client(key), secrets=secrets, settings=SETTINGS) as made:
        with pytest.raises(ConfigError) as caught:
            made.source()
    assert str(caught.value).startswith("acme.service_account: ")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "0123456789" not in str(caught.value)


async def test_a_key_and_its_claims_are_in_no_log(clock: FakeClock, key: RSAPrivateKey) -> None:
    secrets = {"service_account": account(key)}
    sent: list[str] = []
    async with rig(clock, JWT, jwt_client(key), secrets=secrets, settings=SETTINGS) as made:
        made.server.on_request = lambda request: sent.append(request.body.decode())
        with logged("debug") as lines:
            peer = made.source()
            await ask(peer)
            text = str(lines())
        body = pem(key).split("\n")[1:-2]
        assert not [line for line in body if line in text or line in repr(peer._credentials)]
        for line in body:
            hidden = scrub(f"the server repeats {line}")
            assert hidden == "the server repeats ***"
        assert body[3] not in scrub(account(key), 10_000)
        assertion = sent[0].rpartition("assertion=")[2]
        assert scrub(f"the server repeats {assertion}") == "the server repeats ***"
        # And what is no secret stays readable.
        message = f"401 from POST {JWT['token_url']}: service_account, auth_uri, project_id"
        assert scrub(message) == message


@pytest.mark.process
@pytest.mark.parametrize("grant", ["client_credentials", "jwt"])
def test_cryptography_is_imported_for_signed_claims_only(grant: str, key: RSAPrivateKey) -> None:
    program = """
import sys
from tests.support.authorized import CLIENT_CREDENTIALS, feed, settings_of
from auditrelay.clock import Clock
from auditrelay.sources.described.auth import credentials
from auditrelay.telemetry.metrics import Metrics

grant, key = sys.argv[1:]
auth = CLIENT_CREDENTIALS | {"grant": grant} | ({"key": "key"} if grant == "jwt" else {})
table = {"client_id": "1", "client_secret": "2"} | ({"key": key} if grant == "jwt" else {})
before = "cryptography" in sys.modules
credentials("acme", settings_of(feed(auth), table), Metrics(), Clock())
print(before, "cryptography" in sys.modules)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, grant, account(key)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ended.stdout.split() == ["False", str(grant == "jwt")]
