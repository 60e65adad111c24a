"""An example of the configuration of a described sink: the table to fill in, with comments."""

from auditrelay.descriptions.example import comment
from auditrelay.descriptions.receiver.load import Receiver
from auditrelay.descriptions.receiver.settings import OWN_URL, secret_url

HTTP_EXAMPLE = """\
[sinks.acme-lake]
type = "http"

# The file that describes the receiver (docs/receivers.md), relative to this one. The settings and
# the secrets that it declares are keys of this table.
description = "lake.toml"
"""
"""The table of a receiver that a file of the operator's describes."""


def example(name: str, receiver: Receiver) -> str:
    """Return the table of a sink of the shipped type *name*; optional keys are commented out."""
    file = receiver.file
    lines = [f"[sinks.{name.replace('_', '-')}]", f'type = "{name}"', ""]
    lines += [
        *comment(f"{file.product}. Needed:"),
        *(line for need in file.needs for line in comment(f"- {need}", indent="  ")),
        *comment(f"See {file.docs[0]}"),
    ]
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
    if secret_url(file.request.url) is None and not file.request.url.startswith(OWN_URL):
        lines += comment("Instead of the product's own host: a proxy of your own before it.")
        lines.append('# url = "https://proxy.example.com"  # no default')
    return "\n".join([*lines, ""])
