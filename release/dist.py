"""
Make what is released of Python: wheel, sdist, lock, bill of materials, licences, checksums.

Two builds of one commit are equal, byte for byte, wherever and whenever they are made.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Final

from release import PROJECT, ROOT, VERSION, licences, locks, released_at, sbom

_NAME: Final = f"{PROJECT['name']}-{VERSION}"
SUMS: Final = "SHA256SUMS"


def make(folder: Path) -> None:
    """Fill *folder*, which is emptied first, with what the last commit makes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    at = released_at()
    with tempfile.TemporaryDirectory() as scratch:
        # The source distribution is made of what is committed, so no file that merely lies about
        # gets into it; and the wheel is made of that, so it has all that a build needs.
        _build("sdist", _committed(Path(scratch, "tree")), folder, at)
        with tarfile.open(folder / f"{_NAME}.tar.gz") as sdist:
            sdist.extractall(scratch, filter="data")
        _build("wheel", Path(scratch, _NAME), folder, at)
    shutil.copyfile(locks.RUNTIME, folder / f"{_NAME}-requirements.txt")
    lock = list(locks.packages(locks.RUNTIME))
    folder.joinpath(f"{_NAME}.cdx.json").write_text(sbom.bill(lock, at), "utf-8")
    folder.joinpath(f"{_NAME}-licences.txt").write_text(licences.listed(lock), "utf-8")
    add_sums(folder)


def add_sums(folder: Path) -> None:
    """Write the checksums of all files in *folder*, as ``sha256sum --check`` reads them."""
    files = sorted(each for each in folder.iterdir() if each.name != SUMS)
    lines = [f"{hashlib.sha256(each.read_bytes()).hexdigest()}  {each.name}\n" for each in files]
    folder.joinpath(SUMS).write_text("".join(lines), "utf-8")


def _committed(folder: Path) -> Path:
    """Let *folder* have the files of the last commit; return it."""
    archive = folder.with_suffix(".tar")
    command = ["git", "archive", "--output", str(archive), "HEAD"]
    subprocess.run(command, cwd=ROOT, check=True)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder


def _build(target: str, source: Path, folder: Path, at: datetime) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder.absolute())],
        cwd=source,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(int(at.timestamp()))},
        check=True,
        stdout=subprocess.DEVNULL,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m release.dist", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("dist"))
    chosen = parser.parse_args().folder
    make(chosen)
    print(*sorted(each.name for each in chosen.iterdir()), sep="\n")
