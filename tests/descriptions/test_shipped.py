"""The descriptions that come with auditrelay are right, and never give a known event a new id."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from tests.descriptions.acme import PARTS, described, write

from auditrelay import config, sources
from auditrelay.descriptions import REST, shipped
from auditrelay.descriptions.example import example
from auditrelay.descriptions.identity import identity
from auditrelay.descriptions.load import named
from auditrelay.descriptions.settings import settings_class

LOCK = Path(__file__).parent / "identity.json"
WRITE = "AUDITRELAY_WRITE_LOCK"


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_description_has_no_problem_and_its_name_is_the_vendor(name: str) -> None:
    description = named(name)
    assert description.file.vendor == name
    assert description.file.replaces is None
    for feed in description.feeds or (None,):
        made = settings_class(description.feed(feed), name)
        keys: dict[str, Any] = {"type": name}
        keys |= {key: each.example for key, each in description.file.settings.items()}
        keys |= dict.fromkeys(description.file.secrets, "a-pretend-secret")
        settings = made.model_validate({**keys, **({"feed": feed} if feed else {})})
        assert settings.base_url.startswith("https://")


@pytest.mark.parametrize("name", shipped())
def test_the_example_of_a_shipped_description_is_a_configuration(name: str, tmp_path: Path) -> None:
    table = example(name, named(name))
    file = write(tmp_path, f'{table}[sinks.out]\ntype = "file"\npath = "-"\n', "a.toml")
    secrets = dict.fromkeys(re.findall(r"\$\{env:(\w+)\}", table), "a-pretend-secret")
    loaded = config.load(file, {"HOME": "/home/op", **secrets})
    [settings] = loaded.sources.values()
    assert (settings.type, loaded.warnings) == (name, ())
    assert len(max(table.splitlines(), key=len)) <= 130


def test_no_type_has_two_meanings() -> None:
    assert not {*shipped(), REST} & set(sources.available())
    assert REST not in shipped()


def test_what_ids_are_made_of_is_locked() -> None:
    """
    An event that was forwarded under another uid would be forwarded again, on every instance.

    AUDITRELAY_WRITE_LOCK=1 adds descriptions that are new. It changes none that is known: only a
    description that was in no release may be taken out of the file by hand.
    """
    locked = json.loads(LOCK.read_text("utf-8"))
    made = {name: identity(named(name).file) for name in shipped()}
    if WRITE in os.environ:
        locked = {**made, **locked}
        LOCK.write_text(json.dumps(locked, indent=1, sort_keys=True) + "\n", "utf-8")
    assert made == locked, f"ids would change, or a new description needs {WRITE}=1"


@pytest.mark.parametrize(
    "changed",
    [
        {"top": PARTS["top"].replace('"acme"', '"acme2"')},
        {"records": PARTS["records"].replace('"id"', '"uuid"')},
        {"records": PARTS["records"].replace('id = "id"', 'id_parts = ["id", "at"]')},
        {"records": PARTS["records"].replace('id = "id"', "no_id = true")},
        {"records": PARTS["records"].rstrip() + '\norganisation = "org"\n'},
        {"records": PARTS["records"].rstrip() + '\nsplit = "events"\n'},
        {
            "settings": PARTS["settings"]
            + '[settings.t]\nabout = "x"\nexample = "x"\nscope = true\n'
        },
        {"feeds": '[feeds.a]\nabout = "x"\n'},
    ],
)
def test_the_lock_sees_what_changes_ids(changed: dict[str, str], tmp_path: Path) -> None:
    assert identity(described(tmp_path, **changed).file) != identity(described(tmp_path).file)


@pytest.mark.parametrize(
    "changed",
    [
        {"request": PARTS["request"].replace("/v1/", "/v2/")},
        {"records": PARTS["records"].replace('"items"', '"data"')},
        {"event": PARTS["event"].replace('"who.id"', '["who.id", "who.name"]')},
        {"actions": ""},
    ],
)
def test_the_lock_lets_everything_else_improve(changed: dict[str, str], tmp_path: Path) -> None:
    assert identity(described(tmp_path, **changed).file) == identity(described(tmp_path).file)


def test_the_identity_names_the_settings_of_the_host_where_nothing_else_is_a_scope(
    tmp_path: Path,
) -> None:
    parts = {"settings": PARTS["settings"].replace("scope = true", "")}
    assert identity(described(tmp_path, **parts).file) == {
        "vendor": "acme",
        "feeds": {"": {"scope": ["domain"], "id": ["id"]}},
    }
