"""
A new source, or a new sink, is its own files: no file that exists is changed, and none lists it.

The folder ``newcomers`` has the files of a vendor and of a SIEM that do not exist, each where
CONTRIBUTING says. A copy of the tree with them has to pass what the tree itself has to pass.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.extent import ALL

from auditrelay.sources import available

pytestmark = [pytest.mark.process, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
NEWCOMERS = Path(__file__).parent / "newcomers"
MOST_FILES = {"source": 5, "sink": 4}
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")


def files_of(newcomer: str) -> list[Path]:
    """Return the files of the source or the sink, as paths in the tree."""
    folder = NEWCOMERS / newcomer
    return sorted(
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a copy of the tree with both."""
    copy = tmp_path_factory.mktemp("newcomers") / "tree"
    # What is compiled is valid in the copy, too, except for what is being written: *.pyc.123.
    left_out = shutil.ignore_patterns(
        ".git", ".venv*", "*_cache", "*.pyc.*", ".hypothesis", "target", "build"
    )
    shutil.copytree(ROOT, copy, ignore=left_out, symlinks=True)
    for newcomer in MOST_FILES:
        for path in files_of(newcomer):
            assert not (copy / path).exists(), f"{path} exists: a newcomer changes no file"
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(NEWCOMERS / newcomer / path, copy / path)
    yield copy
    shutil.rmtree(copy)


def run(tree: Path, *words: str) -> str:
    """Run ``python -m words...`` in *tree*; it must succeed. Return its output."""
    ended = subprocess.run(
        [sys.executable, "-m", *words],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree / "src")},
    )
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-6000:]
    return ended.stdout


def passed_in(tree: Path, *words: str) -> list[str]:
    """Run pytest in *tree*; return the names of the tests that passed."""
    # In one process: each worker would import all and collect all again.
    output = run(tree, "pytest", "-v", "-p", "no:cacheprovider", "-n", "0", *words)
    return re.findall(r"^(\S.*) PASSED\b", output, re.MULTILINE)


@pytest.mark.parametrize(("newcomer", "most"), MOST_FILES.items())
def test_it_takes_few_files_and_contributing_names_each_of_them(newcomer: str, most: int) -> None:
    files = files_of(newcomer)
    assert 0 < len(files) <= most
    section = CONTRIBUTING.partition(f"\n## Add a {newcomer}\n")[2].partition("\n## ")[0]
    named = {
        path for path in re.findall(r"`((?:src|tests|docs)/[^`]+)`", section) if "<type>" in path
    }
    patterns = [
        re.escape(path).replace("<type>", r"\w+").replace("<case>", r"\w+") for path in named
    ]
    for path in files:
        assert any(re.fullmatch(pattern, str(path)) for pattern in patterns), path
    for pattern in patterns:
        assert any(re.fullmatch(pattern, str(path)) for path in files), pattern


def test_the_daemon_reads_the_source_and_sends_to_the_sink_and_the_demo_shows_both(
    tree: Path,
) -> None:
    output = run(tree, "auditrelay", "demo", "--duration", "2s")
    assert "Nothing is lost." in output
    head, initech = _cells(output, "^┃ vendor .*$"), _cells(output, "^│ initech .*$")
    assert head[-4:] == ["splunk", "datadog", "elastic", "globex"]
    made, requests, _, *stored = map(_number, initech[1:])
    assert made > 100
    assert requests > 1
    assert stored[-1] == made
    all_made, all_stored, dead, lost, repeated = map(_number, _cells(output, "^│ globex .*$")[1:])
    assert all_stored >= all_made > made
    assert (dead, lost, repeated) == (0, 0, 0)


def _cells(output: str, pattern: str) -> list[str]:
    (row,) = re.findall(pattern, output, re.MULTILINE)
    return [cell.strip() for cell in re.split("[│┃]", row)[1:-1]]


def _number(cell: str) -> int:
    return int(cell.replace(",", ""))


