"""
Each file under golden/ is one native record, its normalized event, and that event in every form.

ECS is taken from the Elasticsearch sink, which names the data stream in it.

Run with AUDITRELAY_WRITE_GOLDEN=1 to regenerate the expectations, then review the diff.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from tests.support.batches import rendered
from tests.support.ocsf_check import faults

from auditrelay.clock import Clock
from auditrelay.events import AuditEvent
from auditrelay.events.forms import FORMS
from auditrelay.events.normalize import available
from auditrelay.sinks import elasticsearch
from auditrelay.telemetry.metrics import Metrics

HERE = Path(__file__).parents[1]
CASES = sorted((HERE / "golden").glob("*/*.json"))
ELASTICSEARCH = elasticsearch.build(
    "elastic",
    elasticsearch.Settings.model_validate(
        {"type": "elasticsearch", "urls": ["https://es.example.com:9200"]}
    ),
    Metrics(),
    Clock(),
)


def fields_of(event: AuditEvent) -> dict[str, Any]:
    """Return an event's fields by name, with nothing that is empty."""
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    plain = json.loads(msgspec.json.encode(fields))
    for name in ("actor", "target"):
        value = getattr(event, name)
        plain[name] = {
            field: part
            for field, part in zip(value.__struct_fields__, plain[name], strict=True)
            if part is not None
        }
    return {key: value for key, value in plain.items() if value not in (None, [], {}, False)}


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_record_becomes_the_event_and_the_documents_that_were_reviewed(
    path: Path,
    one: Callable[..., AuditEvent],
    valid_ecs: Callable[[dict[str, Any], str], None],
    valid_cim: Callable[[dict[str, Any]], None],
    valid_asim: Callable[[dict[str, Any]], None],
) -> None:
    vendor = path.parent.name
    case = json.loads(path.read_bytes())
    # Where the source's settings say that its records have their time elsewhere.
    places = case.get("places", {})
    event = one(orjson.dumps(case["record"]), vendor, **places)
    found = {
        **({"places": places} if places else {}),
        "record": case["record"],
        "event": fields_of(event),
        **{name: json.loads(orjson.dumps(render(event))) for name, render in FORMS.items()},
    }
    found["ecs"] = json.loads(rendered(ELASTICSEARCH, event, event.at).text.split(b"\n")[1])
    valid_ecs(found["ecs"], vendor)
    valid_cim(found["cim"])
    valid_asim(found["asim"])
    assert faults(found["ocsf"]) == []
    if os.environ.get("AUDITRELAY_WRITE_GOLDEN"):
        path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    assert found == case


def test_every_vendor_has_golden_files() -> None:
    assert {path.parent.name for path in CASES} == set(available())
