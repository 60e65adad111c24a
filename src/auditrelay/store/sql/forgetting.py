"""Forget the uids of old events, in steps: there may be millions of them."""

from functools import partial

from auditrelay.store.sql import known
from auditrelay.store.sql.engine import Writer


async def forget_old(writer: Writer, *, before: int, now: int) -> None:
    """Forget the uids of events older than *before*, as it is *now*, and tell of it in facts."""
    step = partial(known.forget_before, before=before, now=now)
    while await writer.write(step) == known.FORGET_STEP:
        pass
