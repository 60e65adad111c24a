"""Delete pages that every sink has, in steps: there may be gigabytes of them."""

import asyncio

from auditrelay.errors import StoreFull
from auditrelay.store.sql.engine import Engine
from auditrelay.store.sql.spool import Spool
from auditrelay.store.sql.spooling import Spooling


async def prune(spooling: Spooling, spool: Spool, *, before: int, now: int) -> int:
    """Delete the pages of *spool* that were delivered before *before*; return how many events."""
    pruned, more = 0, True
    while more:
        some, more = await spooling.rearrange(lambda db: spool.prune(db, before, now))
        pruned += some
    return pruned


async def make_room(engine: Engine, spooling: Spooling, spool: Spool, now: int) -> bool:
    """Delete delivered pages, oldest first, and reserve room again; return whether there is any."""
    try:
        made = await spooling.rearrange(lambda db: spool.delete_delivered(db, now))
    except StoreFull:  # so full that not even a deletion can be written
        made = False
    return await asyncio.to_thread(engine.room.restore) or made
