"""Secrets are hidden in any encoding, and nothing else is."""

import base64
import html
import json
import re
import string
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditrelay.settings.secrets import Resolved, Secret, SecretDocument
from auditrelay.telemetry.scrubber import MAX_RENEWED, Scrubber

SECRET = 'sk/live+1"\\ &<é'.replace("é", "=")


def scrubber(*secrets: str) -> Scrubber:
    made = Scrubber()
    made.learn(*map(Secret, secrets))
    return made


@pytest.mark.parametrize(
    "spell",
    [
        str,
        repr,
        json.dumps,
        html.escape,
        urllib.parse.quote,
        urllib.parse.quote_plus,
        lambda text: urllib.parse.quote(text, safe=""),
        lambda text: urllib.parse.quote(text, safe="").lower(),
        lambda text: json.dumps(text).replace("/", "\\/"),
        lambda text: text.replace("<", "\\u003c").replace("&", "\\u0026"),
        str.upper,
    ],
)
def test_a_secret_is_hidden_in_any_encoding(spell: Callable[[str], str]) -> None:
    scrubbed = scrubber(SECRET).scrub(f"error from peer: {spell(SECRET)} is wrong")
    assert "***" in scrubbed
    assert "live" not in scrubbed.lower()
    assert scrubbed.startswith("error from peer: ")
    assert scrubbed.endswith(" is wrong")


@given(
    secret=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=6, max_size=60),
    before=st.binary(max_size=7),
    after=st.binary(max_size=7),
    encode=st.sampled_from([base64.b64encode, base64.urlsafe_b64encode]),
    quoted=st.booleans(),
)
def test_a_secret_is_hidden_inside_any_base64(
    secret: str,
    before: bytes,
    after: bytes,
    encode: Callable[[bytes], bytes],
    *,
    quoted: bool,
) -> None:
    text = encode(before + secret.encode() + after).decode()
    scrubbed = scrubber(secret).scrub(urllib.parse.quote(text, safe="") if quoted else text)
    assert scrubbed.endswith("***")
    # The rest decodes to the text before the secret, and to nothing of the secret.
    left = urllib.parse.unquote(scrubbed.removesuffix("***"))
    assert len(left) * 6 <= len(before) * 8


def test_the_password_of_basic_authentication_is_hidden() -> None:
    header = base64.b64encode(b"elastic:correct horse battery").decode()
    scrubbed = scrubber("correct horse battery").scrub(
        f"got Authorization: Basic {header}, refused"
    )
    assert scrubbed.startswith("got Authorization: Basic ")
    assert scrubbed.endswith("***, refused")


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=6, max_size=40))
def test_no_secret_is_found_after_scrubbing(secret: str) -> None:
    scrubbed = scrubber(secret).scrub(f"a {secret} b{secret}c")
    assert secret not in scrubbed.replace("***", " ")


def test_a_short_secret_is_hidden_only_as_a_whole_word() -> None:
    made = scrubber("in")
    assert made.scrub("token=in was in 'in' inside of information") == (
        "token=*** was *** '***' inside of information"
    )


def test_ordinary_text_is_left_as_it_is() -> None:
    text = "HTTP 400: field 'time' is malformed (index 7), see https://docs.example.com/a?b=c"
    assert scrubber(SECRET, "hunter22").scrub(text) == text


def test_a_secret_across_the_cut_does_not_show_its_first_part() -> None:
    secret = "abcdefghijklmnopqrstuvwxyz"
    made = scrubber(secret)
    for at in range(40):
        assert "abc" not in made.scrub("." * at + secret * 30 + "." * 9, 60)


def test_cut_text_ends_with_an_ellipsis() -> None:
    assert scrubber().scrub("x" * 501) == "x" * 499 + "…"
    assert scrubber().scrub("x" * 500) == "x" * 500
    assert len(scrubber(SECRET).scrub("\n" * 10**6)) == 500


def test_control_characters_become_visible() -> None:
    scrubbed = scrubber().scrub("a\r\nb\x1b[31m\x00\u202e\u2028\ud800")
    assert scrubbed == "a\\r\\nb\\x1b[31m\\x00\\u202e\\u2028\\ud800"


