"""Which sink receives which source: registered in the store, and ended there."""

from collections.abc import Collection, Mapping
from datetime import datetime

import structlog

from auditrelay.config.model import Config
from auditrelay.service.store import Store
from auditrelay.settings.reserved import ALERTS

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def receivers(config: Config) -> dict[str, list[str]]:
    """Return by sink, enabled in *config*, the sources that it is to receive."""
    return {
        name: [*config.sources_of(name), ALERTS]
        for name, settings in config.sinks.items()
        if settings.enabled
    }


async def register(store: Store, config: Config, now: datetime) -> None:
    """Register in *store* what each sink of *config* is to receive, besides what it does."""
    await store.start_source(ALERTS, now)
    for name, sources in receivers(config).items():
        await store.start_sink(name, sources)


async def retire(
    store: Store, configured: Mapping[str, Collection[str]], sources: Collection[str]
) -> None:
    """End in *store* what is not *configured*, and log which sinks and *sources* are orphaned."""
    for name in await store.retire(configured, sources):
        _log.warning("sink_orphaned", sink=name)
    for state in await store.sources():
        if state.name not in sources:
            _log.warning("source_orphaned", source=state.name)
