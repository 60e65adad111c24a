"""Imports point one way, as the import rule in CONTRIBUTING says."""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "auditrelay"
CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"

RULE = re.search(r"^```\n(cli -> .*)\n```$", CONTRIBUTING.read_text("utf-8"), re.MULTILINE)
"""The import rule, a line of CONTRIBUTING: each part may import the parts to its right."""

assert RULE is not None
RUNGS = [[part.strip() for part in rung.strip("{} ").split(",")] for rung in RULE[1].split("->")]
LEVEL = {part: number for number, rung in enumerate(RUNGS) for part in rung}
ABOVE, BELOW = {"__main__", "healthcheck"}, {"__init__"}
"""Entry points, which nothing imports, and the version, which everything may."""

AUDITOR = ROOT / "evidence" / "auditor"

MODULES = sorted(ROOT.rglob("*.py"))


def name_of(module: Path) -> str:
    return str(module.relative_to(ROOT).with_suffix(""))


def part_of(module: Path) -> str:
    return module.relative_to(ROOT).with_suffix("").parts[0]


@cache
def tree_of(module: Path) -> ast.Module:
    return ast.parse(module.read_text("utf-8"))


@cache
def imported(module: Path) -> tuple[str, ...]:
    """Return the path of each of our own modules that *module* imports: ``sinks/datadog``."""
    return tuple(_imported(module))


def _imported(module: Path) -> Iterator[str]:
    for node in ast.walk(tree_of(module)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if module.parent == AUDITOR:  # it also runs where there is no auditrelay
                assert node.level == 1 or origin.partition(".")[0] in sys.stdlib_module_names
                origin = "auditrelay.evidence.auditor." * node.level + origin
            else:
                assert node.level == 0, "an import names its module in full"
            names = [f"{origin.removesuffix('.')}.{alias.name}" for alias in node.names]
        for name in names:
            first, *rest = name.split(".")
            if first != "auditrelay":
                continue
            while rest and not _exists(rest):
                rest.pop()  # the last part is a name in the module, not a module
            yield "/".join(rest) or "__init__"


def _exists(parts: list[str]) -> bool:
    path = ROOT.joinpath(*parts)
    return path.is_dir() or path.with_suffix(".py").is_file()


def test_every_part_has_its_place() -> None:
    parts = {part_of(module) for module in MODULES}
    assert parts == {*LEVEL, *ABOVE, *BELOW, "sandbox"}
    files = {path.name for path in ROOT.iterdir() if path.is_file()}
    root = (*ABOVE, *BELOW, "clock", "confirmed_time", "errors", "files", "process", "window")
    assert files == {f"{name}.py" for name in root} | {"py.typed"}


def test_every_module_has_a_docstring() -> None:
    assert [name_of(module) for module in MODULES if not ast.get_docstring(tree_of(module))] == []


def test_imports_point_one_way() -> None:
    wrong = [
        f"{name_of(module)} imports {other}"
        for module in MODULES
        if part_of(module) != "sandbox"
        for other in imported(module)
        if not _may_import(module, other)
    ]
    assert wrong == []


def _may_import(module: Path, other: str) -> bool:
    part, target = part_of(module), other.split("/", maxsplit=1)[0]
    if target == "sandbox":  # only these two serve the doubles
        return name_of(module).startswith(("cli/demo", "cli/description/replay"))
    if target == part or target in BELOW:
        return True
    return LEVEL[target] > (-1 if part in ABOVE else LEVEL[part])


def test_what_checks_the_evidence_shares_no_code_with_what_writes_it() -> None:
    users = {
        name_of(module)
        for module in MODULES
        for other in imported(module)
        if other.startswith("evidence/auditor") and module.parent != AUDITOR
    }
    assert users == {"cli/evidence"}


def test_there_are_no_import_cycles() -> None:
    """Neither for an annotation nor inside a function: such modules are one idea in two files."""
    graph = {name_of(module): set(needed(module)) for module in MODULES}
    assert {name for names in graph.values() for name in names} <= set(graph)
    cycle: list[str] = []
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        cycle = error.args[1]
    assert not cycle, " imports ".join(reversed(cycle))


def needed(module: Path) -> Iterator[str]:
    """
    Yield the name of each module that runs before *module* does, because *module* imports it.

    With a module of another folder comes that folder's ``__init__``, and those above it.
    """
    for name in imported(module):
        path = ROOT / name
        yield f"{name}/__init__" if path.is_dir() else name
        for folder in path.parents:
            if module.is_relative_to(folder):
                break
            yield f"{folder.relative_to(ROOT)}/__init__"


@pytest.mark.parametrize(
    "folder", ["sources", "sinks", "events/vendors", "sandbox/siems", "sandbox/vendors"]
)
def test_members_of_a_folder_do_not_import_each_other(folder: str) -> None:
    """A member is a file or a folder; ``__init__`` and ``_names`` are shared by all."""
    members: dict[str, set[str]] = {}
    for module in MODULES:
        if name_of(module).startswith(f"{folder}/"):
            known = {member_of(folder, name) for name in imported(module)}
            members.setdefault(member_of(folder, name_of(module)), set()).update(known)
    names = {name for name in members if not name.startswith("_")}
    assert len(names) > 2
    for member in names:
        assert not members[member] & names - {member}, f"{folder}/{member}"


def member_of(folder: str, name: str) -> str:
    """Return which member of *folder* the module *name* belongs to; empty if to none."""
    inside = name.removeprefix(f"{folder}/")
    return "" if inside == name else inside.split("/")[0]


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("sources", "store"),
        ("sinks", "store"),
        ("http", "store"),
        ("collect", "sinks"),
        ("deliver", "sources"),
    ],
)
def test_some_parts_do_not_import_what_the_line_would_allow(part: str, other: str) -> None:
    modules = list((ROOT / part).rglob("*.py"))
    assert modules
    for module in modules:
        assert not [name for name in imported(module) if name.split("/")[0] == other], module


def test_the_sandbox_imports_nothing_outside_itself() -> None:
    members = [module for module in MODULES if part_of(module) == "sandbox"]
    assert members
    for module in members:
        others = [name for name in imported(module) if name.split("/")[0] != "sandbox"]
        assert not others, f"{name_of(module)} imports {others}"


def test_few_know_which_engine_the_store_has() -> None:
    knows = {
        name_of(module)
        for module in MODULES
        if any(name.startswith("store/sqlite") for name in imported(module))
    }
    inside = {name for name in knows if name.startswith("store/sqlite/")}
    # cli/store copies a state from SQLite to PostgreSQL, with service/shared.
    assert knows - inside == {"service/state", "service/shared", "cli/store"}


@pytest.mark.parametrize(
    ("part", "others"),
    [
        ("store/sql", ("store/sqlite", "store/postgres")),
        ("store/sqlite", ("store/postgres",)),
        ("store/postgres", ("store/sqlite",)),
    ],
)
def test_the_logic_of_the_store_knows_no_engine_and_an_engine_not_the_other(
    part: str, others: tuple[str, ...]
) -> None:
    modules = list((ROOT / part).rglob("*.py"))
    assert modules
    for module in modules:
        known = [name for name in imported(module) if f"{name}/".startswith(others)]
        assert not known, f"{name_of(module)} imports {known}"
