"""
Every sink that speaks HTTP with its double, found by itself, and what the double can do wrong.

A double with variants has a rig for each of them as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.quill import Quill

from auditrelay import sinks
from auditrelay.clock import Clock
from auditrelay.config.model import SINKS
from auditrelay.descriptions import HTTP
from auditrelay.sandbox import Intake, faults, siems
from auditrelay.sandbox.siems import Misbehaviour, Variant
from auditrelay.settings import PeerSettings, SinkSettings
from auditrelay.sinks import Sink
from auditrelay.telemetry.metrics import Metrics

NOON = 1_767_268_800.0
"""About when the test events happened."""

WITHOUT_DOUBLE = {kind for kind, keys in SINKS.items() if keys.addresses is PeerSettings.addresses}
"""The types of sinks that have no address: they do not speak HTTP."""

DOUBLES: Mapping[str, type[Intake]] = {**siems.available(), HTTP: Quill}
"""The double of every type of sink, and of one that is described by a file of the operator's."""


def made_of(
    name: str, given: Mapping[str, Any], metrics: Metrics, clock: Clock
) -> tuple[SinkSettings, Sink]:
    """Return the settings with the keys *given*, and the sink that they make."""
    settings = SINKS.of(given["type"], given, Path()).model_validate(given)
    return settings, sinks.make(name, settings, metrics, clock)


EVERYWHERE: dict[str, Misbehaviour] = {
    "429": lambda double: double.fail_batches(faults.too_many(retry_after="1")),
    "429 in a row": lambda double: double.fail_batches(faults.too_many(), times=3),
    "502": lambda double: double.fail_batches(faults.html(502)),
    "499, stored": lambda double: double.fail_batches(faults.html(499, process=True)),
    "524, stored": lambda double: double.fail_batches(faults.html(524, process=True)),
    "503": lambda double: double.fail_batches(faults.html(503)),
    "504, stored": lambda double: double.fail_batches(faults.html(504, process=True)),
    "hangs": lambda double: double.fail_batches(faults.hang()),
    "hangs, stored": lambda double: double.fail_batches(faults.hang(process=True)),
    "reset": lambda double: double.fail_batches(faults.reset()),
    "reset, stored": lambda double: double.fail_batches(faults.store_then_reset()),
    "cut short": lambda double: double.fail_batches(faults.truncated()),
    "cut text": lambda double: double.fail_batches(faults.truncated(honest_length=True)),
    "captive portal": lambda double: double.fail_batches(faults.html(200)),
    "empty 200, stored": lambda double: double.fail_batches(faults.empty(200, process=True)),
    "redirects": lambda double: double.fail_batches(faults.redirect("http://127.0.0.1:9")),
    "403": lambda double: double.fail_batches(faults.answer(403)),
    "404": lambda double: double.fail_batches(faults.answer(404)),
    "413": lambda double: double.fail_batches(faults.html(413)),
    "slow": lambda double: double.fail_batches(faults.delay(0.02), times=3),
    "drips": lambda double: double.fail_batches(faults.drip(size=5, seconds=0.001)),
    "chunked gzip": lambda double: double.fail_batches(faults.gzipped()),
    "closes": lambda double: double.fail_batches(faults.close()),
}


@dataclass(frozen=True)
class Rig:
    """
    A sink of the type *kind* and its double, as it is or in one of its variants.

    *misbehaviours* are those of this rig alone, which occur more often than those in *also*.
    """

    kind: str
    intake: type[Intake]
    misbehaviours: Mapping[str, Misbehaviour]
    variant: Variant | None = None
    also: Mapping[str, Misbehaviour] = field(default_factory=dict)

    @property
    def all_misbehaviours(self) -> dict[str, Misbehaviour]:
        """Every misbehaviour of its double."""
        return {**EVERYWHERE, **self.also, **self.misbehaviours}

    @property
    def deduplicates(self) -> bool:
        """Whether the double stores an event that is sent twice once."""
        return self.intake.DEDUPLICATES

    def double(self) -> Intake:
        """Return a new double, whose clock shows noon."""
        double = self.intake(clock=lambda: NOON)
        if self.variant is not None:
            self.variant.prepare(double)
        return double

    def build(
        self, double: Intake, metrics: Metrics, clock: Clock, **keys: Any
    ) -> tuple[SinkSettings, Sink]:
        """Return the settings of a sink that sends to *double*, and the sink."""
        given = {
            "timeout": "300ms",
            "linger": "0s",
            "batch_events": 7,
            **double.settings(),
            **(self.variant.settings if self.variant is not None else {}),
            **keys,
        }
        return made_of("sink", given, metrics, clock)


def _rigs() -> dict[str, Rig]:
    rigs = {}
    for kind, intake in DOUBLES.items():
        rigs[intake.NAME] = Rig(kind, intake, intake.MISBEHAVIOURS or EVERYWHERE)
        for variant in intake.VARIANTS:
            rigs[f"{intake.NAME} {variant.name}"] = Rig(
                kind,
                intake,
                variant.misbehaviours or EVERYWHERE,
                variant,
                also=intake.MISBEHAVIOURS,
            )
    return rigs


RIGS = _rigs()
