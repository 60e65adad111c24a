"""Imports point one way: from what knows everything down to what knows nothing."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "auditrelay"

LEVELS = (
    ("__main__", "healthcheck"),
    ("cli",),
    ("app",),
    ("operations", "alerts"),
    ("parts",),
    ("verify", "status", "supervise"),
    ("backfill",),
    ("collect", "deliver", "control"),
    ("cover",),
    ("config", "walk", "lateness"),
    ("sources", "sinks", "store"),
    ("exports",),
    ("events",),
    ("http", "session", "siem"),
    ("telemetry",),
    ("settings", "window", "pace"),
    ("errors",),
    ("__init__",),
)
"""Whoever stands in a line may import from the lines below it, and from nobody beside it."""

LEVEL = {part: number for number, line in enumerate(LEVELS) for part in line}

MODULES = sorted(ROOT.rglob("*.py"))


def name_of(module: Path) -> str:
    return str(module.relative_to(ROOT).with_suffix(""))


def part_of(module: Path) -> str:
    return module.relative_to(ROOT).with_suffix("").parts[0]


def imported(module: Path) -> Iterator[str]:
    """Yield the path of each of our own modules that *module* imports: ``sinks/datadog``."""
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "an import names its module in full"
            assert node.module is not None
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            first, *rest = name.split(".")
            if first != "auditrelay":
                continue
            while rest and not _exists(rest):
                rest.pop()  # what is left out is a name in the module, not a module
            yield "/".join(rest) or "__init__"


def _exists(parts: list[str]) -> bool:
    path = ROOT.joinpath(*parts)
    return path.is_dir() or path.with_suffix(".py").is_file()


def test_every_part_has_its_place() -> None:
    assert {part_of(module) for module in MODULES} == {*LEVEL, "sandbox"}


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_every_module_says_what_it_is_for(module: Path) -> None:
    assert ast.get_docstring(ast.parse(module.read_text("utf-8")))


@pytest.mark.parametrize(
    "module", [module for module in MODULES if part_of(module) != "sandbox"], ids=name_of
)
def test_imports_point_one_way(module: Path) -> None:
    part = part_of(module)
    for other in imported(module):
        target = other.split("/")[0]
        if target == "sandbox":
            assert name_of(module) == "cli/demo", "only the demo may know the doubles"
        elif target != part:
            assert LEVEL[target] > LEVEL[part], f"{name_of(module)} imports {other}"


@pytest.mark.parametrize("folder", ["sources", "sinks"])
def test_members_of_a_folder_do_not_know_each_other(folder: str) -> None:
    members = [module for module in MODULES if module.parent == ROOT / folder]
    assert len(members) > 2
    for module in members:
        others = [name for name in imported(module) if name.startswith(f"{folder}/")]
        assert not others, f"{name_of(module)} imports {others}"


def test_collecting_does_not_know_sinks_and_delivering_does_not_know_sources() -> None:
    assert not [name for name in imported(ROOT / "collect.py") if name.startswith("sinks")]
    assert not [name for name in imported(ROOT / "deliver.py") if name.startswith("sources")]


def test_the_sandbox_shares_nothing_with_what_it_plays_against() -> None:
    members = [module for module in MODULES if part_of(module) == "sandbox"]
    assert members
    for module in members:
        others = [name for name in imported(module) if name.split("/")[0] != "sandbox"]
        assert not others, f"{name_of(module)} imports {others}"
