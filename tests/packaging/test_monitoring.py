"""The alerts and the dashboard use only metrics and labels that exist, and promtool agrees."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from auditrelay.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "monitoring"
RULES = yaml.safe_load((FOLDER / "alerts.yaml").read_text("utf-8"))["groups"][0]["rules"]
TESTS = yaml.safe_load((FOLDER / "alerts.test.yaml").read_text("utf-8"))["tests"]
DASHBOARD = json.loads((FOLDER / "grafana.json").read_text("utf-8"))
SYMPTOMS = (ROOT / "docs" / "if-you-see-this.md").read_text("utf-8")

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed"
)


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *arguments],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def exposed() -> dict[str, set[str]]:
    """Return the labels of every series that Prometheus would store, by its name."""
    found: dict[str, set[str]] = {}
    for metric in vars(Metrics("1", shared=True)).values():
        names: set[str] = set(getattr(metric, "_labelnames", ())) | {"instance"}
        for family in metric.collect() if hasattr(metric, "_labelnames") else ():
            if family.type == "histogram":
                for ending, more in (("_bucket", {"le"}), ("_count", set()), ("_sum", set())):
                    found[family.name + ending] = names | more
            else:
                found[family.name + ("_total" if family.type == "counter" else "")] = names
    return found


EXPOSED = exposed()


def unknown(expression: str) -> list[str]:
    """Return the metrics and labels in *expression* that are not exposed."""
    used = re.findall(r"\b(auditrelay_\w+)(?:\{(.*?)\})?", expression)
    assert used, expression
    wrong = [name for name, _ in used if name not in EXPOSED]
    for name, matchers in used:
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        wrong += sorted(labels - EXPOSED.get(name, set()))
    grouped = set(re.findall(r"\w+", " ".join(re.findall(r"\bby \((.*?)\)", expression))))
    return wrong + sorted(grouped - {label for name, _ in used for label in EXPOSED.get(name, ())})


def test_unknown_metrics_and_labels_are_found() -> None:
    assert unknown("sum by (source) (auditrelay_source_up{source='a'})") == []
    assert unknown("auditrelay_source_upp") == ["auditrelay_source_upp"]
    assert unknown("auditrelay_source_up{sink='a'}") == ["sink"]
    assert unknown("sum by (peer) (auditrelay_source_up)") == ["peer"]
    assert unknown("rate(auditrelay_end_to_end_seconds[5m])") == ["auditrelay_end_to_end_seconds"]


# --- alerts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_what_there_is_and_says_what_to_do(rule: dict[str, Any]) -> None:
    assert unknown(rule["expr"]) == []
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert {"summary", "description", "runbook"} == rule["annotations"].keys()
    assert rule["annotations"]["runbook"] == f"docs/if-you-see-this.md#{rule['alert'].lower()}"
    assert f"\n### {rule['alert']}\n" in SYMPTOMS
    labels = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
    names = re.findall(r"\bauditrelay_\w+", rule["expr"])
    assert labels <= EXPOSED[names[0]]


def test_the_page_of_symptoms_names_no_alert_that_does_not_exist() -> None:
    named = set(re.findall(r"\bAuditrelay[A-Z]\w+", SYMPTOMS))
    assert named == {rule["alert"] for rule in RULES}


def test_every_alert_is_seen_to_fire_and_to_keep_silent() -> None:
    fires, silent = set[str](), set[str]()
    for case in (each for test in TESTS for each in test["alert_rule_test"]):
        (fires if case.get("exp_alerts") else silent).add(case["alertname"])
    assert fires == silent == {rule["alert"] for rule in RULES}


@pytest.mark.process
@needs_promtool
def test_promtool_finds_nothing_wrong_with_the_alerts() -> None:
    ended = promtool("check", "rules", "--lint-fatal", "alerts.yaml")
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.process
@needs_promtool
def test_the_alerts_fire_when_they_should() -> None:
    ended = promtool("test", "rules", "alerts.test.yaml")
    assert ended.returncode == 0, ended.stdout + ended.stderr


# --- the dashboard -----------------------------------------------------------------------------


def panels() -> Iterator[Any]:
    for panel in DASHBOARD["panels"]:
        if panel["type"] != "row":
            yield panel


def expressions() -> Iterator[str]:
    for panel in panels():
        for target in panel["targets"]:
            yield target["expr"]


def test_the_dashboard_asks_for_what_there_is() -> None:
    assert {problem for expression in expressions() for problem in unknown(expression)} == set()
    variables = {each["name"] for each in DASHBOARD["templating"]["list"]}
    for text in (*expressions(), *(each["query"]["query"] for each in queries())):
        assert set(re.findall(r"\$(\w+)", text)) <= variables | {"__rate_interval"}
    for each in queries():
        found = re.fullmatch(
            r"label_values\((auditrelay_\w+)(?:\{.*\})?, (\w+)\)", each["definition"]
        )
        assert found
        assert found[2] in EXPOSED[found[1]]


def queries() -> list[Any]:
    return [each for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]


def test_the_dashboard_shows_every_metric_but_one_that_repeats_others() -> None:
    shown = {
        name for expression in expressions() for name in re.findall(r"auditrelay_\w+", expression)
    }
    base = {re.sub("_(bucket|count|sum)$", "", name) for name in EXPOSED}
    missing = base - {re.sub("_(bucket|count|sum)$", "", name) for name in shown}
    assert missing == {
        "auditrelay_events_duplicate_total",  # on purpose, and no news
        "auditrelay_event_lateness_seconds",  # for choosing settle, not for watching
        "auditrelay_source_last_event_timestamp_seconds",  # a quiet source is not a problem
        "auditrelay_events_already_stored_total",  # what was recognised, and no news
        "auditrelay_events_excluded_total",  # as configured; docs/cost.md
        "auditrelay_events_excluded_by_glob_total",
        "auditrelay_sent_bytes_total",  # for a bill, not for watching
        "auditrelay_sent_uncompressed_bytes_total",
    }


def test_the_panels_have_their_places_and_numbers() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in panels():
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.process
@needs_promtool
def test_promtool_understands_every_question_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {
            "record": f"dashboard:{number}",
            "expr": re.sub(r"\$(?!__)\w+", ".*", expression).replace("$__rate_interval", "5m"),
        }
        for number, expression in enumerate(expressions())
    ]
    assert len(rules) > 20
    path = tmp_path / "rules.yaml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    ended = promtool("check", "rules", str(path))
    assert ended.returncode == 0, ended.stdout + ended.stderr
