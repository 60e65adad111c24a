"""
Make a package of the system, .deb or .rpm, of the wheel in the folder of distributions.

It has an environment of its own in /usr/lib/auditrelay, made of the hashed lock for the Python of
the Debian that it is built on: one package for each release of Debian and each architecture.
"""

import argparse
import gzip
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from string import Template
from typing import Final

from release import PROJECT, ROOT, VERSION, dist, locks, released_at

HOME: Final = Path("usr/lib/auditrelay")
_PYTHON: Final = "/usr/bin/python3"
"""Debian's own, which the package depends on; another one in PATH may be of another version."""

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
COMPLETIONS: Final = {
    "bash": "usr/share/bash-completion/completions/auditrelay",
    "zsh": "usr/share/zsh/vendor-completions/_auditrelay",
    "fish": "usr/share/fish/vendor_completions.d/auditrelay.fish",
}
_NOBODY: Final = "auditrelay maintainers <maintainers@auditrelay.invalid>"
"""Who maintains the package, unless ``MAINTAINER`` says who does."""

_UNAVAILABLE: Final = 69
"""The exit status if a package cannot be built here."""

_LAUNCHER: Final = f"""\
#!/{HOME}/bin/python
import sys

from auditrelay.__main__ import main

sys.exit(main())
"""


class Unavailable(Exception):
    """A package cannot be built on this machine."""


def stage(folder: Path, distributions: Path) -> None:
    """Fill *folder* with what the package has below /usr, of what is in *distributions*."""
    folder = folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    _environment(folder, distributions)
    _units(folder)
    _documents(folder, distributions)
    at = released_at().timestamp()
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if executable else 0o644)
            os.utime(path, (at, at))


def pack(folder: Path, kind: str, target: Path, version: str) -> Path:
    """Write the package of *kind*, deb or rpm, of the staged *folder*; return its path."""
    nfpm = shutil.which("nfpm", path=str(Path(sys.executable).parent)) or "nfpm"
    wanted = python()
    major, minor = wanted.split(".")
    at = released_at()
    settings = Template(ROOT.joinpath("packaging", "nfpm.yaml").read_text("utf-8")).substitute(
        arch=_ARCHITECTURES[platform.machine()],
        version=version,
        maintainer=os.environ.get("MAINTAINER") or _NOBODY,
        mtime=at.isoformat(),
        stage=folder.absolute(),
        python=wanted,
        next_python=f"{major}.{int(minor) + 1}",
    )
    with tempfile.TemporaryDirectory() as scratch:
        config, made = Path(scratch, "nfpm.yaml"), Path(scratch, "made")
        config.write_text(settings, "utf-8")
        made.mkdir()
        options = ("-f", str(config), "-p", kind, "-t", str(made))
        _run(nfpm, "package", *options, SOURCE_DATE_EPOCH=str(int(at.timestamp())))
        (package,) = made.iterdir()
        return Path(shutil.move(package, target / package.name))


