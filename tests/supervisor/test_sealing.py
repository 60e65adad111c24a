"""What stands between delivery and a sink that stores parts under names: its bugs hold it alone."""

from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from tests.support.batches import batch, items
from tests.support.clock import FakeClock

from auditrelay.errors import PeerBug, Retryable
from auditrelay.sandbox.siems.object_storage import Bucket
from auditrelay.sinks import Item, Part, Sealing, Sink, object_storage
from auditrelay.sinks.object_storage import Settings
from auditrelay.supervisor.sinks import SealingSink, make_sink
from auditrelay.telemetry.metrics import Metrics

__all__ = ["batch", "items"]

Items = Callable[[Sink, int], list[Item]]


@pytest.fixture
async def bucket(clock: FakeClock) -> AsyncIterator[Bucket]:
    async with Bucket(clock=clock.seconds) as bucket:
        yield bucket


def made(
    bucket: Bucket, clock: FakeClock, may_send: Callable[[], bool] = lambda: True
) -> SealingSink:
    settings = Settings.model_validate(bucket.settings())
    sink = make_sink("archive", settings, Metrics(sinks=["archive"]), clock, may_send)
    assert isinstance(sink, SealingSink)
    assert isinstance(sink, Sealing)
    return sink


async def test_nothing_is_put_while_another_replica_may_be_sending(
    bucket: Bucket, clock: FakeClock, items: Items
) -> None:
    sink = made(bucket, clock, may_send=lambda: False)
    with pytest.raises(Retryable, match="another replica may deliver"):
        await sink.put(items(sink, 2), "name", again=False)
    assert not bucket.seen
    await sink.close()


@pytest.mark.parametrize("lost", [[0], [0, 0, 1], []])
async def test_parts_that_are_not_the_whole_batch_are_a_bug(
    bucket: Bucket,
    clock: FakeClock,
    items: Items,
    monkeypatch: pytest.MonkeyPatch,
    lost: Sequence[int],
) -> None:
    monkeypatch.setattr(object_storage.Sink, "parts", lambda *_: [Part("name", lost)])
    sink = made(bucket, clock)
    with pytest.raises(PeerBug):
        sink.parts(items(sink, 2), "log", clock.now())
    await sink.close()


async def test_a_bug_in_putting_may_have_stored(
    bucket: Bucket, clock: FakeClock, items: Items, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_storage.Sink, "put", lambda *_, **__: 1 / 0)
    sink = made(bucket, clock)
    with pytest.raises(PeerBug) as caught:
        await sink.put(items(sink, 2), "name", again=False)
    assert caught.value.sent
    monkeypatch.setattr(object_storage.Sink, "holds", lambda *_: 1 / 0)
    with pytest.raises(PeerBug):
        await sink.holds("name", "digest")
    await sink.close()
