"""Globex, a SIEM that does not exist: what its answers mean."""

from collections.abc import Callable

import pytest
from auditrelay.sandbox.siems.globex import Globex

from auditrelay.clock import Clock
from auditrelay.errors import Refused
from auditrelay.sinks import Counts, Item, Sink, Verdict, globex
from auditrelay.telemetry.metrics import Metrics


def sink_for(double: Globex) -> Sink:
    return globex.build("it", globex.Settings.model_validate(double.settings()), Metrics(), Clock())


async def test_an_event_that_is_sent_twice_is_stored_once_and_counted(
    items: Callable[[Sink, int], list[Item]],
) -> None:
    async with Globex() as double:
        sink = sink_for(double)
        assert await sink.send(items(sink, 2)) == Verdict()
        assert await sink.send(items(sink, 3)) == Verdict(counts=Counts(duplicates=2))
        assert not double.stored.repeated()
        await sink.close()


async def test_a_wrong_key_is_refused_by_check() -> None:
    async with Globex() as double:
        sink = sink_for(double)
        double.rotate("another-key")
        with pytest.raises(Refused, match="who are you"):
            await sink.check()
        await sink.close()