def python() -> str:
    """Return the version of Debian's Python, such as 3.11."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return _run(_PYTHON, "-c", code).strip()


def version_of(kind: str, version: str = VERSION) -> str:
    """Return *version* as dpkg and rpm compare it; a .deb also names the Debian that it is for."""
    version = re.sub(r"\.?(a|b|rc|dev)(\d+)$", r"~\1\2", version)
    return f"{version}+deb{debian()['VERSION_ID']}" if kind == "deb" else version


def debian() -> dict[str, str]:
    """Return what os-release says of the Debian that this is; raise ``Unavailable`` elsewhere."""
    try:
        found = platform.freedesktop_os_release()
    except OSError:
        found = {}
    if found.get("ID") != "debian" or not Path(_PYTHON).exists():
        raise Unavailable("a package is built on the Debian that it is for, with its python3")
    if platform.machine() not in _ARCHITECTURES:
        raise Unavailable(f"there is no nfpm for {platform.machine()}")
    return found


def _environment(folder: Path, distributions: Path) -> None:
    """Make what ``python -m venv`` would, at its place in the package, and install into it."""
    home = folder / HOME
    packages = home / "lib" / f"python{python()}" / "site-packages"
    packages.mkdir(parents=True)
    install = (
        *(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"),
        *("--python", _PYTHON, "install", "--root-user-action", "ignore", "--no-compile"),
        *("--target", str(packages)),
    )
    _run(*install, "--only-binary", ":all:", "--require-hashes", "-r", str(locks.RUNTIME))
    wheel = distributions / f"{PROJECT['name']}-{VERSION}-py3-none-any.whl"
    with tempfile.TemporaryDirectory() as alone:  # pip warns of a folder bin that is there already
        ours = Path(alone, "packages")
        _run(*install[:-1], str(ours), "--no-deps", "--no-index", str(wheel.absolute()))
        shutil.copytree(ours, packages, dirs_exist_ok=True)
    shutil.rmtree(packages / "bin")  # programs of the libraries, with a path of this machine
    for name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json"):
        # What belongs to the system's package is none of pip's, and one of them has a path of ours.
        for path in packages.glob(f"*.dist-info/{name}"):
            path.unlink()
    # Compiled here, as there it is read-only; with the paths that it will have there.
    compile_all = ("-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash")
    # Sets of constants are written in the order of their hashes.
    where = ("-s", str(folder), "-p", "/", str(packages))
    _run(_PYTHON, *compile_all, *where, PYTHONHASHSEED="0")
    (home / "bin").mkdir()
    (home / "bin" / "python").symlink_to(f"/usr/bin/python{python()}")
    home.joinpath("pyvenv.cfg").write_text(
        "home = /usr/bin\ninclude-system-site-packages = false\n", "utf-8"
    )
    home.joinpath("bin", "auditrelay").write_text(_LAUNCHER, "utf-8")
    home.joinpath("bin", "auditrelay").chmod(0o755)
    _parent(folder / "usr/bin/auditrelay").symlink_to(f"/{HOME}/bin/auditrelay")


def _units(folder: Path) -> None:
    """Copy the units and the command beside them, with the path of the program."""
    places = {
        "auditrelay.service": "usr/lib/systemd/system",
        "auditrelay-backfill@.service": "usr/lib/systemd/system",
        "auditrelayctl": "usr/sbin",
    }
    for name, place in places.items():
        text = ROOT.joinpath("systemd", name).read_text("utf-8")
        path = _parent(folder / place / name)
        path.write_text(text.replace("/opt/auditrelay/bin/", "/usr/bin/"), "utf-8")
        if place == "usr/sbin":
            path.chmod(0o755)


def _documents(folder: Path, distributions: Path) -> None:
    """Write man page, completions, the configuration to start from, licences, bill of materials."""
    at = released_at()
    page = _staged(folder, str(ROOT / "release" / "manual.py"), f"{at:%Y-%m-%d}")
    _gzip(folder / "usr/share/man/man1/auditrelay.1.gz", page)
    command = str(folder / HOME / "bin" / "auditrelay")
    for shell, place in COMPLETIONS.items():
        script = _staged(folder, command, _AUDITRELAY_COMPLETE=f"source_{shell}")
        _parent(folder / place).write_text(script, "utf-8")
    _parent(folder / "usr/share/auditrelay/config.toml").write_text(_configuration(folder), "utf-8")
    documents = folder / "usr/share/doc/auditrelay"
    stem = f"{PROJECT['name']}-{VERSION}"
    for name, file in (
        ("copyright", f"{stem}-licences.txt"),
        ("sbom.cdx.json", f"{stem}.cdx.json"),
    ):
        shutil.copyfile(distributions / file, _parent(documents / name))
    _gzip(documents / "changelog.gz", ROOT.joinpath("CHANGELOG.md").read_text("utf-8"))


def _configuration(folder: Path) -> str:
    """Return what ``auditrelay init`` writes, with secrets where the units have them."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "config.toml")
        _staged(folder, str(folder / HOME / "bin" / "auditrelay"), "init", str(path))
        _, settings = path.read_text("utf-8").split("\n\n", maxsplit=1)
    settings = re.sub(
        r"\$\{env:(\w+)\}", lambda found: f"${{credential:secret_{found[1].lower()}}}", settings
    )
    head = """\
# auditrelay: a configuration to start from.
#
# Fill in what is empty, and put each secret into a file of /etc/auditrelay/credentials: the file
# splunk_hec_token there is ${credential:secret_splunk_hec_token} here. This file has references
# alone, and everybody may read it. Then, as root:
#
#   auditrelayctl check
#   systemctl enable --now auditrelay
#
# `auditrelay schema` prints every key; `man auditrelay` has the commands."""
    return f"{head}\n\n{settings}"


def _staged(folder: Path, *arguments: str, **environ: str) -> str:
    """Run Debian's Python with what is staged, and return what it prints."""
    (packages,) = folder.joinpath(HOME, "lib").glob("python*/site-packages")
    return _run(
        _PYTHON, "-B", *arguments, **environ, PYTHONPATH=str(packages), HOME="/", COLUMNS="80"
    )


def _run(*command: str, **environ: str) -> str:
    ran = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environ},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return ran.stdout


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _gzip(path: Path, text: str) -> None:
    _parent(path).write_bytes(gzip.compress(text.encode(), mtime=0))


def main() -> int:
    """Make the packages that are named."""
    parser = argparse.ArgumentParser(prog="python -m release.system", description=__doc__)
    parser.add_argument("kind", choices=["deb", "rpm"])
    parser.add_argument("folder", type=Path, help="with the wheel; the package is put there")
    parser.add_argument("--stage", type=Path, default=Path("build/system"))
    given = parser.parse_args()
    try:
        debian()
    except Unavailable as error:
        print(f"No {given.kind} can be built here: {error}.", file=sys.stderr)
        return _UNAVAILABLE
    stage(given.stage, given.folder)
    print(pack(given.stage, given.kind, given.folder, version_of(given.kind)).name)
    dist.add_sums(given.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
