"""The wheel as a stranger installs it, and that anybody who builds it gets the same."""

import hashlib
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from release import PROJECT, ROOT, VERSION, locks


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and what the lock has for it, and no more."""
    folder = tmp_path_factory.mktemp("wheel") / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    pip = (sys.executable, "-m", "pip", "--quiet", "--python", str(folder / "bin" / "python"))
    lock = wheel.with_name(f"{PROJECT['name']}-{VERSION}-requirements.txt")
    run(
        *pip,
        "install",
        "--no-compile",
        "--only-binary",
        ":all:",
        "--require-hashes",
        "-r",
        str(lock),
    )
    run(*pip, "install", "--no-compile", "--no-deps", "--no-index", str(wheel))
    return folder


def run(*command: str, cwd: Path | None = None, **environ: str) -> str:
    known = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        command,
        cwd=cwd,
        env={**known, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_the_wheel_needs_what_the_lock_has_and_nothing_of_a_developer(environment: Path) -> None:
    listed = "import importlib.metadata as m; print(*(d.name for d in m.distributions()))"
    found = run(str(environment / "bin" / "python"), "-c", listed, cwd=environment).split()
    names = {name.lower().replace("_", "-").replace(".", "-") for name in found}
    assert names == {each.name for each in locks.packages(locks.RUNTIME)} | {PROJECT["name"]}


def test_the_wheel_runs_away_from_its_sources_and_loses_nothing_in_the_demo(
    environment: Path, tmp_path: Path
) -> None:
    program = str(environment / "bin" / "auditrelay")
    where = "import auditrelay; print(auditrelay.__file__)"
    python = str(environment / "bin" / "python")
    assert run(python, "-c", where, cwd=tmp_path).startswith(str(environment))
    assert run(program, "--version", cwd=tmp_path) == f"auditrelay {VERSION}\n"
    home = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    run(program, "init", "config.toml", cwd=tmp_path, **home)
    # It fails if anything is lost.
    run(program, "demo", "--duration", "6s", "--kill-every", "3s", cwd=tmp_path, **home)


def test_two_builds_are_equal_in_another_environment_and_at_another_time(
    dist: Path, tmp_path: Path
) -> None:
    old = os.umask(0o077)
    try:
        again = tmp_path / "again"
        run(
            *(sys.executable, "-m", "release.dist", str(again)),
            cwd=tmp_path,
            PYTHONPATH=str(ROOT),
            TZ="Asia/Tokyo",
            LC_ALL="C",
            PYTHONHASHSEED="7",
        )
    finally:
        os.umask(old)
    for path in again.iterdir():
        if path.name != "SHA256SUMS":
            assert path.read_bytes() == dist.joinpath(path.name).read_bytes(), path.name
    assert len(list(again.iterdir())) == 6


def test_the_checksums_are_those_of_all_other_files(dist: Path) -> None:
    lines = dist.joinpath("SHA256SUMS").read_text("utf-8").splitlines()
    sums = {name: checksum for checksum, name in (line.split("  ") for line in lines)}
    files = {each.name: each for each in dist.iterdir() if each.name != "SHA256SUMS"}
    assert sums == {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()
    }


def test_the_source_distribution_has_what_is_committed_and_nothing_else(dist: Path) -> None:
    stem = f"{PROJECT['name']}-{VERSION}"
    with tarfile.open(dist / f"{stem}.tar.gz") as archive:
        names = {each.name.removeprefix(f"{stem}/") for each in archive if each.isfile()}
    committed = run("git", "ls-tree", "-r", "--name-only", "HEAD", cwd=ROOT).splitlines()
    assert names == {*committed, "PKG-INFO"}
