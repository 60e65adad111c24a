"""Names that no source in a configuration may have, because auditrelay uses them itself."""

from typing import Final

ALERTS: Final = "auditrelay"
"""The source of the instance's own alerts: in the spool, in the ledger, in what sinks are sent."""
