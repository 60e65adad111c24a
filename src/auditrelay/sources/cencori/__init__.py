"""
Cencori's audit log: exports that somebody drops into a folder, or the list of its dashboard.

Cencori documents no API for it (https://cencori.com/docs/platform/audit-logs), only the buttons of
the dashboard that export CSV and JSON: that is the mode ``files``. Those buttons and the table
beside them ask one route of the dashboard, which is described here as the vendor's source has it
(``app/api/organizations/[orgSlug]/audit-logs/route.ts`` in github.com/cencori/cencori). The mode
``dashboard`` asks it, too, with the session of an operator who is signed in. That mode is
experimental: the route is undocumented, and may change on any day.
"""

from auditrelay.http.peer import Peer
from auditrelay.sources.cencori.dashboard import Source
from auditrelay.sources.cencori.files import Drop
from auditrelay.sources.cencori.session import Session
from auditrelay.sources.cencori.settings import Settings
from auditrelay.telemetry.metrics import Metrics

__all__ = ["Settings", "build"]


def build(name: str, settings: Settings, metrics: Metrics) -> Source | Drop:
    """Return the source that the configuration calls *name*, or the place that it looks into."""
    if settings.mode == "files":
        return Drop(settings)
    assert settings.cookie is not None  # noqa: S101  # the settings see to it
    session = Session(settings.cookie)
    peer = Peer.of_source(
        name,
        settings,
        metrics,
        headers=lambda: {"Cookie": session.header()},
        secret=settings.cookie,
    )
    return Source(settings, peer, session)
