"""Forget the uids of old events, in steps: there may be millions of them."""

from functools import partial

from auditrelay.store.sqlite import known
from auditrelay.store.sqlite.writer import Writer


async def forget_old(writer: Writer, *, before: int, now: int) -> None:
    """
    Forget the uids of events older than *before* (microseconds since 1970), as it is *now*.

    That not all of them are known any more is durable before the first is forgotten.
    """
    if not await writer.write(lambda db: known.declare_forgotten(db, before, now)):
        return
    step = partial(known.forget_before, before=before)
    while await writer.write(step) == known.FORGET_STEP:
        pass
