"""The state that a configuration names: opened to work on it, or viewed by a command."""

from auditrelay.clock import Clock
from auditrelay.config.model import Config
from auditrelay.store.sql.engine import Tip
from auditrelay.store.sql.store import SqlStore
from auditrelay.store.sql.view import StateView
from auditrelay.store.sqlite import state_dir
from auditrelay.store.sqlite.store import open_store, open_view
from auditrelay.store.sqlite.tip import TipFile


async def store_of(config: Config, clock: Clock) -> SqlStore:
    """Open the state of *config*, creating it if there is none. Raises StateError."""
    return await open_store(
        config.state_dir,
        clock=clock,
        max_bytes=config.spool.max_bytes,
        retention=config.spool.retention,
        remember=config.spool.remember,
        keys=config.evidence.keys,
    )


def view_of(config: Config, *, tags: bool = False) -> StateView:
    """Open a view of the state of *config*, which compares the *tags* as well. Raises StateError."""
    return open_view(config.state_dir, config.evidence.keys if tags else None)


def is_there(config: Config) -> bool:
    """Return whether there is a state of *config*."""
    return state_dir.is_there(config.state_dir)


def tip_of(config: Config) -> Tip:
    """Return the tip of the evidence of *config*."""
    return TipFile(config.state_dir)
