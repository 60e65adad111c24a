"""The reference of the language has every key of every table, with its default."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.descriptions.acme import write

import auditrelay
from auditrelay.descriptions import model
from auditrelay.descriptions.load import read

PAGE = (Path(auditrelay.__file__).parents[2] / "docs" / "descriptions.md").read_text("utf-8")

TABLES: dict[str, type[model.Table]] = {
    "The top": model.DescriptionFile,
    "`[settings.NAME]`": model.Setting,
    "`[secrets.NAME]`": model.SecretSetting,
    '`kind = "header"`': model.HeaderAuth,
    '`kind = "headers"`': model.HeadersAuth,
    '`kind = "basic"`': model.BasicAuth,
    '`kind = "oauth2"`': model.OAuth2Auth,
    '`kind = "duo"`': model.DuoAuth,
    "`[request]`": model.Request,
    "`[time]`": model.Time,
    "`[pages]`": model.Pages,
    "`[records]`": model.Records,
    "`[limits]`": model.Limits,
    "`[errors]`": model.Errors,
    "`[defaults]`": model.Defaults,
    "`[event]`": model.EventPaths,
    "`[[event.actor]]`": model.ActorPaths,
    "`[[event.target]]`": model.TargetPaths,
    "`[event.changes]`": model.ChangePaths,
    "`[feeds.NAME]`": model.FeedTables,
}
"""The table below each heading."""

ELSEWHERE = {*model.TABLES, "settings", "secrets", "auth", "limits", "errors", "feeds"}
"""Keys of the file, and of a feed, that are tables with a heading of their own."""


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
        field.alias or name: field
        for name, field in table.model_fields.items()
        if not (issubclass(table, model.FeedTables) and name in ELSEWHERE)
    }
    found = dict(documented(heading))
    assert list(found) == list(dict.fromkeys(found)), "no key twice"
    assert set(found) == set(own)
    for key, field in own.items():
        if field.is_required():
            assert found[key] == "required", key
        else:
            plain = list(field.default) if isinstance(field.default, tuple) else field.default
            assert default(found[key]) == plain, key


def test_every_table_of_the_language_is_documented() -> None:
    every = {
        each
        for each in vars(model).values()
        if isinstance(each, type) and issubclass(each, model.Table)
    }
    assert every - set(TABLES.values()) == {model.Table, model.Feed}
    for name in ELSEWHERE:
        assert re.search(rf"^#+ `\[{name}(\.NAME)?\]`$", PAGE, re.MULTILINE), name


def test_the_whole_file_of_the_page_is_right(tmp_path: Path) -> None:
    [content] = [
        block
        for block in re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
        if block.startswith("vendor")
    ]
    assert read(write(tmp_path, content)).notes == ()
