"""
Cencori's audit log: exports that an operator puts into a folder, or the list of its dashboard.

Cencori documents no API for it (https://cencori.com/docs/platform/audit-logs), only the buttons of
the dashboard that export CSV and JSON: the mode ``files`` reads these exports. The buttons and the
dashboard's table use one route, described here as it is in the vendor's source
(``app/api/organizations/[orgSlug]/audit-logs/route.ts`` in github.com/cencori/cencori). The mode
``dashboard`` uses it, too, with the session of an operator who is signed in. That mode is
experimental: the route is undocumented, and may change on any day.
"""

from auditrelay.clock import Clock
from auditrelay.http.peer import Peer
from auditrelay.sources.cencori.dashboard import Source
from auditrelay.sources.cencori.files import ExportFolder
from auditrelay.sources.cencori.session import Session
from auditrelay.sources.cencori.settings import EXAMPLE, Settings
from auditrelay.telemetry.metrics import Metrics

__all__ = ["EXAMPLE", "Settings", "build"]


def build(name: str, settings: Settings, metrics: Metrics, clock: Clock) -> Source | ExportFolder:
    """Return the source that the configuration calls *name*, in the mode of its *settings*."""
    if settings.mode == "files":
        return ExportFolder(settings)
    assert settings.cookie is not None  # noqa: S101  # the settings require it
    session = Session(settings.cookie)
    peer = Peer.of_source(
        name,
        settings,
        metrics,
        clock,
        headers=lambda: {"Cookie": session.header()},
        secret=settings.cookie,
    )
    return Source(settings, peer, session)
