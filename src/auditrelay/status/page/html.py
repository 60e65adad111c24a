"""
HTML and SVG from values: every text that is not markup is escaped, so none can be forgotten.

Error messages of peers are on the page, and a peer may be hostile.

Not a library: markupsafe escapes, but makes no elements, and htpy needs markupsafe.
The escaping is :func:`html.escape`; what remains is one function that makes elements.
"""

from collections.abc import Mapping
from html import escape
from typing import Final

_VOID: Final = frozenset({"link", "meta"})


class Markup(str):
    """A text that is markup already, and is not escaped."""

    __slots__ = ()


def tag(element: str, *content: str | None, **attributes: str | float | None) -> Markup:
    """
    Return *element* with *content* in it, escaped unless it is Markup; None is left out.

    In the name of an attribute ``_`` becomes ``-``, and a trailing one is removed (``class_``). An
    attribute that is None is left out, one that is ``""`` has no value.
    """
    text = f"<{element}"
    for name, value in attributes.items():
        if value is None:
            continue
        name = name.removesuffix("_").replace("_", "-")  # noqa: PLW2901  # the same, as HTML has it
        text += f" {name}" if value == "" else f' {name}="{escape(_shown(value))}"'
    if element in _VOID:
        return Markup(f"{text}>")
    return Markup(f"{text}>{join(*content)}</{element}>")


def definitions(facts: Mapping[str, str]) -> Markup:
    """Return the list of *facts*, each under its term."""
    return tag(
        "dl", *(tag("div", tag("dt", term), tag("dd", fact)) for term, fact in facts.items())
    )


def join(*content: str | None) -> Markup:
    """Return *content* side by side, escaped unless it is Markup."""
    return Markup(
        "".join(
            each if isinstance(each, Markup) else escape(each)
            for each in content
            if each is not None
        )
    )


def _shown(value: str | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
