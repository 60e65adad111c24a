"""config.example.toml and the starter of ``init`` load, and show the defaults."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from auditrelay import config
from auditrelay.cli.init import STARTER, init
from auditrelay.config import load
from auditrelay.config.model import SINKS, SOURCES, Alerts, Log, Spool, Status
from auditrelay.errors import ConfigError
from auditrelay.settings import PeerSettings
from auditrelay.settings.secrets import Secret
from auditrelay.telemetry import scrubber

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
NONE = "# no default"
ENVIRON = {
    "HOME": "/home/op",
    "CEKURA_API_KEY": "cekura-key-1",
    "BLAND_API_KEY": "bland-key-1",
    "JITSUDO_API_KEY": "jitsudo-key-1",
    "SLAUNCH_API_KEY": "slaunch-key-1",
    "CENCORI_COOKIE": "sb-acme-auth-token=cookie-1",
    "SPLUNK_HEC_TOKEN": "splunk-token-1",
    "DD_API_KEY": "datadog-key-1",
    "ELASTIC_API_KEY": "elastic-key-1",
}
CHOSEN = {"jitsudo": {"api_key"}, "slaunch": {"tenant"}, "cencori": {"directory"}}
"""The keys that the example sets where one of several is required."""
PLAIN: Mapping[str, type[BaseModel]] = {
    "status": Status,
    "log": Log,
    "alerts": Alerts,
    "spool": Spool,
}


@pytest.fixture(autouse=True)
def own_scrubber(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "scrubber", scrubber.Scrubber())


def uncommented() -> str:
    """Return the example with each default uncommented."""
    return re.sub(r"^# ([a-z_]+ = )", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE)


def written() -> dict[str, Any]:
    return tomllib.loads(uncommented())


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
    for kind, members in (("sources", SOURCES), ("sinks", SINKS)):
        for name, table in written()[kind].items():
            yield f"{kind}.{name}", members[table["type"]], table


def required(settings: type[PeerSettings], table: Mapping[str, Any]) -> dict[str, Any]:
    chosen = CHOSEN.get(table["type"], ())
    return {
        key: table[key]
        for key, field in settings.model_fields.items()
        if field.is_required() or key in chosen
    }


def member_of(settings: PeerSettings) -> str:
    """Return the file or folder of ``sources`` or ``sinks`` that *settings* belong to."""
    return ".".join(type(settings).__module__.split(".")[:3])


def test_the_example_loads_unchanged() -> None:
    found = load(EXAMPLE, ENVIRON)
    found.require_work()
    assert found.warnings == ()
    assert {member_of(each) for each in found.sources.values()} == {
        f"auditrelay.sources.{name}" for name in SOURCES
    }
    assert {member_of(each) for each in found.sinks.values()} == {
        f"auditrelay.sinks.{name}" for name in SINKS
    }


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
            value = settings(**{**required(settings, table), key: common[key]})
            assert getattr(value, key) == field.default, f"{section}.{key}"


def test_every_key_in_the_example_is_known() -> None:
    for section, settings, table in peers():
        assert set(table) <= set(settings.model_fields), section
    assert set(written()) == {"state_dir", *PLAIN, "sources", "sinks"}


def test_every_value_in_the_example_is_the_default() -> None:
    marked = without_default()
    for section, settings, table in peers():
        for key, value in table.items():
            field = settings.model_fields[key]
            if field.is_required():
                continue
            if field.default is None:
                kind, _, name = section.partition(".")
                shown = key in tomllib.loads(EXAMPLE.read_text())[kind][name]
                assert (section, key) in marked or shown, f"{section}.{key} has no default"
                continue
            assert (section, key) not in marked, f"{section}.{key} has a default"
            made = settings(**{**required(settings, table), key: value})
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


def other(key: str, default: Any, folder: Path) -> Any:
    """Return a value for *key* that is not its default, as written in a file."""
    special = {
        "ca_file": str(folder / "x.pem"),
        "client_cert": str(folder / "x.pem"),
        "client_key": str(folder / "x.pem"),
        "concurrency": 3,
        "format": "raw",
        "compression": "none",
        "redact": ["*pin*"],
        "pseudonymize": ["actor.email"],
        "resweep": ["2h"],
        "sources": ["acme-*"],
        "site": "datadoghq.eu",
        "max_age": "6h",
        "too_old": "dead_letter",
        "tags": {"env": "prod"},
        "urls": ["https://other.example"],
        "index": "other-index",
        "auth_scheme": "Bearer",
        "params": {"tag": "x"},
        "mode": "files",
        "directory": str(folder),
        "tenant_id": "11111111-2222-3333-4444-555555555555",
        "ack": True,
        "allow_insecure_http": True,
        "enabled": False,
    }
    if key in special:
        return special[key]
    if key in ("base_url", "url", "proxy"):
        return "https://other.example"
    if isinstance(default, int) or key in ("requests_per_minute", "rotate_bytes", "project_id"):
        return 77
    if key in _DURATIONS:
        return "11m"
    return f"other-{key}"


_DURATIONS = {
    "ack_timeout",
    "catch_up_limit",
    "retention",
    "initial_lookback",
    "linger",
    "max_silence",
    "max_window",
    "overlap",
    "poll_interval",
    "settle",
    "timeout",
}
ALONE = {
    # A key is set without the keys that it excludes.
    ("datadog", "site"): {"url"},
    ("elasticsearch", "api_key"): {"username", "password"},
    ("jitsudo", "api_key"): {"bearer_token"},
    ("slaunch", "base_url"): {"tenant"},
    ("cencori", "directory"): {"cookie"},
    ("file", "concurrency"): {"concurrency"},  # it has one value only
    ("file", "compression"): {"compression"},
}


@pytest.mark.parametrize(
    ("kind", "name"), [*(("sources", n) for n in SOURCES), *(("sinks", n) for n in SINKS)]
)
def test_every_key_that_is_set_is_loaded(kind: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "x.pem").touch()
    settings = {"sources": SOURCES, "sinks": SINKS}[kind][name]
    left_out = {key for (of, _), keys in ALONE.items() if of == name for key in keys}
    table: dict[str, Any] = {"type": name}
    for key, field in settings.model_fields.items():
        if key != "type" and key not in left_out:
            table[key] = other(key, field.default, tmp_path)
    if "max_window" in table:
        table["max_window"] = "29d"
    text = f"[{kind}.x]\n" + "\n".join(f"{key} = {_toml(value)}" for key, value in table.items())
    if kind == "sinks":
        text += '\n[sources.acme-x]\ntype = "bland"\napi_key = "other-key"\n'
    file = tmp_path / "c.toml"
    file.write_text(text)
    found = load(file, ENVIRON)
    made: Any = (found.sources if kind == "sources" else found.sinks)["x"]
    assert made.model_fields_set == set(table)
    for key in set(table) - {"type"}:
        value, default = getattr(made, key), settings.model_fields[key].default
        assert value != default, key
        if isinstance(value, Secret):
            assert value.reveal() == table[key]


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value)


# --- the starter of init -----------------------------------------------------------------------


def test_the_starter_loads_once_it_is_completed(tmp_path: Path) -> None:
    file = tmp_path / "auditrelay.toml"
    init(file)
    with pytest.raises(ConfigError) as caught:
        load(file, ENVIRON)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "sources.cekura.organization_id",
        "sinks.splunk.url",
    ]
    text = STARTER.replace('organization_id = ""', 'organization_id = "42"')
    file.write_text(text.replace('url = ""', 'url = "https://splunk.example:8088"'))
    found = load(file, ENVIRON)
    found.require_work()
    assert found.warnings == ()


def test_the_commented_parts_of_the_starter_load_too(tmp_path: Path) -> None:
    text = STARTER.replace('organization_id = ""', 'organization_id = "42"')
    text = text.replace('url = ""', 'url = "https://splunk.example:8088"')
    text = re.sub(r"^# (\[|[a-z_]+ = )", r"\1", text, flags=re.MULTILINE)
    file = tmp_path / "c.toml"
    file.write_text(text)
    found = load(file, ENVIRON)
    assert {each.type for each in found.sources.values()} == set(SOURCES)
    assert {each.type for each in found.sinks.values()} == set(SINKS)
