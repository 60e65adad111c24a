"""
Print the add-on's props.conf, which has the same stanza for each vendor (``make generate``).

Splunk supports no wildcards in the names of source types.
"""

import sys

from auditrelay.descriptions import shipped
from auditrelay.events.normalize import available

_HEAD = """\
# One stanza for each vendor: Splunk supports no wildcards in the names of source types.
#
# A list in JSON becomes a field whose name ends in {}; the data models need it without.
# A field that is both indexed and a key of the event would have its value twice.
"""
_STANZA = """
[auditrelay:{vendor}:audit]
KV_MODE = json
AUTO_KV_JSON = false
TRUNCATE = 5242880
EVAL-auditrelay_tags = 'auditrelay_tags{{}}'
EVAL-object_attrs = 'object_attrs{{}}'
EVAL-event_id = mvdedup(event_id)
EVAL-cim_model = mvdedup(cim_model)
"""


def props() -> str:
    """Return the text of props.conf, with a stanza for each vendor that this version reads."""
    vendors = (*available(), *shipped())
    return "".join([_HEAD, *(_STANZA.format(vendor=vendor) for vendor in vendors)])


if __name__ == "__main__":
    sys.stdout.write(props())
