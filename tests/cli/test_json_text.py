"""JSON for a terminal."""

import json

import pytest

from auditrelay.cli.json_text import json_text


@pytest.mark.parametrize(
    "text",
    ["\x1b[31m", "\x9b31m", "\x85", "\u202eevil", "zero\u200bwidth", "\u2028", "\ufeff", "fünf ☃"],
)
def test_it_shows_every_text_and_steers_no_terminal(text: str) -> None:
    printed = json_text({"a": [text], text: 1})
    assert json.loads(printed) == {"a": [text], text: 1}
    assert all(character.isprintable() or character == "\n" for character in printed)
    assert ("ü" in printed) == ("ü" in text)
