"""
What a release is made of: distributions, packages of the system, and what is said about both.

``make dist``, ``make deb`` and ``make rpm`` run it; docs/releases.md says what they make. Nothing
here is part of auditrelay.
"""

import os
import subprocess
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))[
    "project"
]
VERSION: Final[str] = PROJECT["version"]


def released_at() -> datetime:
    """
    Return the time that everything in a release has: ``SOURCE_DATE_EPOCH``, or the last commit's.

    With the time of the build in it no two builds would be equal.
    """
    epoch = (
        os.environ.get("SOURCE_DATE_EPOCH")
        or subprocess.run(
            ["git", "log", "-1", "--format=%ct"],  # noqa: S607  # the one in PATH
            cwd=ROOT,
            capture_output=True,
            check=True,
            text=True,
        ).stdout
    )
    return datetime.fromtimestamp(int(epoch), UTC)
