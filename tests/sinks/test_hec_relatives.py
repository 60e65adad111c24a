"""Products that speak Splunk's protocol with another scheme, path, parameters or health."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from pydantic import ValidationError
from tests.support.clock import FakeClock

from auditrelay.errors import Refused
from auditrelay.sandbox.faults import answer
from auditrelay.sandbox.siems.splunk_hec import TOKEN, Splunk, Switches
from auditrelay.sinks import Item, Sink, splunk_hec
from auditrelay.telemetry.metrics import Metrics

Items = Callable[[Sink, int], list[Item]]
Make = Callable[..., Sink]

OTHER = Switches(
    scheme="bearer", path="/api/v1/ingest/hec", params=("logGroup", "logStream"), health=None
)
KEYS: dict[str, Any] = {
    "auth_scheme": "Bearer",
    "path": "/api/v1/ingest/hec",
    "params": {"logGroup": "audit", "logStream": "relay & co"},
}


@pytest.fixture
async def double() -> AsyncIterator[Splunk]:
    async with Splunk() as double:
        yield double


@pytest.fixture
async def make(double: Splunk, clock: FakeClock) -> AsyncIterator[Make]:
    made: list[Sink] = []

    def build(**keys: Any) -> Sink:
        made.append(splunk_hec.build("relative", settings(double.url, **keys), Metrics(), clock))
        return made[-1]

    yield build
    for sink in made:
        await sink.close()


def settings(url: str = "https://hec.example.com", **keys: Any) -> splunk_hec.Settings:
    given = {"type": "splunk_hec", "url": url, "token": TOKEN, "timeout": "10s", **keys}
    return splunk_hec.Settings.model_validate(given)


async def test_scheme_path_and_parameters_are_those_of_the_product(
    double: Splunk, make: Make, items: Items
) -> None:
    double.switches = OTHER
    sink = make(**KEYS, index="Audit Dataset.v2")
    await sink.send(items(sink, 1))
    assert double.stored.documents[0]["index"] == "Audit Dataset.v2"
    assert "is healthy and accepts the token" in await sink.check()


@pytest.mark.parametrize("left_out", sorted(KEYS))
async def test_without_one_of_them_nothing_is_stored_and_the_sink_is_held(
    double: Splunk, make: Make, items: Items, left_out: str
) -> None:
    double.switches = OTHER
    sink = make(**{key: value for key, value in KEYS.items() if key != left_out})
    with pytest.raises(Refused):
        await sink.send(items(sink, 1))
    assert double.stored.total == 0


@pytest.mark.parametrize("path", [None, "/insert/hec"])
async def test_a_health_that_says_nothing_is_enough_if_that_alone_is_asked(
    double: Splunk, make: Make, path: str | None
) -> None:
    double.switches = Switches(path=path, health=None, no_data=False)
    keys = {} if path is None else {"path": path}
    with pytest.raises(Refused, match="is not a HEC"):
        await make(**keys).check()  # a request without events is a success there
    said = await make(**keys, check="health").check()
    assert said.endswith("/health is healthy; only an event tests the token (check)")
    assert f"{path or '/services/collector'}/health is" in said


async def test_a_sick_health_fails_the_check(double: Splunk, make: Make) -> None:
    double.switches = Switches(health=18)
    sink = make(check="health")
    with pytest.raises(Exception, match="queues are full"):
        await sink.check()
    double.faults.add(answer(404), path="*/health")
    with pytest.raises(Refused, match="404"):
        await sink.check()


async def test_a_check_that_is_switched_off_asks_nothing_and_says_so(
    double: Splunk, make: Make
) -> None:
    said = await make(check="none").check()
    assert "not asked" in said
    assert "only an event tests" in said
    assert double.requests == 0


@pytest.mark.parametrize("body", [b"", b"OK", b"{}", b'{"text":"Success"}', b'{"code":"0"}'])
async def test_success_stays_what_it_is_at_splunk(
    double: Splunk, make: Make, items: Items, body: bytes
) -> None:
    double.switches = OTHER
    sink = make(**KEYS)
    double.faults.add(answer(200, body, process=True), method="POST")
    with pytest.raises(Refused, match="is not a HEC"):
        await sink.send(items(sink, 1))


@pytest.mark.parametrize("status", [400, 403, 409])
async def test_a_refusal_in_other_words_is_named_by_its_status(
    double: Splunk, make: Make, items: Items, status: int
) -> None:
    double.switches = OTHER
    sink = make(**KEYS)
    double.faults.add(answer(status, b'{"error": "not in the words of HEC"}'), method="POST")
    with pytest.raises(Refused, match=f"^{status} from POST ") as caught:
        await sink.send(items(sink, 1))
    assert "None" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"url": "https://h.example.com/services/collector"}, "it is added (another path: path)"),
        ({"path": "services"}, "'services' is not a path: write '/services/collector/event'"),
        ({"path": "/a?index=b"}, "parameters go into params"),
        ({"path": "/a b"}, "is not a path"),
        ({"path": "/a", "ack": True}, "only Splunk acknowledges, at /services/collector/ack"),
        ({"auth_scheme": "Basic"}, "'Splunk' or 'Bearer'"),
        ({"check": "maybe"}, "'hec', 'health' or 'none'"),
        ({"params": {"a": 1}}, "valid string"),
        ({"index": "a\nb"}, "no line ends"),
        ({"index": " a"}, "no blanks around it"),
        ({"index": ""}, "at least 1 character"),
    ],
)
def test_what_cannot_be_meant_is_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        settings(**keys)
    assert words in str(refused.value)
