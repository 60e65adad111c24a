"""The add-on for Splunk: its files, and the event types and tags of our events."""

import re

import pytest
from siem.splunk.props import props
from tests.siem.languages import matches, spl
from tests.siem.seen import TA, Seen, Siems, parse_conf, read_conf
from tests.siem.test_detections import NAMES
from tests.support.batches import rendered

from auditrelay.descriptions import shipped
from auditrelay.events import AuditEvent
from auditrelay.events.normalize import available

FILES = sorted(
    str(path.relative_to(TA)) for path in TA.rglob("*") if path.suffix in (".conf", ".meta")
)


def test_the_files_are_those_that_splunk_reads() -> None:
    names = ["app", "eventtypes", "fields", "props", "savedsearches", "tags"]
    assert [*(f"default/{name}.conf" for name in names), "metadata/default.meta"] == FILES


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_stanzas_with_keys_and_no_useless_line(name: str) -> None:
    stanzas = {"": {}} if name.endswith(".meta") else read_conf(name)
    text = (TA / name).read_text("utf-8")
    for line in text.splitlines():
        assert re.fullmatch(r"|#.*|\[.*\]|[\w.:\-]+ = \S.*", line), line
    if not name.endswith(".meta"):
        assert stanzas
        assert all(stanzas.values())


def test_every_vendor_has_its_source_type(siems: Siems, golden: dict[str, AuditEvent]) -> None:
    stanzas = parse_conf(props())
    vendors = (*available(), *shipped())
    assert {f"auditrelay:{vendor}:audit" for vendor in vendors} == stanzas.keys()
    for event in golden.values():
        assert siems.splunk_fields(event)["sourcetype"] == [f"auditrelay:{event.vendor}:audit"]


def test_the_committed_stanzas_are_those_of_the_vendors() -> None:
    """A vendor that came later may be missing in them until ``make generate``."""
    made, committed = parse_conf(props()), read_conf("default/props.conf")
    assert committed
    assert {name: made[name] for name in committed} == committed


def test_an_event_gets_the_tags_of_its_data_model(everything: list[Seen]) -> None:
    types = {
        name: spl(stanza["search"]) for name, stanza in read_conf("default/eventtypes.conf").items()
    }
    tags = read_conf("default/tags.conf")
    assert tags.keys() == {f"eventtype={name}" for name in types}
    assert {value for stanza in tags.values() for value in stanza.values()} == {"enabled"}
    wanted = {
        "Change": {"change"},
        "Authentication": {"authentication"},
        "Data_Access": {"data", "access"},
    }
    for seen in everything:
        found = {
            tag
            for name, terms in types.items()
            if matches(terms, seen.splunk)
            for tag in tags[f"eventtype={name}"]
        }
        [model] = seen.splunk["cim_model"]
        account = model == "Change" and seen.splunk["object_category"] == ["user"]
        assert found == wanted[model] | ({"account"} if account else set())


def test_no_field_has_its_value_twice_and_lists_have_plain_names(everything: list[Seen]) -> None:
    for seen in everything:
        for name in ("event_id", "cim_model", "auditrelay_kind", "auditrelay_verb", "action"):
            assert len(seen.splunk.get(name, ["one"])) == 1
        for name in ("object_attrs", "auditrelay_tags"):
            assert seen.splunk.get(name) == seen.splunk.get(f"{name}{{}}")
    assert any("object_attrs" in seen.splunk for seen in everything)


def test_indexed_fields_that_are_no_keys_of_the_event_are_declared(
    siems: Siems, golden: dict[str, AuditEvent]
) -> None:
    import orjson  # noqa: PLC0415  # needed here alone

    event = next(iter(golden.values()))
    envelope = orjson.loads(rendered(siems.splunk, event, event.at).text)
    only_indexed = envelope["fields"].keys() - envelope["event"].keys()
    assert read_conf("default/fields.conf").keys() == only_indexed


def test_a_search_lists_fields_that_are_sent(everything: list[Seen]) -> None:
    sent = {name for seen in everything for name in seen.splunk} | {"_time"}
    searches = read_conf("default/savedsearches.conf")
    for stanza in (searches[name] for name in NAMES.values()):
        _, _, columns = stanza["search"].partition("| table ")
        assert set(columns.split(", ")) <= sent
