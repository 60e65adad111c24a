"""The dashboards of auditrelay's own health for Datadog and Splunk ask for what there is."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml
from datadog_api_client.v1.model.dashboard import Dashboard
from tests.siem.seen import Seen
from tests.siem.test_datadog import read_by_the_client

from auditrelay.telemetry.metrics import Metrics

FOLDER = Path(__file__).parents[2] / "monitoring"
DASHBOARD = json.loads((FOLDER / "datadog.json").read_text("utf-8"))
AGENT = yaml.safe_load((FOLDER / "datadog.openmetrics.yaml").read_text("utf-8"))["instances"]
SPLUNK = ET.parse(FOLDER / "splunk.xml").getroot()  # our own file


# --- Datadog -----------------------------------------------------------------------------------


def sent_by_the_agent() -> dict[str, set[str]]:
    """
    Return the tags of every metric that the Agent makes of ours, by its name there.

    https://docs.datadoghq.com/integrations/guide/prometheus-metrics/; its own check
    (datadog-checks-base 38.7) was seen to make these of our /metrics.
    """
    whole, letters = AGENT
    assert (whole["namespace"], whole["raw_metric_prefix"]) == ("auditrelay", "auditrelay_")
    assert whole["exclude_metrics"] == ["^dead_letters$"]
    ((renamed,),) = (each.values() for each in letters["metrics"])
    endings = {"counter": ("count",), "histogram": ("bucket", "count", "sum"), "gauge": ("",)}
    found: dict[str, set[str]] = {}
    for metric in vars(Metrics("1", shared=True)).values():
        for family in metric.collect() if hasattr(metric, "_labelnames") else ():
            name = family.name.replace("auditrelay_", "auditrelay.", 1)
            if name == "auditrelay.dead_letters":
                # The Agent cannot tell this gauge from the counter of that name.
                if family.type == "counter":
                    continue
                name = f"auditrelay.{renamed['name']}"
            for ending in endings[family.type]:
                key = f"{name}.{ending}".rstrip(".")
                assert key not in found, "the Agent would take one for the other"
                found[key] = set(metric._labelnames)
    return found


def widgets(of: Any = DASHBOARD) -> Iterator[Any]:
    for widget in of["widgets"]:
        definition = widget["definition"]
        if definition["type"] == "group":
            yield from widgets(definition)
        else:
            yield definition


_QUERY = re.compile(
    r"(?:max|min|sum):(?P<name>[\w.]+)\{(?P<filter>[^}]+)\}"
    r"(?: by \{(?P<by>[\w,]+)\})?(?P<count>\.as_count\(\))?"
)


def test_the_dashboard_is_one_that_datadogs_client_knows() -> None:
    read = read_by_the_client(Dashboard, DASHBOARD)
    assert read.to_dict()["widgets"] == DASHBOARD["widgets"]
    wrong = json.loads(json.dumps(DASHBOARD))
    wrong["widgets"][0]["definition"]["widgets"][0]["definition"]["requests"][0]["query"] = []
    with pytest.raises(AssertionError):
        assert read_by_the_client(Dashboard, wrong).to_dict()["widgets"] == DASHBOARD["widgets"]


def test_every_widget_asks_for_metrics_and_tags_that_the_agent_sends() -> None:
    sent = sent_by_the_agent()
    names = {variable["name"] for variable in DASHBOARD["template_variables"]}
    asked = list(widgets())
    assert len({each["title"] for each in asked}) == len(asked) > 15
    for each in asked:
        (request,) = each["requests"]
        for query in request["queries"]:
            found = _QUERY.fullmatch(query["query"])
            assert found, query
            tags = set(re.findall(r"\w+", (found["by"] or "") + " " + found["filter"]))
            assert found["name"] in sent, query
            assert tags <= sent[found["name"]], query
            assert set(re.findall(r"\$(\w+)", found["filter"])) <= names
            # Counts are summed over time; gauges are not.
            assert bool(found["count"]) == found["name"].endswith((".count", ".sum")), query
        used = {
            name for each in request["formulas"] for name in re.findall(r"q\d", each["formula"])
        }
        assert used == {query["name"] for query in request["queries"]}


# --- Splunk ------------------------------------------------------------------------------------


def searches() -> list[str]:
    return [str(each.text) for each in SPLUNK.iter("query")]


def test_every_panel_searches_source_types_that_there_are() -> None:
    assert len(searches()) == len(list(SPLUNK.iter("panel"))) > 5
    for search in searches():
        assert re.match(r'sourcetype="auditrelay:(\*|auditrelay):audit" ', search), search
        assert "index=" not in search, "which one is the operator's"


def test_a_panel_asks_for_fields_that_are_sent(everything: list[Seen]) -> None:
    sent = {name for seen in everything for name in seen.splunk} | {"_time", "_indextime"}
    marks = {
        "auditrelay.notice",
        "auditrelay.backfill",
        "auditrelay.replayed",
    }  # when they are true
    for search in searches():
        first, *commands = search.split(" | ")
        made = set(re.findall(r"(?:as|eval) (\w+)", search)) | {"count"}
        used = set(re.findall(r"([\w.]+)=", first))
        for command in commands:
            if command.startswith("table "):
                used |= set(command.split()[1:])
            used |= set(re.findall(r" by (\w+)", command))
            used |= set(re.findall(r"(?:max|perc50|perc99)\((\w+)\)", command))
        assert used <= sent | made | marks, search


def test_a_panel_asks_for_notices_that_there_are() -> None:
    source = "".join(
        path.read_text("utf-8") for path in (Path(__file__).parents[2] / "src").rglob("*.py")
    )
    for name in {each for text in searches() for each in re.findall(r'signature="([^"]+)"', text)}:
        kind = name.removeprefix("auditrelay.")
        assert f'"{kind}"' in source or f'"{name}"' in source, name
