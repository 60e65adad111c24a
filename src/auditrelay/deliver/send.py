"""Send a batch to a sink, without the events that the sink must not be sent."""

from collections.abc import Sequence
from dataclasses import replace

from auditrelay.errors import Refused, Retryable
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
    Send the first event of *batch* if the check of *sink* succeeds; the others are to be retried.

    For a sink whose successes have proved nothing so far: it may have stored what it was sent, and
    would store it again. Raises what the check and :meth:`Sink.send` raise.
    """
    try:
        await sink.check()
    except (Refused, Retryable) as error:
        error.sent = False  # whatever its outcome, no event was
        raise
    verdict = await send_fit(sink, batch[:1])
    return replace(verdict, retry=(*verdict.retry, *range(1, len(batch))))
