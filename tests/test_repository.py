"""The repository around the code: hooks, editor settings, changelog fragments, issue forms."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def test_every_hook_before_a_commit_is_a_target_of_the_makefile() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    entries = [hook["entry"] for repo in config["repos"] for hook in repo["hooks"]]
    assert entries
    for entry in entries:
        program, target = entry.split()
        assert program == "make"
        assert target in TARGETS


def test_every_target_is_explained_and_declared() -> None:
    explained = set(re.findall(r"^#   make ([a-z-]+)", MAKEFILE, re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony
    assert set(phony[1].split()) == TARGETS
    assert TARGETS - explained == {"check-format", "check-lint", "check-types"}  # parts of check


@pytest.mark.process
@pytest.mark.parametrize(
    "command",
    re.findall(r"^\t@(.*\$\(BIN\)/python benchmarks/.*) \$\(BENCH\)$", MAKEFILE, re.MULTILINE),
)
def test_every_benchmark_of_the_makefile_starts(command: str) -> None:
    line = command.replace("$(BIN)/python", sys.executable) + " --help"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    shown = subprocess.run(
        ["sh", "-c", line], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("usage: ")


@pytest.mark.process
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("python", "words"),
    [("", "and there is none here."), ("/bin/false", "and /bin/false is none.")],
)
def test_without_a_python_make_says_what_to_install(
    tmp_path: Path, python: str, words: str
) -> None:
    ended = subprocess.run(
        ["make", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}", "demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode != 0
    assert words in ended.stderr
    assert "apt install python3-venv" in ended.stderr


def test_every_fragment_of_the_changelog_has_a_valid_name() -> None:
    for path in (ROOT / "changelog.d").iterdir():
        if path.name != "README.md":
            assert re.fullmatch(
                r"\+[a-z0-9-]+\.(added|changed|fixed|removed|security)\.md", path.name
            )
            assert path.read_text("utf-8").strip()


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github").rglob("*.yaml")), ids=lambda each: each.name
)
def test_every_issue_form_is_valid(path: Path) -> None:
    form = yaml.safe_load(path.read_text("utf-8"))
    assert {"name", "description", "body"} <= set(form)
    for field in form["body"]:
        assert field["type"] in {"markdown", "textarea", "input", "checkboxes"}
        assert "value" in field["attributes"] or "label" in field["attributes"]


def test_the_files_are_as_the_editor_settings_say() -> None:
    settings = (ROOT / ".editorconfig").read_text("utf-8")
    assert "end_of_line = lf" in settings
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "docs").rglob("*.md")]:
        data = path.read_bytes()
        assert b"\r" not in data, path
        assert not data or data.endswith(b"\n"), path
