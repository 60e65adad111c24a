"""JSON for a terminal."""

import re

import orjson

_INVISIBLE = re.compile(
    # DEL and C1, which steer terminals; zero width and direction marks; line separators; BOM
    "[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
)


def json_text(document: object) -> str:
    """
    Return *document* as indented JSON, in which nothing can steer a terminal or hide.

    The texts in it are a vendor's, or those of its users; JSON itself escapes only the characters
    below a space.
    """
    return printable(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())


def printable(text: str) -> str:
    """Return *text*, which is JSON or a line of it, with what can steer a terminal escaped."""
    return _INVISIBLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
