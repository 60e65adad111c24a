"""Check a sink until it is up, before there are events to send."""

from auditrelay.clock import Clock
from auditrelay.deliver.health import SinkHealth
from auditrelay.deliver.in_flight import InFlight
from auditrelay.deliver.probe import ProbeDelay
from auditrelay.errors import PeerBug, Refused, RelayError
from auditrelay.sinks import Sink


async def check_until_up(sink: Sink, health: SinkHealth, in_flight: InFlight, clock: Clock) -> None:
    """
    Check *sink* until that succeeds, and keep its *health*; this stores nothing.

    It is repeated: otherwise a sink without events would be shown as down long after it has
    recovered. It ends once there are events to send, which show the health of the sink as well.
    """
    delay = ProbeDelay()
    while True:
        failure: RelayError | None = None
        try:
            await sink.check()
        except RelayError as error:
            failure = error
        if health.worked_once or in_flight.batches:
            return
        if failure is None:
            await health.mark_up()
            return
        if isinstance(failure, Refused | PeerBug):
            await health.mark_held(failure)
        else:
            await health.mark_unavailable(failure)
        await clock.sleep(delay.after(failure))
