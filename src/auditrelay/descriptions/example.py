"""An example of the configuration of a described source: the table to fill in, with comments."""

import textwrap
from collections.abc import Iterator

from auditrelay.descriptions.load import Description

_WIDTH = 98

REST_EXAMPLE = """\
[sources.acme-crm]
type = "rest"

# The file that describes the API (docs/descriptions.md), relative to this one. The settings and
# the secrets that it declares are keys of this table.
description = "crm.toml"
"""
"""The table of an API that a file of the operator's describes."""


def example(name: str, description: Description) -> str:
    """Return the table of a source of the shipped type *name*; optional keys are commented out."""
    file = description.file
    lines = [f"[sources.acme-{name.replace('_', '-')}]", f'type = "{name}"', ""]
    lines += [
        *comment(f"{file.product}. Needed:"),
        *(line for need in file.needs for line in comment(f"- {need}", indent="  ")),
        *comment(f"See {file.docs[0]}"),
    ]
    if description.feeds:
        feed = file.default_feed or description.feeds[0]
        lines += comment(f"The list to read: {', '.join(description.feeds)}. One source each.")
        lines.append(f'feed = "{feed}"')
    for key, setting in file.settings.items():
        lines += comment(setting.about)
        if setting.default is None:
            lines.append(f'{key} = "{setting.example}"')
        else:
            lines.append(f'# {key} = "{setting.default}"')
    for key, secret in file.secrets.items():
        lines += comment(secret.about)
        mark = "" if secret.default is None else "# "
        lines.append(f'{mark}{key} = "${{env:{name.upper()}_{key.upper()}}}"')
    return "\n".join([*lines, ""])


def comment(text: str, indent: str = "") -> Iterator[str]:
    """Yield *text* as lines of a comment; all but the first begin with *indent*."""
    yield from (
        f"# {line}"
        for line in textwrap.wrap(text, _WIDTH, subsequent_indent=indent, break_on_hyphens=False)
    )
