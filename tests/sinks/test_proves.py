"""What a success of each sink proves: its status says it as the README's table does."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.support.quill import FILE as QUILL

from auditrelay.config import load
from auditrelay.descriptions import HTTP, shipped_receivers
from auditrelay.sinks import available
from auditrelay.status.report import report

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
ROWS = re.findall(
    r"^\| \[.+?\]\(docs/sinks/\w+\.md\).*? \| `(\w+)` \|.*?\|(.*?)\|", README, re.MULTILINE
)
SINKS = {
    "splunk_hec": ['url = "https://s.example.com"\ntoken = "t-1234567"', "ack = true"],
    "datadog": ['api_key = "k-1234567"'],
    "elasticsearch": ['urls = ["https://e.example.com"]\napi_key = "a:b-1234567"'],
    "azure_logs": [
        f'endpoint = "https://a.example.com"\nrule_id = "dcr-{"0" * 32}"\nidentity = "managed"'
    ],
    "otlp": ['endpoint = "https://c.example.com"'],
    "object_storage": ['bucket = "audit-archive"\nregion = "eu-central-1"'],
    "file": ['path = "-"', 'path = "{folder}/events.ndjson"'],
    "new_relic": ['license_key = "k-1234567"'],
    "axiom": ['dataset = "audit"\ntoken = "k-1234567"'],
    "sumo": ['url = "https://s.example.com/receiver/v1/http/k-1234567"'],
    "dynatrace": ['environment = "abc12345"\ntoken = "k-1234567"'],
    "cortex": ['tenant = "acme"\napi_key = "k-1234567"'],
    "loki": ['url = "https://l.example.com"'],
    "http": [f'description = "{QUILL}"\nsite = "a.quill.example"\nkey = "k-1234567"'],
}
"""Of each type the keys that it needs, and those with which its success proves more."""
PROVED = [
    ("splunk_hec", 0, "taken"),
    ("splunk_hec", 1, "with `ack`: stored"),
    ("datadog", 0, "taken"),
    ("elasticsearch", 0, "stored"),
    ("azure_logs", 0, "taken"),
    ("object_storage", 0, "stored"),
    ("otlp", 0, "taken"),
    ("file", 0, "on stdout: nothing"),
    ("file", 1, "stored"),
    *((name, 0, "taken") for name in shipped_receivers()),
    ("http", 0, "as described: stored"),
]


def test_each_sink_is_in_the_table() -> None:
    assert sorted(name for name, _ in ROWS) == sorted(SINKS)
    assert set(SINKS) == {*available(), *shipped_receivers(), HTTP}


@pytest.mark.parametrize(("kind", "keys", "words"), PROVED)
def test_the_status_says_it_as_the_table(kind: str, keys: int, words: str, tmp_path: Path) -> None:
    needed, *more = SINKS[kind]
    chosen = more[keys - 1] if keys else needed
    lines = [chosen] if "path" in chosen else dict.fromkeys([needed, chosen])
    path = tmp_path / "auditrelay.toml"
    path.write_text(
        f'[sinks.here]\ntype = "{kind}"\n' + "\n".join(lines).format(folder=tmp_path) + "\n"
        '[sources.bland]\ntype = "bland"\napi_key = "b-1234567"\n'
    )
    now = datetime(2026, 3, 10, tzinfo=UTC)
    (row,) = report(load(path, {"HOME": str(tmp_path)}), (), (), spool_bytes=0, now=now).sinks
    assert row.proves == words.rpartition(" ")[2]
    assert words in dict(ROWS)[kind]
