"""What docs/add-your-vendor.md shows is right: the files, the reply, the words of the probes."""

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from tests.descriptions.acme import write

from auditrelay import config
from auditrelay.cli.description.conversations import conversations
from auditrelay.cli.description.replay import replay
from auditrelay.descriptions.load import read
from auditrelay.telemetry.scrubber import Scrubber

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "add-your-vendor.md").read_text("utf-8")
DESCRIPTION, CONFIGURATION = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
[REPLY] = re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)

ABOUT = """\
evidence = "made up"
about = "The page that the reader sees, and a second one."
page_size = 2
[settings]
site = "acme.kestrel.example"
[secrets]
key = "example-key"
[window]
start = 2026-03-01T09:00:00Z
end = 2026-03-01T11:00:00Z
"""


def exchange(folder: Path, number: int, query: dict[str, Any], body: Any) -> None:
    request = {
        "method": "GET",
        "path": "/rest/v3/security/journal",
        "query": list(query.items()),
        "headers": {"x-kestrel-key": "example-key"},
    }
    write(folder, json.dumps(request), f"{number}.request.json")
    write(folder, json.dumps({"status": 200, "body": body}), f"{number}.reply.json")


def test_the_description_reads_the_reply_that_is_shown(tmp_path: Path) -> None:
    file = write(tmp_path, DESCRIPTION, "kestrel.toml")
    folder = tmp_path / "examples" / "kestrel" / "two_pages"
    folder.mkdir(parents=True)
    write(folder, ABOUT, "about.toml")
    first = {"occurredFrom": "1772355599", "occurredTo": "1772362800", "rows": "2"}
    exchange(folder, 1, first, json.loads(REPLY))
    last = {"result": {"journal": {"entries": [], "more": False, "pointer": None}}}
    exchange(folder, 2, {**first, "pointer": "c2Vjb25kLXBhZ2U"}, last)
    [conversation] = conversations(file)
    done = replay(read(file), conversation)
    assert [each for each in done.problems if "events.json" not in each] == []
    meant = [(each.kind, each.verb, each.outcome, each.actor.email) for each in done.events]
    assert sorted(meant) == [
        ("session", "login", "success", "ana@acme.example"),
        ("user", "update", "success", "ana@acme.example"),
    ]
    [changed] = [each for each in done.events if each.changes]
    assert (changed.target.name, changed.native_action) == ("Ben Example", "Agent changed")
    assert {(bytes(each.unmapped or b"null"), each.warnings) for each in done.events} == {
        (b"null", ())
    }


def test_the_files_have_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "scrubber", Scrubber())
    description = read(write(tmp_path, DESCRIPTION, "kestrel.toml"))
    assert (description.notes, description.file.checked) == ((), date(2026, 11, 26))
    file = write(tmp_path, CONFIGURATION, "auditrelay.toml")
    file.chmod(0o600)
    loaded = config.load(file, {"HOME": str(tmp_path), "KESTREL_KEY": "a pretend key"})
    assert loaded.warnings == ()
    assert [each.type for each in loaded.sources.values()] == ["rest"]


@pytest.mark.parametrize(
    "words",
    [
        words
        for row in re.findall(r"^\| `([^`]+)` \|", PAGE.partition("## 4.")[2], re.MULTILINE)
        for words in row.split("...")
    ],
)
def test_the_words_that_are_explained_are_those_of_the_code(words: str) -> None:
    texts = [
        path.read_text("utf-8")
        for folder in ("cli/probes", "sources/described")
        for path in (ROOT / "src" / "auditrelay" / folder).glob("*.py")
    ]
    assert any(words.strip() in text for text in texts)
