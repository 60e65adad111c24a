"""The descriptions of receivers that come with auditrelay, and what their examples mean."""

import os
import tomllib
from pathlib import Path

import pytest

from auditrelay.cli.description.receivers import meanings, wrong_examples
from auditrelay.config import load
from auditrelay.descriptions import shipped, shipped_receivers
from auditrelay.descriptions.receiver.example import example
from auditrelay.descriptions.receiver.load import named
from auditrelay.sinks import available
from auditrelay.sinks.described.canned import canned

every = pytest.mark.parametrize("name", shipped_receivers())

CANNED = [
    *("200 with an empty body", "200 with a web page", "202", "204", "301", "400", "401", "403"),
    *("404", "408", "413", "429", "500", "503"),
]

OTHERWISE = {
    "200 with an empty body": "hold",
    "200 with a web page": "hold",
    "202": "hold",
    "204": "hold",
    "301": "hold",
    "400": "split",
    "401": "hold",
    "403": "hold",
    "404": "hold",
    "408": "retry",
    "413": "split",
    "429": "retry",
    "500": "retry",
    "503": "retry",
}
"""What answers are taken for where a description is silent."""

OWN = {
    "axiom": {},
    "cortex": {},
    "dynatrace": {"200 with an empty body": "isolate", "204": "done"},
    "loki": {"204": "done", "400": "isolate"},
    "new_relic": {"202": "done"},
    "sumo": {"200 with an empty body": "done"},
}


def test_the_shipped_ones_are_those_that_were_decided() -> None:
    assert shipped_receivers() == (*("axiom", "cortex", "dynatrace", "loki", "new_relic", "sumo"),)
    assert not set(shipped_receivers()) & {*shipped(), *available(), "rest", "http", "describe"}


@every
def test_its_name_is_its_type(name: str) -> None:
    found = named(name)
    assert found.file.receiver == name
    assert found.notes == ()
    assert found.file.find
    assert found.file.needs
    assert found.file.unsure


@every
def test_what_any_answer_is_taken_for(name: str) -> None:
    taken = {each.answer: each.word for each in canned(named(name).file)}
    assert list(taken) == CANNED
    assert taken == {**OTHERWISE, **OWN[name]}


@every
def test_its_examples_mean_what_they_say(name: str) -> None:
    file = named(name).file
    assert list(wrong_examples(file)) == []
    assert {example.means for example in file.examples} >= {"done", "hold", "retry"}
    assert len(list(meanings(file))) == len(CANNED) + len(file.examples)


@every
def test_its_example_is_a_configuration(name: str, tmp_path: Path) -> None:
    text = example(name, named(name))
    [table] = tomllib.loads(text)["sinks"].values()
    secrets = {
        value.removeprefix("${env:").removesuffix("}"): "k-1234567890"
        for value in table.values()
        if value.startswith("${env:")
    }
    if name == "sumo":
        secrets = dict.fromkeys(secrets, "https://s.example.com/receiver/v1/http/k-1234567890")
    file = tmp_path / "auditrelay.toml"
    file.write_text(text)
    config = load(file, {"HOME": str(tmp_path), **secrets})
    [sink] = config.sinks.values()
    assert sink.type == name
    assert sink.proves == "taken"
    assert config.warnings == ()
    assert all(os.environ.get(key) is None for key in secrets)
