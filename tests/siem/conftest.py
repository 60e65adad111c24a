"""Events of every vendor, kind, verb and outcome."""

import json
from collections.abc import Iterator
from itertools import product
from typing import get_args

import msgspec
import pytest
from tests.siem.seen import GOLDEN, Seen, Siems, normalized

from auditrelay.events import AuditEvent, Outcome
from auditrelay.events.classify import KINDS, VERBS


@pytest.fixture(scope="session")
def siems() -> Siems:
    return Siems()


@pytest.fixture(scope="session")
def golden() -> dict[str, AuditEvent]:
    """Every reviewed record as an event, by ``vendor/name``."""
    return {
        f"{path.parent.name}/{path.stem}": normalized(
            path.parent.name, json.loads(path.read_bytes())["record"]
        )
        for path in GOLDEN
    }


@pytest.fixture(scope="session")
def everything(siems: Siems, golden: dict[str, AuditEvent]) -> list[Seen]:
    """Every reviewed event, and one of every kind, verb and outcome, as all three see them."""
    base = next(iter(golden.values()))

    def made() -> Iterator[AuditEvent]:
        yield from golden.values()
        for kind, verb, outcome in product(KINDS, VERBS, (*get_args(Outcome), None)):
            yield msgspec.structs.replace(base, kind=kind, verb=verb, outcome=outcome)

    return [siems.see(event) for event in made()]