def test_a_secret_that_was_read_again_is_hidden_as_well_as_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("first-key-1")
    secret = Secret(Resolved(f"${{file:{file}}}", {}))
    made = Scrubber()
    made.learn(secret)
    assert made.scrub("first-key-1") == "***"
    file.write_text("second-key-2")
    assert secret.reload()
    assert made.scrub("first-key-1 second-key-2") == "*** ***"


# --- what is left of a secret, and its parts

LIVE = "k7Qz-live_9fA3bX81LmPq"


@pytest.mark.parametrize(
    "spell",
    [
        lambda key: key[:8],
        lambda key: key[:16],
        lambda key: key[:-1],
        lambda key: key[1:],
        lambda key: key[-8:],
        lambda key: key.encode().hex(),
        lambda key: key.encode().hex().upper()[:-3],
        lambda key: base64.b64encode(key.encode()).decode()[:-5],
        lambda key: base64.b64encode(b"id:" + key.encode()).decode()[6:],
        lambda key: base64.b64encode(base64.b64encode(key.encode())).decode(),
        lambda key: base64.urlsafe_b64encode(b"id-" + key.encode())[:22].decode()[4:],
        lambda key: "".join(f"%25{ord(character):02x}" for character in key),
        lambda key: "".join(f"\\u{ord(character):04x}" for character in key),
        lambda key: "".join(f"\\x{ord(character):02x}" for character in key),
        lambda key: "".join(f"&#{ord(character)};" for character in key),
        lambda key: json.dumps(json.dumps(key + '"')),
        lambda key: f"{key[:9]}\r\n    {key[9:]}",
        lambda key: json.dumps(f"{key[:9]}\n{key[9:]}"),
        lambda key: base64.encodebytes(key.encode() * 5).decode().strip(),
    ],
)
def test_what_is_left_of_a_secret_is_hidden_too(spell: Callable[[str], str]) -> None:
    scrubbed = scrubber(LIVE).scrub(f"the key {spell(LIVE)}, is wrong")
    assert re.fullmatch(r'the key (\\?["\\])*\*\*\*(\\?["\\])*, is wrong', scrubbed)


SECRETS = st.text(st.sampled_from(string.ascii_letters + string.digits + "_-+/="), min_size=20)


@given(secret=SECRETS, length=st.integers(16, 40), end=st.booleans())
def test_no_beginning_and_no_end_of_a_secret_is_shown(
    *, secret: str, length: int, end: bool
) -> None:
    part = secret[-length:] if end else secret[:length]
    assert part not in scrubber(secret).scrub(f"a {part} is wrong")


PAIR = "VuaCfGcBCdbkQm-e5aOx:ui2lp2axTNmsyakw9tvNnw"
JWT = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0"
    ".SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV-adQssw5c"
)
SESSION = base64.urlsafe_b64encode(
    json.dumps({"access_token": JWT, "refresh_token": "v1refresh-Token99"}).encode()
).decode()


@pytest.mark.parametrize(
    ("secret", "parts"),
    [
        (PAIR, PAIR.split(":")),
        (base64.b64encode(PAIR.encode()).decode(), PAIR.split(":")),
        (base64.b64encode(PAIR.encode()).decode().rstrip("="), PAIR.split(":")),
        ("administrator:correcthorsebatterystaple", ["correcthorsebatterystaple"]),
        (JWT, JWT.split(".")),
        ("sid=q8Zt71Kd02; other=1; sb-abc-auth-token=a8Zt71Kd03", ["q8Zt71Kd02", "a8Zt71Kd03"]),
        (
            f"sb-abc-auth-token=base64-{SESSION}; other=1",
            [*JWT.split("."), JWT[-20:], "v1refresh-Token99"],
        ),
    ],
)
def test_each_part_of_a_secret_is_a_secret(secret: str, parts: list[str]) -> None:
    made = scrubber(secret)
    for part in parts:
        assert made.scrub(f"the part {part}, is wrong") == "the part ***, is wrong"


