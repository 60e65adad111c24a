"""
One table for every sink that speaks HTTP: its double, its settings, and what the double can do.

A new sink is one more entry of :data:`RIGS`; the tests that run over them need nothing else.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from auditrelay.sandbox import Datadog, Double, Elastic, Request, Splunk, faults
from auditrelay.settings import SinkSettings
from auditrelay.sinks import Sink
from auditrelay.telemetry.metrics import Metrics

NOON = 1_767_268_800.0
"""About when the test events happened."""

Misbehave = Callable[[Any], None]

EVERYWHERE: dict[str, Misbehave] = {
    "429": lambda double: fail(double, faults.too_many(retry_after="1")),
    "429 in a row": lambda double: fail(double, faults.too_many(), times=3),
    "502": lambda double: fail(double, faults.html(502)),
    "503": lambda double: fail(double, faults.html(503)),
    "504, stored": lambda double: fail(double, faults.html(504, process=True)),
    "hangs": lambda double: fail(double, faults.hang()),
    "hangs, stored": lambda double: fail(double, faults.hang(process=True)),
    "reset": lambda double: fail(double, faults.reset()),
    "reset, stored": lambda double: fail(double, faults.store_then_reset()),
    "cut short": lambda double: fail(double, faults.truncated()),
    "cut text": lambda double: fail(double, faults.truncated(honest_length=True)),
    "captive portal": lambda double: fail(double, faults.html(200)),
    "empty 200": lambda double: fail(double, faults.empty(200)),
    "empty 200, stored": lambda double: fail(double, faults.empty(200, process=True)),
    "redirects": lambda double: fail(double, faults.redirect("http://127.0.0.1:9")),
    "403": lambda double: fail(double, faults.answer(403)),
    "404": lambda double: fail(double, faults.answer(404)),
    "413": lambda double: fail(double, faults.html(413)),
    "slow": lambda double: fail(double, faults.delay(0.02), times=3),
    "drips": lambda double: fail(double, faults.drip(size=5, seconds=0.001)),
    "chunked gzip": lambda double: fail(double, faults.gzipped()),
    "closes": lambda double: fail(double, faults.close()),
}


def fail(double: Double, action: faults.Action, times: int = 1) -> None:
    """Apply *action* to the next requests that carry events."""
    double.faults.add(action, method="POST", times=times)


@dataclass(frozen=True)
class Rig:
    """
    One kind of sink. *keys* are its settings, given the double; *misbehaviours* are those of this
    kind alone, which occur more often than those in *also*.

    *deduplicates*: the double stores an event that is sent twice once.
    """

    kind: str
    double: Callable[[], Any]
    keys: Callable[[Any], Mapping[str, Any]]
    misbehaviours: Mapping[str, Misbehave]
    also: Mapping[str, Misbehave] = field(default_factory=dict)
    deduplicates: bool = False

    @property
    def all_misbehaviours(self) -> dict[str, Misbehave]:
        """Every misbehaviour of its double."""
        return {**EVERYWHERE, **self.also, **self.misbehaviours}

    def build(self, double: Any, metrics: Metrics, **keys: Any) -> tuple[SinkSettings, Sink]:
        """Return the settings of a sink that sends to *double*, and the sink."""
        module = importlib.import_module(f"auditrelay.sinks.{self.kind}")
        given = {
            "type": self.kind,
            "timeout": "300ms",
            "linger": "0s",
            "batch_events": 7,
            **self.keys(double),
            **keys,
        }
        settings: SinkSettings = module.Settings.model_validate(given)
        sink: Sink = module.build("sink", settings, metrics)
        return settings, sink


def _acking() -> Splunk:
    splunk = Splunk()
    splunk.configure(use_ack=True)
    splunk.switches.nodes = 2
    splunk.switches.ack_after = 3
    return splunk


def _polls(double: Splunk, action: faults.Action) -> None:
    double.faults.add(action, path="*/ack")


def _bad_then_crash(double: Splunk) -> None:
    double.script(13, after=3)

    async def crash(request: Request) -> None:
        if request.path.endswith("/ack"):
            double.on_request = None
            double.crash()

    double.on_request = crash


HEC: dict[str, Misbehave] = {
    **{
        f"code {code} after {after}": lambda double, code=code, after=after: double.script(  # type: ignore[misc]  # mypy cannot infer a lambda's defaults
            code, after=after
        )
        for code, after in [
            *((bad, after) for bad in (6, 12, 13, 15) for after in (0, 3)),
            (7, 1),
            (7, 4),
            *((busy, after) for busy in (8, 9, 18, 20, 23, 26, 27) for after in (None, 3)),
            *((wrong, None) for wrong in (1, 4, 10, 11, 14)),
            (24, None),
            (25, None),
        ]
    },
}

RIGS = {
    "splunk": Rig(
        "splunk_hec", Splunk, lambda double: {"url": double.url, "token": double.token}, HEC
    ),
    "splunk with ack": Rig(
        "splunk_hec",
        _acking,
        lambda double: {
            "url": double.url,
            "token": double.token,
            "ack": True,
            "ack_timeout": "1m",
        },
        {
            "channels forgotten": lambda double: double.forget_channels(),
            "crash": lambda double: double.crash(),
            "bad event, then a crash": _bad_then_crash,
            "slow acks": lambda double: setattr(double.switches, "ack_after", 2),
            "prompt acks": lambda double: setattr(double.switches, "ack_after", 0),
            "poll hangs": lambda double: _polls(double, faults.hang()),
            "poll hangs, processed": lambda double: _polls(double, faults.hang(process=True)),
            "poll reset, processed": lambda double: _polls(double, faults.store_then_reset()),
            "poll 503": lambda double: _polls(double, faults.html(503)),
            "poll 404": lambda double: _polls(double, faults.answer(404)),
            "poll portal": lambda double: _polls(double, faults.html(200)),
            "poll drips": lambda double: _polls(double, faults.drip(size=5, seconds=0.002)),
            "node gone": lambda double: setattr(double.switches, "nodes", 1),
            "node back": lambda double: setattr(double.switches, "nodes", 2),
        },
        also=HEC,
    ),
    "datadog": Rig(
        "datadog",
        lambda: Datadog(clock=lambda: NOON),
        lambda double: {"url": double.url, "api_key": double.api_key},
        {
            "400": lambda double: fail(double, faults.answer(400, b"{}")),
            "429 for a while": lambda double: fail(
                double, faults.answer(429, b"{}", {"X-RateLimit-Reset": "3"})
            ),
        },
    ),
    "elasticsearch": Rig(
        "elasticsearch",
        Elastic,
        lambda double: {"urls": [double.url], "api_key": double.api_key},
        {
            "items busy": lambda double: double.fail_items(429, times=3),
            "items 503": lambda double: double.fail_items(503, times=2),
            "item bad": lambda double: double.fail_items(
                400, kind="document_parsing_exception", times=1
            ),
            "items 403": lambda double: double.fail_items(403, times=1),
            "fewer items": lambda double: double.answer_fewer_items(),
        },
        deduplicates=True,
    ),
}
