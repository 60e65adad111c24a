"""How each SIEM sees an event, through the real sinks and the files of `siem`."""

import json
from configparser import RawConfigParser
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from siem.splunk.props import props
from tests.siem.languages import Fields, flat, gathered
from tests.support.batches import rendered

from auditrelay.clock import Clock
from auditrelay.events import AuditEvent
from auditrelay.events.normalize import Normalizer, vendor_named
from auditrelay.settings import SinkSettings
from auditrelay.sinks import Sink, datadog, elasticsearch, splunk_hec
from auditrelay.sinks.elasticsearch import settings
from auditrelay.telemetry.metrics import Metrics

TOP = Path(__file__).parents[2]
SIEM = TOP / "siem"
TA = SIEM / "splunk" / "TA-auditrelay"
GOLDEN = sorted((TOP / "tests" / "events" / "golden").glob("*/*.json"))


def read_conf(name: str) -> dict[str, dict[str, str]]:
    """Return the stanzas of one of the add-on's files."""
    return parse_conf((TA / name).read_text("utf-8"))


def parse_conf(text: str) -> dict[str, dict[str, str]]:
    """Return the stanzas of a file of Splunk; a duplicate stanza or key is an error."""
    parser = RawConfigParser(delimiters="=", comment_prefixes="#", strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys keep their case
    parser.read_string(text)
    return {section: dict(parser.items(section)) for section in parser.sections()}


def normalized(vendor: str, record: object) -> AuditEvent:
    """Normalize a vendor's *record*."""
    normalizer = Normalizer(
        vendor=vendor_named(vendor),
        source=f"acme-{vendor}",
        api_host=f"api.{vendor}.example",
        scope="",
        redact="default",
        tags={"team": "voice"},
    )
    [event] = normalizer([json.dumps(record).encode()], 1_795_167_600_123_456)
    return event


class Seen(NamedTuple):
    """How the three SIEMs see one event: the values of each field that a search can name."""

    event: AuditEvent
    elastic: Fields
    splunk: Fields
    datadog: Fields


class Siems:
    """The three sinks, with required settings only."""

    def __init__(self) -> None:
        self.elastic = self._sink(
            elasticsearch, settings.Settings, urls=["https://es.example:9200"]
        )
        self.splunk = self._sink(
            splunk_hec, splunk_hec.Settings, url="https://hec.example:8088", token="t" * 36
        )
        self.datadog = self._sink(datadog, datadog.Settings, api_key="k" * 32)
        self._props = parse_conf(props())

    @staticmethod
    def _sink(module: Any, settings: type[SinkSettings], **keys: Any) -> Sink:
        name = module.__name__.rpartition(".")[2]
        sink: Sink = module.build(name, settings(type=name, **keys), Metrics(), Clock())
        return sink

    def document(self, event: AuditEvent, **marks: object) -> dict[str, Any]:
        """Return what Elasticsearch gets."""
        found: dict[str, Any] = orjson.loads(
            rendered(self.elastic, event, event.at, marks).text.split(b"\n")[1]
        )
        return found

    def log(self, event: AuditEvent) -> dict[str, Any]:
        """Return what Datadog gets."""
        found: dict[str, Any] = orjson.loads(rendered(self.datadog, event, event.at).text)
        return found

    def splunk_fields(self, event: AuditEvent) -> Fields:
        """Return the fields that Splunk has at search time, with the add-on installed."""
        envelope = orjson.loads(rendered(self.splunk, event, event.at).text)
        stanza = self._props[envelope["sourcetype"]]
        assert stanza["KV_MODE"] == "json"
        fields = gathered(flat(envelope["event"], list_mark="{}"))
        for name, value in envelope["fields"].items():
            fields.setdefault(name, []).append(value)
        for name in ("sourcetype", "source", "host"):
            fields[name] = [envelope[name]]
        for key, expression in stanza.items():
            if key.startswith("EVAL-"):
                _evaluate(key.removeprefix("EVAL-"), expression, fields)
        return fields

    def see(self, event: AuditEvent) -> Seen:
        """Return *event* as all three see it."""
        log = self.log(event)
        tags = [tag.partition(":") for tag in log["ddtags"].split(",")]
        attributes = ((f"@{name}", value) for name, value in flat(log))
        return Seen(
            event,
            gathered(flat(self.document(event))),
            self.splunk_fields(event),
            gathered(iter([*attributes, *((name, value) for name, _, value in tags)])),
        )


def _evaluate(name: str, expression: str, fields: dict[str, list[str]]) -> None:
    """Evaluate the two expressions that the add-on uses."""
    if expression == f"mvdedup({name})":
        values = list(dict.fromkeys(fields.get(name, [])))
    else:
        assert expression == f"'{name}{{}}'", expression
        values = fields.get(f"{name}{{}}", [])
    if values:
        fields[name] = values
