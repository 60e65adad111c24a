"""
Records as Elasticsearch accepts them, in the forms that pass them on as they are.

The form ``ecs`` does that by itself; the others are made for products that accept any JSON. A
field that has another type in another event is refused all the same: map what is under ``record``
(``raw``) or ``unmapped`` (``ocsf``) as ``flattened``.
"""

from typing import Final

import msgspec

from auditrelay.events.decode import WHITESPACE
from auditrelay.events.forms.fields import (
    acceptable,
    has_odd_keys,
    may_be_too_deep,
    may_have_long_parts,
    may_have_odd_keys,
)
from auditrelay.events.page import Page
from auditrelay.sinks import Form

_LEVELS: Final = 17
"""Levels below the field of a record: ``index.mapping.depth.limit`` is 20 by default."""

_EMBEDDED: Final[dict[Form, tuple[str, ...]]] = {
    "ecs": (),
    "ocsf": ("metadata", "unmapped"),
    "raw": ("raw",),
    "asim": ("raw",),
    "cim": ("raw",),
    "datadog": ("raw",),
}
"""The JSON texts of an event that become fields, by form."""


def with_accepted_fields(page: Page, form: Form) -> Page:
    """Return *page* with every key and number spelt so that no document of *form* is refused."""
    columns = {}
    for name in _EMBEDDED[form]:
        column: list[str | None] = getattr(page, name)
        accepted = list(map(_accepted, column))
        if accepted != column:
            columns[name] = accepted
    return msgspec.structs.replace(page, **columns) if columns else page


def _accepted(text: str | None) -> str | None:
    if text is None:
        return None
    content = text.encode()
    if (
        may_have_odd_keys(content.translate(None, WHITESPACE))  # so that a blank key is empty
        or ((b"\\" in content or not content.isascii()) and has_odd_keys(content))
        or may_have_long_parts(content)
        or may_be_too_deep(content, _LEVELS)
    ):
        return acceptable(content, _LEVELS).decode()
    return text
