"""Secrets are hidden in any encoding, and nothing else is."""

import base64
import html
import json
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditrelay.settings.secrets import Resolved, Secret
from auditrelay.telemetry.scrubber import Scrubber

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
