"""The examples of the shipped descriptions, replayed by the code of ``description test``."""

import json
import warnings
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path

import orjson
import pytest
from tests.events.conftest import check_cim, check_ecs
from tests.support.batches import rendered
from tests.support.ocsf_check import faults

from auditrelay.cli.description.conversations import (
    Conversation,
    Request,
    conversations,
    examples_of,
)
from auditrelay.cli.description.replay import Replayed, replay
from auditrelay.clock import Clock
from auditrelay.descriptions import FOLDER, shipped
from auditrelay.descriptions.load import named
from auditrelay.events import AuditEvent
from auditrelay.events.classify import MEMBERSHIPS
from auditrelay.events.forms import FORMS
from auditrelay.sinks import elasticsearch
from auditrelay.telemetry.metrics import Metrics

EXAMPLES = [
    pytest.param(name, each.name, id=f"{name}-{each.name}")
    for name in shipped()
    for each in conversations(FOLDER / f"{name}.toml")
]
ELASTICSEARCH = elasticsearch.build(
    "elastic",
    elasticsearch.Settings.model_validate(
        {"type": "elasticsearch", "urls": ["https://es.example.com:9200"]}
    ),
    Metrics(),
    Clock(),
)


@cache
def examples(name: str) -> dict[str, Conversation]:
    return {each.name: each for each in conversations(FOLDER / f"{name}.toml")}


@cache
def replayed(name: str, conversation: str) -> Replayed:
    return replay(named(name), examples(name)[conversation])


@pytest.mark.parametrize(("name", "conversation"), EXAMPLES)
def test_what_is_asked_and_what_comes_is_as_it_was_recorded(name: str, conversation: str) -> None:
    assert not replayed(name, conversation).problems


def test_every_folder_of_examples_is_of_a_shipped_description() -> None:
    folder = examples_of(FOLDER / "okta.toml").parent
    assert sorted(each.name for each in folder.iterdir()) == sorted(shipped())


@pytest.mark.parametrize("name", shipped())
def test_a_description_has_two_pages_a_refusal_and_a_throttle(name: str) -> None:
    expected = [each.about.expect.error for each in examples(name).values() if each.about.expect]
    assert {"refused", "retry"} <= set(expected)
    shown = [replayed(name, each).events for each in examples(name)]
    assert any(shown), "no example has an event"
    description = named(name)
    kinds = {description.feed(feed).pages.kind for feed in description.feeds or (None,)}
    if kinds != {"none"}:
        walks = [list(asked(each)) for each in examples(name).values() if not each.about.expect]
        assert max(map(len, walks)) >= 2, "no example has two pages"


def asked(conversation: Conversation) -> Iterator[Request]:
    """Yield the requests for pages of *conversation*."""
    for request, _ in conversation.exchanges:
        if request.form is None and request.host is None and "/oauth" not in request.path:
            yield request


@pytest.mark.parametrize(("name", "conversation"), EXAMPLES)
def test_every_event_of_an_example_is_understood(name: str, conversation: str) -> None:
    for event in replayed(name, conversation).events:
        assert event.warnings == (), event.native_action
        assert event.time_quality == "source"
        assert event.native_id or named(name).feed(feed_of(name, conversation)).records.no_id
        if event.verb in MEMBERSHIPS:
            # Else the forms would show a person as a group.
            is_person = (event.target.type or "").lower() in ("user", "member")
            assert is_person == (event.kind != "group"), event.target
            assert not is_person or event.privilege, "which group?"


def feed_of(name: str, conversation: str) -> str | None:
    return examples(name)[conversation].about.feed


@pytest.mark.parametrize(("name", "conversation"), EXAMPLES)
def test_every_event_of_an_example_is_valid_in_every_form(name: str, conversation: str) -> None:
    for event in replayed(name, conversation).events:
        documents = {form: orjson.loads(orjson.dumps(FORMS[form](event))) for form in FORMS}
        check_ecs(elastic(event), event.vendor)
        check_cim(documents["cim"])
        assert faults(documents["ocsf"]) == []
        assert event.uid in json.dumps(documents["datadog"])
        assert event.uid in json.dumps(documents["raw"])


def elastic(event: AuditEvent) -> dict[str, object]:
    """Return *event* as the Elasticsearch sink sends it: it names the data stream."""
    document: dict[str, object] = json.loads(
        rendered(ELASTICSEARCH, event, event.at).text.split(b"\n")[1]
    )
    return document


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", shipped())
def test_a_description_was_compared_with_its_documentation_within_a_year(name: str) -> None:
    """A warning, because a test must not fail by the calendar alone."""
    file = named(name).file
    assert all(address.startswith("https://") for address in file.docs)
    age = Clock().now().date() - file.checked
    if age > timedelta(days=365):
        warnings.warn(f"{name}: was last compared {age.days} days ago", stacklevel=1)


def test_examples_stay_small() -> None:
    folder = Path(examples_of(FOLDER / "okta.toml").parent)
    for file in folder.rglob("*.json"):
        assert file.stat().st_size < 40_000, file
