"""Splunk's own inspection of the add-on, with the dashboard in it, has nothing to say."""

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from tests.siem.seen import TA

from auditrelay import __version__

ROOT = Path(__file__).parents[2]
INSPECT = shutil.which(
    "splunk-appinspect", path=f"{ROOT}/.venv-appinspect/bin:{os.environ['PATH']}"
)
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(INSPECT is None, reason="no splunk-appinspect: make appinspect installs it"),
]


def inspected(app: Path, folder: Path) -> list[dict[str, Any]]:
    """Return the checks of the packed *app* that did not pass."""
    packed = folder / f"{app.name}.tgz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(app, app.name)
    report = folder / "report.json"
    subprocess.run(
        [
            *(str(INSPECT), "inspect", str(packed), "--mode", "precert"),
            *("--data-format", "json", "--output-file", str(report)),
        ],
        cwd=folder,
        capture_output=True,
        check=False,
        timeout=300,
    )
    (read,) = json.loads(report.read_bytes())["reports"]
    checks = [check for group in read["groups"] for check in group["checks"]]
    assert sum(check["result"] == "success" for check in checks) > 50
    return [
        each for each in checks if each["result"] not in ("success", "not_applicable", "skipped")
    ]


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The add-on as it is installed together with the dashboard."""
    app = tmp_path / TA.name
    shutil.copytree(TA, app)
    views = app / "default" / "data" / "ui" / "views"
    views.mkdir(parents=True)
    shutil.copy(ROOT / "monitoring" / "splunk.xml", views / "auditrelay_health.xml")
    return app


def test_the_add_on_passes_without_a_warning(app: Path, tmp_path: Path) -> None:
    assert inspected(app, tmp_path) == []


def test_a_mistake_would_be_found(app: Path, tmp_path: Path) -> None:
    conf = app / "default" / "app.conf"
    text = conf.read_text("utf-8")
    assert text.count(f"version = {__version__}\n") == 2
    conf.write_text(text.replace(f"version = {__version__}", "version = first"))
    assert "check_version_is_valid_semver" in {each["name"] for each in inspected(app, tmp_path)}
