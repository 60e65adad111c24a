"""The example of every source and sink loads, shows the defaults, and is config.example.toml."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import auditrelay.sinks
import auditrelay.sources
from auditrelay import config
from auditrelay.config import example as examples
from auditrelay.config import load
from auditrelay.config.model import SINKS, SOURCES, Alerts, ConfigFile, Evidence, Log, Spool, Status
from auditrelay.errors import ConfigError
from auditrelay.settings import PeerSettings
from auditrelay.settings.secrets import Secret
from auditrelay.telemetry import scrubber

EXAMPLE = examples.example()
COMMITTED = Path(__file__).parents[2] / "config.example.toml"
NONE = "# no default"
SECRET = "sb-acme-auth-token=a-pretend-secret"
"""A value that every secret may have."""
ENVIRON = {"HOME": "/home/op", **dict.fromkeys(re.findall(r"\$\{env:(\w+)\}", EXAMPLE), SECRET)}
TYPES: Mapping[str, Mapping[str, type[PeerSettings]]] = {"sources": SOURCES, "sinks": SINKS}
PLAIN: Mapping[str, type[BaseModel]] = {
    "status": Status,
    "log": Log,
    "alerts": Alerts,
    "evidence": Evidence,
    "spool": Spool,
}


@pytest.fixture(autouse=True)
def own_scrubber(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "scrubber", scrubber.Scrubber())


def uncommented() -> str:
    """Return the example with each default uncommented."""
    return re.sub(r"^# ([a-z_]+ = )", r"\1", EXAMPLE, flags=re.MULTILINE)


def written() -> dict[str, Any]:
    return tomllib.loads(uncommented())


def shown(section: str) -> dict[str, Any]:
    """Return the keys of a table that the example sets, not commented out."""
    kind, _, name = section.partition(".")
    found: dict[str, Any] = tomllib.loads(EXAMPLE)[kind][name]
    return found


def without_default() -> set[tuple[str, str]]:
    """Return the section and key of each line marked as without a default."""
    found, section = set(), ""
    for line in uncommented().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line.endswith(NONE):
            found.add((section, line.partition(" = ")[0]))
    return found


def peers() -> Iterator[tuple[str, type[PeerSettings], dict[str, Any]]]:
    """Yield the section, the settings and the written keys of every source and sink."""
    for kind, members in TYPES.items():
        for name, table in written()[kind].items():
            yield f"{kind}.{name}", members[table["type"]], table


def member_of(settings: PeerSettings) -> str:
    """Return the file or folder of ``sources`` or ``sinks`` that *settings* belong to."""
    return ".".join(type(settings).__module__.split(".")[:3])


def test_the_example_loads_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(EXAMPLE)
    found = load(file, ENVIRON)
    found.require_work()
    assert found.warnings == ()
    assert {member_of(each) for each in found.sources.values()} == {
        f"auditrelay.sources.{name}" for name in SOURCES
    }
    assert {member_of(each) for each in found.sinks.values()} == {
        f"auditrelay.sinks.{name}" for name in SINKS
    }


def test_the_committed_file_is_made_of_the_examples() -> None:
    """A type that came later may be missing in it until ``make generate``."""
    rest = COMMITTED.read_text()
    types = set(re.findall(r'^type = "(.*)"', rest, flags=re.MULTILINE))
    own = {
        **examples.tables(auditrelay.sources),
        **examples.tables(auditrelay.sinks),
    }
    assert types <= own.keys()
    frame = [value for name, value in vars(examples).items() if re.fullmatch("_[A-Z_]+", name)]
    for part in (*frame, *(own[name] for name in types)):
        assert rest.count(part) == 1, part
        rest = rest.replace(part, "")
    assert not rest.strip()


def test_every_key_of_every_component_is_in_the_example() -> None:
    first: dict[str, dict[str, Any]] = {}
    for section, settings, table in peers():
        common = first.setdefault(section.partition(".")[0], table)
        for key in settings.model_fields:
            assert key in table or key in common, f"{section}.{key}"
        # A key explained only in the first table has the same default in both.
        for key in set(settings.model_fields) - set(table):
            field = settings.model_fields[key]
            if field.default is None:
                continue
            value = settings(**{**shown(section), key: common[key]})
            assert getattr(value, key) == field.default, f"{section}.{key}"


def test_every_key_in_the_example_is_known() -> None:
    for section, settings, table in peers():
        assert set(table) <= set(settings.model_fields), section
    assert set(written()) == set(ConfigFile.model_fields)


def test_every_value_in_the_example_is_the_default() -> None:
    marked = without_default()
    for section, settings, table in peers():
        for key, value in table.items():
            field = settings.model_fields[key]
            if field.is_required():
                continue
            if field.default is None:
                is_shown = key in shown(section)
                assert (section, key) in marked or is_shown, f"{section}.{key} has no default"
                continue
            assert (section, key) not in marked, f"{section}.{key} has a default"
            made = settings(**{**shown(section), key: value})
            assert getattr(made, key) == field.default, f"{section}.{key}"


def test_the_plain_tables_are_complete_and_show_the_defaults() -> None:
    marked = without_default()
    for name, model in PLAIN.items():
        assert set(written()[name]) == set(model.model_fields)
        given = {key: each for key, each in written()[name].items() if (name, key) not in marked}
        assert model(**given) == model()
        assert all(
            model.model_fields[key].default is None for key in written()[name].keys() - given
        )


@pytest.mark.parametrize("section", [section for section, _, _ in peers()])
def test_every_line_of_the_example_can_be_set(section: str, tmp_path: Path) -> None:
    """Alone; or the error names it, and the other key that it excludes or needs."""
    file, readable = tmp_path / "c.toml", tmp_path / "x.pem"
    readable.touch()
    kind, _, name = section.partition(".")
    common = next(table for first, _, table in peers() if first.startswith(kind))
    (settings, table) = next((each, own) for it, each, own in peers() if it == section)
    source = next(each for each, _, _ in peers())
    tables = {source: shown(source), section: {}}
    excluded: dict[str, set[str]] = {}
    for key in settings.model_fields:
        value = table.get(key, common.get(key))
        if key in ("ca_file", "client_cert", "client_key"):
            value = str(readable)
        tables[section] = {**shown(section), key: value}
        if key == "sources":
            tables[section][key] = [source.partition(".")[2]]
        file.write_text("\n".join(_toml(each, tables[each]) for each in tables))
        try:
            found = load(file, ENVIRON)
        except ConfigError as error:
            named = {each for each in settings.model_fields if each in str(error)}
            excluded[key] = named
            continue
        made: Any = getattr(found, kind)[name]
        assert key in made.model_fields_set
        if isinstance(getattr(made, key), Secret):
            assert getattr(made, key).reveal() == SECRET
    assert all(key in named and len(named) > 1 for key, named in excluded.items()), excluded


def _toml(section: str, table: Mapping[str, Any]) -> str:
    return "\n".join([f"[{section}]", *(f"{key} = {_value(table[key])}" for key in table), ""])


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + " }"
    return json.dumps(value)
