"""An example of the configuration of a described sink: the table to fill in, with comments."""

from auditrelay.descriptions.example import comment, declared, needed
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
    lines += needed(file.product, file.needs, file.docs[0])
    lines += declared(name, file.settings, file.secrets)
    if secret_url(file.request.url) is None and not file.request.url.startswith(OWN_URL):
        lines += comment("Instead of the product's own host: a proxy of your own before it.")
        lines.append('# url = "https://proxy.example.com"  # no default')
    return "\n".join([*lines, ""])
