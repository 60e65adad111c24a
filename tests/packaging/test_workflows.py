"""The workflows of a public forge run what everybody runs, with no right that they do not need."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support import container

from release import notes

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.name)
def workflow(request: pytest.FixtureRequest) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(request.param.read_text("utf-8"))
    return read


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_a_workflow_runs_targets_that_there_are(workflow: dict[str, Any]) -> None:
    lines = [line for step in steps(workflow) for line in step.get("run", "").splitlines()]
    calls = [re.search(r"(?:^|\" )make (.*)", line.strip()) for line in lines]
    called = {word for call in calls if call for word in call[1].split() if word.islower()}
    assert "release-test" in called
    assert {each for each in called if re.fullmatch(r"[a-z-]+", each)} - {"--silent"} <= TARGETS


def test_a_job_has_an_end_and_reads_only_unless_it_says_so(workflow: dict[str, Any]) -> None:
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 90


def test_no_text_from_outside_is_pasted_into_a_script_and_no_token_is_left_in_the_tree(
    workflow: dict[str, Any],
) -> None:
    for step in steps(workflow):
        assert "${{" not in step.get("run", ""), "hand it on by env"
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_where_to_publish_is_said_by_variables_and_no_digest_is_invented() -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text("utf-8")
    assert not re.search(r"[0-9a-f]{40}", text)
    release = yaml.safe_load(text)
    assert release["jobs"]["index"]["if"] == "vars.PACKAGE_INDEX_URL != ''"
    pushes = [each for each in steps(release) if "docker push" in each.get("run", "")]
    assert [each["if"] for each in pushes] == ["vars.IMAGE_REPOSITORY != ''"]
    assert not re.search(r"docker login (?!\"\$\{IMAGE)", text)


def test_what_is_published_is_tested_and_not_skipped(workflow: dict[str, Any]) -> None:
    """In a container without privileges there are no namespaces: nothing of the .deb is tested."""
    tests = [
        (job, step["run"])
        for job in workflow["jobs"].values()
        for step in job["steps"]
        if re.search(r"make (release|image)-test", step.get("run", ""))
    ]
    assert tests
    for job, run in tests:
        assert job["env"][container.VARIABLE] == container.REQUIRED
        assert "sudo" not in run or re.search(rf"--preserve-env=\S*{container.VARIABLE}", run)
        assert "container" not in job or job["container"]["options"] == "--privileged"


def test_where_it_is_required_what_cannot_be_tested_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(container.VARIABLE, raising=False)
    with pytest.raises(pytest.skip.Exception, match="no namespaces"):
        container.untested("no namespaces")
    monkeypatch.setenv(container.VARIABLE, container.REQUIRED)
    with pytest.raises(pytest.fail.Exception, match="no namespaces, and TEST_RELEASE=required"):
        container.untested("no namespaces")


# --- the notes of a release --------------------------------------------------------------------

CHANGELOG = """# Changelog

<!-- releases -->

## [0.2.0] 2026-12-01

### Added

- Everything.

## [0.1.0] 2026-01-01

- Nothing.
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "changelog.d").mkdir()
    (tmp_path / "changelog.d" / "README.md").write_text("")
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    return tmp_path


def test_the_notes_are_the_section_of_the_version(tree: Path) -> None:
    assert notes.notes("v0.2.0", tree, "0.2.0") == "### Added\n\n- Everything.\n"
    assert notes.notes("v0.1.0", tree, "0.1.0") == "- Nothing.\n"


def test_a_tag_of_another_version_is_refused(tree: Path) -> None:
    with pytest.raises(notes.NotReady, match=r"v0\.2\.1.*0\.2\.0"):
        notes.notes("v0.2.1", tree, "0.2.0")


def test_fragments_that_are_left_and_a_missing_section_are_refused(tree: Path) -> None:
    with pytest.raises(notes.NotReady, match="no section"):
        notes.notes("v0.3.0", tree, "0.3.0")
    (tree / "changelog.d" / "+left.added.md").write_text("Left.")
    with pytest.raises(notes.NotReady, match="1 fragments"):
        notes.notes("v0.2.0", tree, "0.2.0")
