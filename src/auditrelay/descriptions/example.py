"""An example of the configuration of a described source: the table to fill in, with comments."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping

from auditrelay.descriptions.load import Description
from auditrelay.descriptions.model import SecretSetting, Setting

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
    lines += needed(file.product, file.needs, file.docs[0])
    if description.feeds:
        feed = file.default_feed or description.feeds[0]
        lines += comment(f"The list to read: {', '.join(description.feeds)}. One source each.")
        lines.append(f'feed = "{feed}"')
    lines += declared(name, file.settings, file.secrets)
    return "\n".join([*lines, ""])


def needed(product: str, needs: Iterable[str], address: str) -> Iterator[str]:
    """Yield what a user of *product* needs, and the *address* of its documentation."""
    yield from comment(f"{product}. Needed:")
    for need in needs:
        yield from comment(f"- {need}", indent="  ")
    yield from comment(f"See {address}")


def declared(
    name: str, settings: Mapping[str, Setting], secrets: Mapping[str, SecretSetting]
) -> Iterator[str]:
    """Yield the keys that a description declares under the type *name*."""
    for key, setting in settings.items():
        yield from comment(setting.about)
        if setting.default is None:
            yield f'{key} = "{setting.example}"'
        else:
            yield f'# {key} = "{setting.default}"'
    for key, secret in secrets.items():
        yield from comment(secret.about)
        mark = "" if secret.default is None else "# "
        yield f'{mark}{key} = "${{env:{name.upper()}_{key.upper()}}}"'


def comment(text: str, indent: str = "") -> Iterator[str]:
    """Yield *text* as lines of a comment; all but the first begin with *indent*."""
    yield from (
        f"# {line}"
        for line in textwrap.wrap(text, _WIDTH, subsequent_indent=indent, break_on_hyphens=False)
    )