def test_ordinary_words_that_are_part_of_a_secret_are_left_as_they_are() -> None:
    made = scrubber(
        "auditrelay-splunk-token-1",
        "correct horse battery",
        "elastic:hunter2hunter2",
        "administrator:correcthorsebatterystaple",
        f"sb-abcdefghijklmnopqrst-auth-token=base64-{SESSION}; theme=dark; other=20261126",
        "20260301T12",
    )
    text = (
        "auditrelay is correct: administrator and elastic at 2026-03-01T12:00:00Z in theme dark, "
        "access_token 20261126 refresh_token sb-abcdefghijk-auth-token of splunk-token"
    )
    assert made.scrub(text) == text


def test_a_renewed_secret_is_hidden_and_the_newest_ones_are_remembered() -> None:
    made = scrubber("first-key-1")
    for number in range(MAX_RENEWED + 1):
        made.learn_renewed(f"renewed-{number:03}-key")
    made.learn_renewed(f"renewed-{MAX_RENEWED:03}-key")
    assert made.scrub(f"renewed-{MAX_RENEWED:03}-key first-key-1") == "*** ***"
    assert len(made._known) == MAX_RENEWED + 1


def test_a_peer_cannot_choose_an_ordinary_word_that_the_log_leaves_out() -> None:
    made = scrubber("first-key-1")
    made.learn_renewed("x", "the", "", "2026", "window_collected", "administrators", "1764170000")
    text = "the window_collected x 2026 1764170000 administrators"
    assert made.scrub(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "a" * 33_000,
        ("a" * 3000 + "c") * 11,
        base64.b64encode(LIVE.encode()).decode()[:12] * 3000,
        "%25" * 11_000,
        "\n" * 33_000,
        " " * 33_000,
        LIVE[:7] * 5000,
    ],
    ids=lambda text: repr(text[:8]),
)
def test_no_text_takes_long(text: str) -> None:
    made = scrubber(LIVE, *(f"{number}-{LIVE}" for number in range(50)))
    made.learn_renewed("a" * 4000 + "b7" + "a" * 90)
    started = time.perf_counter()
    made.scrub(text, 33_000)
    assert time.perf_counter() - started < 1


# --- tokens and documents


def jwt(**claims: str) -> str:
    parts = ({"alg": "RS256", "typ": "JWT"}, claims)
    head = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in parts)
    return f"{head.replace('=', '')}.c2lnbmF0dXJlMDEyMzQ1Njc4OQ"


def test_the_claims_of_a_whole_token_stay_readable() -> None:
    made = Scrubber()
    token = jwt(aud="https://oauth2.acme.example/token", tid="0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0")
    made.learn_renewed(token, whole=True)
    assert (
        made.scrub(f"a server repeats {token} and {token[:60]}") == "a server repeats *** and ***"
    )
    for stays in ("https://oauth2.acme.example/token", "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"):
        assert made.scrub(stays) == stays


LINES = ["MIIEvAIBADANBgkqhkiG9w0BAQEFAASCBKYwggSiAgEAAoIBAQ", "KmMCXS+TNmhRcGyaISzSza7EiXwL/Zw=="]


@pytest.mark.parametrize("kind", ["PRIVATE KEY", "RSA PRIVATE KEY"])
@pytest.mark.parametrize("in_json", [True, False])
def test_of_a_keys_document_the_key_is_hidden(kind: str, *, in_json: bool) -> None:
    begin, end = (f"-----{word} {kind}-----" for word in ("BEGIN", "END"))
    pem = "\n".join([begin, *LINES, end, ""])
    account = {"client_email": "reader@acme-123456.example", "private_key": pem}
    document = json.dumps(account) if in_json else pem
    made = Scrubber()
    made.learn(SecretDocument(document))
    for text in (document, pem, pem.replace("\n", "\r\n"), "".join(LINES), *LINES):
        hidden = made.scrub(f"a server repeats {text} of reader@acme-123456.example")
        assert not any(line[:16] in hidden for line in LINES)
        assert hidden.endswith(" of reader@acme-123456.example")


def test_a_document_without_a_key_is_hidden_whole() -> None:
    made = Scrubber()
    made.learn(SecretDocument("first-line-0123\nsecond-line-4567"))
    assert made.scrub("it is second-line-4567, first-line-0123") == "it is ***, ***"
