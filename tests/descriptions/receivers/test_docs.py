"""The reference of the language has every key of every table, and the walk is right."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docs import described
from tests.support.quill import FILE

from auditrelay.cli.description.receivers import meanings, wrong_examples
from auditrelay.descriptions import model as shared
from auditrelay.descriptions import shipped_receivers
from auditrelay.descriptions.receiver import model
from auditrelay.descriptions.receiver.load import read

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "receivers.md").read_text("utf-8")
WALK = (ROOT / "docs" / "add-your-receiver.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")

TABLES: dict[str, type[shared.Table]] = {
    "The top": model.ReceiverFile,
    "`[settings.NAME]`": model.ReceiverSetting,
    "`[request]`": model.Request,
    "`[body]`": model.Body,
    "`[item]`": model.ItemTable,
    "`[streams]`": model.Streams,
    "`[limits]`": model.Limits,
    "`[age]`": model.Age,
    "`[success]`": model.Success,
    "`[items]`": model.Items,
    "`[count]`": model.Count,
    "`[[on]]`": model.On,
    "`[wait]`": model.Wait,
    "`[key]`": model.Key,
    "`[check]`": model.Check,
    "`[defaults]`": model.Defaults,
    "`[[examples]]`": model.Example,
}
"""The table below each heading."""

OF_TABLES = {
    *("settings", "secrets", "request", "auth", "body", "item", "streams", "limits", "age"),
    *("success", "items", "count", "on", "wait", "key", "check", "defaults", "examples"),
}
"""Keys of the file that are tables with a heading of their own."""


def documented(heading: str) -> Iterator[tuple[str, str]]:
    """Yield each key in the table below *heading*, and its default."""
    [section] = re.findall(
        rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL
    )
    yield from re.findall(r"^\| `(\w+)` \| (.+?) \|", section, re.MULTILINE)


def default(shown: str) -> Any:
    """Return the default that the page shows, as it is in a file."""
    return None if shown == "none" else tomllib.loads(f"x = {shown.strip('`')}")["x"]


@pytest.mark.parametrize("heading", TABLES)
def test_every_key_is_documented_with_its_default(heading: str) -> None:
    table = TABLES[heading]
    own = {
        name: field
        for name, field in table.model_fields.items()
        if not (table is model.ReceiverFile and name in OF_TABLES)
    }
    found = dict(documented(heading))
    assert set(found) == set(own)
    for key, field in own.items():
        if field.is_required():
            assert found[key] == "required", key
        else:
            value = field.get_default(call_default_factory=True)
            plain = list(value) if isinstance(value, tuple) else value
            assert default(found[key]) == (None if plain == {} else plain), key


def test_every_table_of_the_language_is_documented() -> None:
    every = {
        each
        for each in vars(model).values()
        if isinstance(each, type) and each.__module__ == model.__name__
    }
    assert every - set(TABLES.values()) == {model.NoAuth}
    for name in OF_TABLES:
        assert re.search(rf"^#+ `\[\[?{name}(\.NAME)?\]\]?`$", PAGE, re.MULTILINE), name


# --- add your receiver ---------------------------------------------------------------------------


def test_the_file_of_the_walk_is_the_made_up_receiver() -> None:
    [block] = [
        each
        for each in re.findall(r"^```toml\n(.*?)^```", WALK, re.MULTILINE | re.DOTALL)
        if each.startswith("receiver")
    ]
    assert block == FILE.read_text("utf-8")
    assert list(wrong_examples(read(FILE).file)) == []


def test_the_walk_shows_what_answers_are_taken_for() -> None:
    [block] = re.findall(r"^```\n(200 with.*?)^```", WALK, re.MULTILINE | re.DOTALL)
    assert block.splitlines() == list(meanings(read(FILE).file))


# --- the shipped ones ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped_receivers())
def test_the_page_of_a_receiver_is_what_its_file_says(name: str) -> None:
    page = (ROOT / "docs" / "sinks" / f"{name}.md").read_text("utf-8")
    assert page == described.receiver_page(name), "`make generate` writes it"
    assert described.receiver_row(name) in README.splitlines()
