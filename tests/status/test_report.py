"""The report: what it says of each source and sink, also of orphaned ones."""

from datetime import UTC, datetime
from pathlib import Path

from tests.support.stages import ENVIRON, SETTINGS

from auditrelay.config import load
from auditrelay.status.report import report


def test_the_key_for_pseudonyms_is_no_credential(tmp_path: Path) -> None:
    path = tmp_path / "auditrelay.toml"
    pseudonyms = (
        'pseudonymize = ["actor.email"]\npseudonym_key = "sixteen-letters-x"\n[sinks.splunk]'
    )
    path.write_text(
        SETTINGS.format(folder=tmp_path, room="1GiB").replace("[sinks.splunk]", pseudonyms)
    )
    config = load(path, {"HOME": str(tmp_path), **ENVIRON})
    shown = report(config, (), (), spool_bytes=0, now=datetime.now(UTC))
    assert [each["key"] for each in shown["sources"][2]["credentials"]] == ["api_key"]
