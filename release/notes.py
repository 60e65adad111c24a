"""Print what CHANGELOG.md says of the release with a tag, if everything is as a release must be."""

import re
import sys
from pathlib import Path

from release import ROOT, VERSION


class NotReady(Exception):
    """This commit is not the one to be released."""


def notes(tag: str, root: Path = ROOT, version: str = VERSION) -> str:
    """Return the section of *version* without its title; *tag* must be the version's."""
    if tag != f"v{version}":
        raise NotReady(f"the tag is {tag}, and pyproject.toml has the version {version}")
    if left := [each.name for each in root.glob("changelog.d/+*")]:
        raise NotReady(f"{len(left)} fragments are not in CHANGELOG.md: run make changelog")
    text = root.joinpath("CHANGELOG.md").read_text("utf-8")
    title = rf"^## \[{re.escape(version)}\] \d{{4}}-\d\d-\d\d$"
    section = re.search(rf"{title}\n(.*?)(?=^## \[|\Z)", text, re.MULTILINE | re.DOTALL)
    if section is None:
        raise NotReady(f"CHANGELOG.md has no section {version}: run make changelog")
    return section[1].strip() + "\n"


if __name__ == "__main__":
    try:
        sys.stdout.write(notes(sys.argv[1]))
    except NotReady as error:
        sys.exit(f"Not to be released: {error}.")
