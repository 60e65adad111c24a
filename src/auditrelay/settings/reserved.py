"""Names that auditrelay uses itself, and that no source in a configuration may have."""

from typing import Final

ALERTS: Final = "auditrelay"
"""The source of the instance's own alerts, in the spool, the ledger and events sent to sinks."""
