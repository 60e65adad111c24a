"""Send a batch to a sink, without the events that the sink must not be sent."""

from collections.abc import Sequence
from dataclasses import replace

from auditrelay.errors import Refused, Rejected, Retryable
from auditrelay.sinks import Item, Rejection, Sink, Verdict


async def send_fit(sink: Sink, batch: Sequence[Item]) -> Verdict:
    """
    Send *batch* to *sink*, except for what is unfit: that is rejected without being sent.

    Products silently truncate an oversized event, drop the rest of its batch, or never index what
    is too old. Raises what :meth:`Sink.send` raises.
    """
    unfit = [
        Rejection(index, item.unfit.reason, item.unfit.message)
        for index, item in enumerate(batch)
        if item.unfit is not None
    ]
    if not unfit:
        return await sink.send(batch)
    fit = [index for index, item in enumerate(batch) if item.unfit is None]
    verdict = Verdict()
    if fit:
        verdict = (await sink.send([batch[index] for index in fit])).within(fit)
    return replace(verdict, rejected=(*unfit, *verdict.rejected))


async def send_first_alone(sink: Sink, batch: Sequence[Item]) -> Verdict:
    """
    Send the first event of *batch*; the others are to be retried.

    For a sink that has left open whether it stores events: it may have stored what it was sent, and
    would store it again. Raises what :meth:`Sink.send` raises.
    """
    verdict = await send_fit(sink, batch[:1])
    return replace(verdict, retry=(*verdict.retry, *range(1, len(batch))))


async def is_well(sink: Sink, *, must_be: bool) -> bool:
    """Return whether the check of *sink* succeeds; if it *must be* well, raise why it does not."""
    try:
        await check_first(sink)
    except (Refused, Retryable):
        if must_be:
            raise
        return False
    return True


async def check_first(sink: Sink) -> None:
    """
    Check *sink* before an event is sent to it.

    Raises Retryable or Refused as :meth:`Sink.send` does, and whatever its outcome, no event was
    sent, nor refused.
    """
    try:
        await sink.check()
    except Retryable as error:
        reason, wait = error.reason, error.retry_after
        raise Retryable(str(error), reason=reason, retry_after=wait) from None
    except (Refused, Rejected) as error:
        raise Refused(str(error), status=error.status) from None
