"""The wheel, the installation and the locks agree with the sources and pyproject.toml."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.support.postgres import REQUIRED, VARIABLE
from tests.support.processes import MODULES

from auditrelay import __version__

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
RUNTIME, BUILD, DEVELOPER = (ROOT / f"requirements{kind}.txt" for kind in ("", "-build", "-dev"))

OWN_BINDING = {"pydantic-core"}
"""Imported and not declared: pydantic pins the one compatible version."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.process
def test_the_wheel_contains_every_module_and_the_types_marker_and_nothing_else(wheel: Path) -> None:
    source = ROOT / "src"
    wanted = {str(path.relative_to(source)) for path in source.rglob("*.*") if path.is_file()}
    wanted = {path for path in wanted if "__pycache__" not in path}
    assert "auditrelay/py.typed" in wanted
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == wanted


@pytest.mark.process
def test_the_wheel_has_the_version_the_licence_and_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inner = {name.partition(".dist-info/")[2]: name for name in archive.namelist()}
        about = archive.read(inner["METADATA"]).decode()
        entries = archive.read(inner["entry_points.txt"]).decode()
    assert f"\nVersion: {PROJECT['project']['version']}\n" in about
    assert "auditrelay = auditrelay.__main__:main" in entries
    assert "licenses/LICENSE" in inner


@pytest.mark.process
def test_the_command_is_installed_and_prints_the_version_of_the_project() -> None:
    command = Path(sys.executable).with_name("auditrelay")
    ended = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["auditrelay", __version__]
    assert __version__ == PROJECT["project"]["version"]


# --- dependencies ------------------------------------------------------------------------------


EXTRAS: list[str] = [*chain(*PROJECT["project"]["optional-dependencies"].values())]


def declared() -> dict[str, Requirement]:
    wanted = map(Requirement, [*PROJECT["project"]["dependencies"], *EXTRAS])
    return {canonicalize_name(each.name): each for each in wanted}


def third_parties() -> set[str]:
    """Return the distributions that the modules import from."""
    whose = metadata.packages_distributions()
    found: set[str] = set()
    for module in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                top = name.partition(".")[0]
                if top != "auditrelay" and top not in sys.stdlib_module_names:
                    found.update(canonicalize_name(each) for each in whose[top])
    return found


def test_the_imported_distributions_are_the_declared_ones() -> None:
    assert third_parties() - OWN_BINDING == set(declared())


WITHOUT = """
import importlib, sys
sys.modules.update(dict.fromkeys({missing!r}))  # each import of them fails
for name in {modules!r}:
    importlib.import_module(name)
"""


@pytest.mark.process
def test_without_the_extras_all_is_imported_but_what_needs_them() -> None:
    needs = ("auditrelay.store.postgres", "auditrelay.service.shared")
    missing = [Requirement(each).name for each in EXTRAS]
    assert missing == ["psycopg"]
    modules = [name for name in MODULES if not name.startswith(needs)]
    assert 100 < len(modules) < len(MODULES)
    code = WITHOUT.format(missing=missing, modules=modules)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


# --- locks -------------------------------------------------------------------------------------


def locked(path: Path) -> Iterator[tuple[Requirement, str]]:
    """Yield each requirement of a lock, and the hashes that follow it."""
    text = re.sub(r"^\s*#.*$", "", path.read_text("utf-8"), flags=re.MULTILINE)
    for entry in re.split(r"\n(?=\S)", text.replace("\\\n", " ").strip()):
        requirement, _, hashes = entry.partition("--hash=")
        yield Requirement(requirement.strip()), hashes


def pins(path: Path) -> dict[str, str]:
    return {
        canonicalize_name(requirement.name): str(requirement.specifier)
        for requirement, _ in locked(path)
    }


@pytest.mark.parametrize("path", [RUNTIME, BUILD, DEVELOPER], ids=lambda path: path.name)
def test_a_lock_pins_and_hashes_every_package_and_names_no_registry(path: Path) -> None:
    entries = list(locked(path))
    assert entries
    for requirement, hashes in entries:
        assert re.fullmatch(r"==[^,*]+", str(requirement.specifier)), requirement
        assert re.search(r"sha256:[0-9a-f]{64}", hashes), requirement
    assert "://" not in path.read_text("utf-8")


def test_the_locks_agree_with_each_other() -> None:
    everything = pins(DEVELOPER).items()
    assert pins(RUNTIME).items() <= everything
    assert pins(BUILD).items() <= everything


def test_the_locks_satisfy_the_declared_requirements() -> None:
    groups = PROJECT["dependency-groups"]
    apart = {name: ROOT / f"requirements-{name}.txt" for name in ("docs", "audit", "appinspect")}
    tools = [
        each
        for name, group in groups.items()
        for each in group
        if isinstance(each, str) and name not in apart
    ]
    for wanted, lock in (
        ([*PROJECT["project"]["dependencies"], *EXTRAS], RUNTIME),
        (groups["build"], BUILD),
        (tools, DEVELOPER),
        *((groups[name], path) for name, path in apart.items()),
    ):
        pinned = pins(lock)
        for requirement in map(Requirement, wanted):
            pin = pinned.get(canonicalize_name(requirement.name))
            assert pin is not None, f"{requirement.name} is not locked: run make lock"
            assert requirement.specifier.contains(pin.removeprefix("==")), requirement


def test_the_image_has_a_postgresql_client_library_of_its_own() -> None:
    assert pins(RUNTIME)["psycopg-binary"] == pins(RUNTIME)["psycopg"]


# --- continuous integration -----------------------------------------------------------------------


def test_ci_runs_the_tests_as_make_does() -> None:
    ci = (ROOT / ".ci" / "run").read_text("utf-8")
    calls = re.findall(r"^make (.*?)(?: \|.*)?$", ci, flags=re.MULTILINE)
    assert calls == ["install", "--keep-going check", "test"]
    assert "pytest -" not in ci


def test_ci_skips_no_test_of_a_store_in_postgresql() -> None:
    ci = (ROOT / ".ci" / "run").read_text("utf-8")
    before, required, after = ci.partition(f'\nexport {VARIABLE}="${{{VARIABLE}:-{REQUIRED}}}"')
    assert required
    assert "\nmake test " in after
    assert "missing+=(postgresql)" in before
    assert "missing+=(pgbouncer)" in before


def test_the_image_is_built_from_the_locks() -> None:
    image = (ROOT / "Dockerfile").read_text("utf-8")
    lines = image.replace("\\\n", " ").splitlines()
    installs = [
        " ".join(found.split())
        for line in lines
        for found in re.findall(r"/pip .*?install (.*?)(?: && |$)", line)
    ]
    assert len(installs) == 3
    ours = "--no-compile --no-deps --no-index /tmp/wheel/auditrelay-*.whl"
    for install in installs:
        assert "--require-hashes" in install or install == ours
