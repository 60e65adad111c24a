"""
Write the version of pyproject.toml into the files that must have it literally.

``make generate`` runs it: pyproject.toml is the one place where a version is changed.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from release import ROOT, VERSION

_VERSION: Final = r"\d+\.\d+\.\d+\w*"
_WHERE: Final = (
    ("Dockerfile", rf'(?<=org\.opencontainers\.image\.version="){_VERSION}(?=")'),
    ("kubernetes/**/*.yaml", rf"(?<=image: auditrelay:){_VERSION}$"),
    ("kubernetes/**/kustomization.yaml", rf"(?<=newTag: ){_VERSION}$"),
    ("siem/splunk/TA-auditrelay/default/app.conf", rf"(?<=^version = ){_VERSION}$"),
)
"""Files, and what the version in them is recognised by."""


def stamped() -> Iterator[tuple[Path, str]]:
    """Yield each of the files, with the text that it must have."""
    for pattern, version in _WHERE:
        for path in sorted(ROOT.glob(pattern)):
            text = path.read_text("utf-8")
            if re.search(version, text, re.MULTILINE):
                yield path, re.sub(version, VERSION, text, flags=re.MULTILINE)


if __name__ == "__main__":
    if sys.argv[1:] == ["--show"]:
        print(VERSION)
    else:
        for path, text in stamped():
            path.write_text(text, "utf-8")
