"""Send a batch to a sink, without the events that the sink must not be sent."""

from collections.abc import Sequence
from dataclasses import replace

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