def test_the_sandbox_serves_both(tree: Path) -> None:
    words = " ".join(run(tree, "auditrelay.sandbox", "--help").split())
    assert "splunk, datadog, elastic, globex, then the vendors" in words


def test_init_and_the_example_show_both(tree: Path) -> None:
    run(tree, "auditrelay", "init", "new.toml")
    example = run(tree, "auditrelay.config.example")
    for text in ((tree / "new.toml").read_text(), example):
        assert 'type = "initech"' in text
        assert 'type = "globex"' in text
    schema = run(tree, "auditrelay", "schema")
    assert '"const": "initech"' in schema
    assert '"const": "globex"' in schema


def _tests(folder: str, names: str) -> Iterator[str]:
    return (f"{folder}/test_{name}.py" for name in names.split())


FAR = (
    *("collect", "contract", "deliver", "evidence", "fuzz", "http", "packaging", "promises"),
    *("sandbox", "settings", "simulation", "sinks", "sources/described", "status/page", "store"),
    *("supervisor", "system", "telemetry"),
    *_tests("events/forms", "derived forms nesting ocsf"),
    *_tests("cli", "check coverage dead_letters description json_text probes remote status times"),
    *_tests("descriptions", "add_your_vendor auth_rules broken docs examples holes mapping schema"),
    *_tests("descriptions", "seeds settings times"),
    *_tests("events", "addresses careful changes classify decode frozen gate large normalize"),
    *_tests("events", "page pseudonyms redact redaction_time reduced secrets timestamps uid"),
    *_tests("service", "alerts app commands control_socket desk heap reopen store systemd"),
    *_tests("status", "access findings golden idle_server lateness model port report"),
    *_tests(".", "clock confirmed_time sizes window words"),
    *(f"sources/{name}" for name in available()),
    *_tests("sources", " ".join(available())),
    *_tests("events/vendors", " ".join(available())),
)
"""
Tests that no list of sources or sinks can fail, or that run elsewhere.

They are of one source or sink, or of what knows none of them, or run for the newcomers by name.
"""


@pytest.mark.skipif(not ALL, reason="two minutes; the tests below have what each newcomer meets")
def test_the_unit_tests_pass_with_them(tree: Path) -> None:
    """Of the documents, the configuration, the templates, the forms...: none of them has a list."""
    ignored = [f"--ignore=tests/{path}" for path in FAR]
    assert len(passed_in(tree, "-m", "not process and not slow", *ignored)) > 900


def test_the_contracts_are_tested_against_them(tree: Path) -> None:
    folders = ("sources", "sinks", "test_bugs.py")
    paths = (*(f"tests/contract/{each}" for each in folders), "tests/events", "tests/simulation")
    passed = passed_in(tree, *paths, "-k", "initech or globex or any_json")
    assert sum("initech" in name for name in passed) > 120
    assert sum("globex" in name for name in passed) > 50


def test_the_generated_files_are_right_before_and_after_they_are_generated_again(
    tree: Path,
) -> None:
    example, props = tree / "config.example.toml", "siem/splunk/TA-auditrelay/default/props.conf"
    assert "globex" not in example.read_text()
    example.write_text(run(tree, "auditrelay.config.example"))
    (tree / props).write_text(run(tree, "siem.splunk.props"))
    assert "[auditrelay:initech:audit]" in (tree / props).read_text()
    modules = ("tests/config/test_example.py", "tests/siem/test_splunk.py")
    assert len(passed_in(tree, *modules)) > 20


def test_a_sink_over_http_without_a_double_fails_the_contract(tree: Path) -> None:
    double = tree / "src/auditrelay/sandbox/siems/globex.py"
    kept = double.read_bytes()
    double.unlink()
    try:
        with pytest.raises(AssertionError, match="globex"):
            passed_in(
                tree,
                "tests/contract/sinks/test_contract.py::test_every_sink_over_http_has_a_double",
            )
    finally:
        double.write_bytes(kept)
