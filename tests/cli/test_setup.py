"""``auditrelay setup elasticsearch``, against both kinds of cluster."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from tests.support.daemon import command

from auditrelay.sandbox.siems.elasticsearch import PASSWORD, USERNAME, Elastic

pytestmark = pytest.mark.process

PATHS = ["_component_template/auditrelay@mappings", "_index_template/logs-auditrelay"]


@dataclass
class Ended:
    status: int
    out: str
    err: str


async def run(folder: Path, *words: str, sinks: str = "") -> Ended:
    config = folder / "auditrelay.toml"
    config.touch(mode=0o600)
    config.write_text(f'state_dir = "{folder}"\n{sinks}')
    ended = await command(config, "setup", "elasticsearch", *words)
    return Ended(ended.status, ended.stdout, ended.stderr)


def sink(elastic: Elastic, name: str = "es", password: str = PASSWORD, more: str = "") -> str:
    return (
        f'[sinks.{name}]\ntype = "elasticsearch"\nurls = ["{elastic.url}"]\n'
        f'username = "{USERNAME}"\npassword = "{password}"\n{more}\n'
    )


@pytest.fixture(params=["elasticsearch", "opensearch"])
async def elastic(request: pytest.FixtureRequest) -> AsyncIterator[Elastic]:
    flavour: Literal["elasticsearch", "opensearch"] = request.param
    async with Elastic(flavour=flavour) as double:
        yield double


def types(node: Any) -> set[str]:
    """Return every type that a template gives to a field."""
    if not isinstance(node, dict):
        return set()
    own = {node["type"]} if isinstance(node.get("type"), str) else set()
    return own.union(*map(types, node.values()))


async def test_the_templates_are_installed_and_may_be_installed_again(
    tmp_path: Path, elastic: Elastic
) -> None:
    first = await run(tmp_path, sinks=sink(elastic))
    assert (first.status, first.err) == (0, "")
    installed = dict(elastic.templates)
    assert list(installed) == PATHS
    assert all(f"es: /{path} is installed" in first.out for path in PATHS)
    component, index = installed.values()
    assert index["index_patterns"] == ["logs-auditrelay.*-*"]
    flat = "flattened" if elastic.flavour == "elasticsearch" else "flat_object"
    assert types(component["template"]["mappings"]["properties"]) & {
        "flattened",
        "flat_object",
    } == {flat}
    again = await run(tmp_path, sinks=sink(elastic))
    assert (again.status, again.out) == (0, first.out)
    assert elastic.templates == installed


async def test_what_is_printed_is_what_is_installed(tmp_path: Path, elastic: Elastic) -> None:
    await run(tmp_path, sinks=sink(elastic))
    flags = ["--opensearch"] if elastic.flavour == "opensearch" else []
    shown = await run(tmp_path, "--print", *flags, sinks="")
    assert shown.status == 0
    found = {}
    for part in shown.out.split("PUT /")[1:]:
        path, _, body = part.partition("\n")
        found[path] = json.loads(body)
    assert found == elastic.templates


async def test_a_key_without_the_right_gets_an_error_that_names_it(
    tmp_path: Path, elastic: Elastic
) -> None:
    elastic.switches.missing_privileges = frozenset({"manage_index_templates"})
    ended = await run(tmp_path, sinks=sink(elastic))
    assert ended.status == 1
    assert elastic.templates == {}
    right = {
        "elasticsearch": "the cluster privilege manage_index_templates",
        "opensearch": "action group cluster_manage_index_templates",
    }[elastic.flavour]
    assert right in ended.err
    assert "sinks.es" in ended.err
    assert "--print" in ended.err
    assert "Traceback" not in ended.err


async def test_a_wrong_password_is_a_401(tmp_path: Path, elastic: Elastic) -> None:
    wrong = "wrong-password-1234"
    ended = await run(tmp_path, sinks=sink(elastic, password=wrong))
    assert ended.status == 1
    assert "401" in ended.err
    assert wrong not in ended.err
    assert "Traceback" not in ended.err


async def test_a_cluster_that_is_not_there_is_a_1(tmp_path: Path) -> None:
    async with Elastic() as gone:
        table = sink(gone)
    ended = await run(tmp_path, sinks=table)
    assert ended.status == 1
    assert "Traceback" not in ended.err
    assert ended.err


async def test_an_index_that_the_template_is_not_for_is_said(
    tmp_path: Path, elastic: Elastic
) -> None:
    ended = await run(tmp_path, sinks=sink(elastic, more='index = "audit-{vendor}-%Y.%m"'))
    assert ended.status == 0
    assert "audit-{vendor}-%Y.%m" in ended.err
    assert "auditrelay@mappings" in ended.err


async def test_which_sink_is_meant_must_be_clear(tmp_path: Path, elastic: Elastic) -> None:
    both = sink(elastic, "one") + sink(elastic, "two")
    unclear = await run(tmp_path, sinks=both)
    assert unclear.status == 2
    assert "--sink; one, two" in unclear.err
    chosen = await run(tmp_path, "--sink", "two", sinks=both)
    assert (chosen.status, chosen.out.count("two: ")) == (0, 2)
    wrong = await run(tmp_path, "--sink", "three", sinks=both)
    assert wrong.status == 2
    assert "'three'" in wrong.err
    nothing = await run(tmp_path, sinks='[sinks.f]\ntype = "file"\npath = "-"\n')
    assert nothing.status == 2
    assert "0 elasticsearch sinks" in nothing.err
    assert (await run(tmp_path, "--opensearch", sinks=both)).status == 2
