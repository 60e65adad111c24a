"""What a hashed lock says: packages, their files, and who needs them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from release import ROOT

RUNTIME: Final = ROOT / "requirements.txt"


@dataclass(frozen=True)
class Package:
    """One package of a lock, with the SHA-256 of each file that may be installed of it."""

    name: str
    version: str
    hashes: tuple[str, ...]
    needed_by: tuple[str, ...]


def packages(lock: Path) -> Iterator[Package]:
    """Yield what *lock* has for machines of this kind; what is for Windows alone is left out."""
    _, *entries = re.split(r"^(?=[a-z0-9])", lock.read_text("utf-8"), flags=re.MULTILINE)
    for entry in entries:
        requirement = Requirement(re.split(r"\\?\n", entry, maxsplit=1)[0])
        if requirement.marker is None or requirement.marker.evaluate():
            (pin,) = requirement.specifier
            yield Package(
                name=canonicalize_name(requirement.name),
                version=pin.version,
                hashes=tuple(re.findall(r"sha256:([0-9a-f]{64})", entry)),
                needed_by=tuple(_needed_by(entry)),
            )


def _needed_by(entry: str) -> Iterator[str]:
    """Yield the packages that the comments after an entry name: ours, without the file."""
    _, _, comments = entry.partition("# via")
    for line in comments.splitlines():
        if name := re.fullmatch(r"[ #]*([\w.-]+)(?: \(pyproject\.toml[^)]*\))?", line):
            yield canonicalize_name(name[1])
