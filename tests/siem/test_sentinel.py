"""The template for Azure, and its KQL: of the columns that are sent, and of no others."""

import json
import re
from typing import Any

import pytest
from siem.sentinel import template as made
from tests.siem.seen import SIEM, Seen

from auditrelay.events import AuditEvent
from auditrelay.events.forms import asim
from auditrelay.sandbox.siems.azure_logs import STREAMS
from auditrelay.sinks.azure_logs import Settings
from auditrelay.sinks.azure_logs.rows import PART_COLUMNS

FOLDER = SIEM / "sentinel"
TEMPLATE = json.loads((FOLDER / "template.json").read_bytes())
RESERVED = {"id", "Type", "Title", "TenantId", "UniqueId", "_ResourceId", "_SubscriptionId"}
KQL = {path.stem: path.read_text("utf-8") for path in FOLDER.glob("*/*.kql")}
ALIASES = {"User", "Application", "Src", "IpAddr", "Dst", "Value", "LogonTarget"}
"""Columns that the parsers make."""


def of_type(kind: str) -> list[dict[str, Any]]:
    return [each for each in TEMPLATE["resources"] if each["type"].endswith(kind)]


def declared() -> dict[str, dict[str, str]]:
    """Return the columns that the rule declares, by stream."""
    (rule,) = of_type("/dataCollectionRules")
    streams: dict[str, Any] = rule["properties"]["streamDeclarations"]
    return {
        name: {each["name"]: each["type"] for each in stream["columns"]}
        for name, stream in streams.items()
    }


def test_the_committed_template_is_that_of_the_program() -> None:
    assert made.template() == TEMPLATE


def test_the_streams_are_those_that_the_sink_sends_to_by_default() -> None:
    fields = Settings.model_fields
    assert set(declared()) == {fields["stream"].default, fields["stream_authentication"].default}
    assert {name: dict(columns) for name, columns in STREAMS.items()} == declared()


def test_each_stream_has_its_table_of_the_same_columns() -> None:
    (rule,) = of_type("/dataCollectionRules")
    tables = {
        each["properties"]["schema"]["name"]: {
            column["name"]: column["type"].lower()
            for column in each["properties"]["schema"]["columns"]
        }
        for each in of_type("/tables")
    }
    flows = {flow["streams"][0]: flow["outputStream"] for flow in rule["properties"]["dataFlows"]}
    assert {stream: tables[flows[stream].removeprefix("Custom-")] for stream in flows} == declared()
    assert rule["kind"] == "Direct", "it has an endpoint of its own"


def test_column_names_are_such_that_azure_takes() -> None:
    for columns in declared().values():
        assert len(columns) < 500
        for name in columns:
            assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,44}", name)
            assert name not in RESERVED
        assert "TimeGenerated" in columns


def test_every_column_of_every_event_is_declared_with_its_type(everything: list[Seen]) -> None:
    """What is not declared Azure drops without a word."""
    kinds = {"string": str, "datetime": str, "int": int, "dynamic": dict}
    streams = {"AuditEvent": "Custom-AuditRelay"}
    streams["Authentication"] = "Custom-AuditRelayAuthentication"
    found: dict[str, set[str]] = {name: set() for name in declared()}
    for seen in everything:
        row = asim.render(seen.event)
        columns = declared()[streams[row["EventSchema"]]]
        found[streams[row["EventSchema"]]] |= row.keys()
        for name, value in row.items():
            assert isinstance(value, kinds[columns[name]]), name
    assert set(PART_COLUMNS) <= set(declared()["Custom-AuditRelay"])
    # A column that no event has is a mistake, or waits for a vendor that has more to tell.
    unused = {
        name
        for stream, columns in declared().items()
        for name in columns.keys() - found[stream] - set(PART_COLUMNS)
    }
    assert unused <= {"EventOriginalResultDetails", "EventResultDetails", "HttpUserAgent"} | {
        *("ActorUsername", "ActorUsernameType", "ActorUserId", "ActorUserIdType"),
        *("TargetUsername", "TargetUsernameType", "TargetUserId", "TargetUserIdType"),
        *("ActorOriginalUserType", "TargetOriginalUserType", "SrcIpAddr", "NewValue", "ObjectId"),
    }


def test_errors_of_the_rule_are_written_down_and_an_alert_watches_them() -> None:
    (setting,) = of_type("/diagnosticSettings")
    assert setting["properties"]["logs"] == [{"category": "LogErrors", "enabled": True}]
    (alert,) = of_type("/scheduledQueryRules")
    assert alert["properties"]["enabled"] is True
    assert alert["properties"]["skipQueryValidation"] is True, "the table comes with its first row"
    (condition,) = alert["properties"]["criteria"]["allOf"]
    assert "DCRLogErrors" in condition["query"]
    assert (condition["operator"], condition["threshold"]) == ("GreaterThan", 0)


def test_every_resource_that_is_of_the_rule_waits_for_it() -> None:
    for each in TEMPLATE["resources"]:
        is_table = each["type"].endswith("/tables")
        assert is_table or each["dependsOn"], each["type"]
        assert re.fullmatch(r"20\d\d-\d\d-\d\d(-preview)?", each["apiVersion"])


def test_each_function_has_its_text_and_its_parameters() -> None:
    functions = {each["properties"]["displayName"]: each for each in of_type("/savedSearches")}
    assert functions.keys() == made.functions().keys()
    for name, each in functions.items():
        properties = each["properties"]
        assert properties["query"] == KQL[name]
        assert not properties["query"].startswith("["), (
            "that would be an expression of the template"
        )
        given = re.findall(r"(\w+):\w+=", properties.get("functionParameters", ""))
        passed = re.findall(r"^    (\w+)=(\w+),?$", KQL[name], re.MULTILINE)
        assert [(each, each) for each in given] == passed
        assert bool(given) == name.startswith("vim")


@pytest.mark.parametrize("name", KQL)
def test_the_columns_in_kql_are_declared(name: str) -> None:
    """Names in capitals are columns; the language itself, tables and aliases are not."""
    text = re.sub(r"//.*|'[^']*'", "", KQL[name])
    columns = {column for each in declared().values() for column in each}
    made_here = set(re.findall(r"\b([A-Z]\w+) = ", text))
    others = {"AuditRelay_CL", "AuditRelayAuthentication_CL", "DCRLogErrors"}
    others |= {"InputStreamId", "OperationName", "Message", "_ResourceId"}
    used = set(re.findall(r"(?<![.\w])_?[A-Z]\w+", text))
    assert used <= columns | made_here | others | ALIASES, used - columns
    for opening, closing in ("()", "{}", "[]"):
        assert text.count(opening) == text.count(closing)


def test_a_row_that_was_sent_twice_is_counted_by_its_uid(golden: dict[str, AuditEvent]) -> None:
    event = next(iter(golden.values()))
    assert asim.render(event)["EventUid"] == event.uid
    assert "count() by EventUid" in KQL["duplicates"]
    assert "arg_max(TimeGenerated, *) by EventUid" in KQL["AuditRelay"]
