"""The licences of what is installed with auditrelay, by the names of SPDX, and their texts."""

import re
from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import Final

from release import PROJECT, ROOT
from release.locks import Package

_IN_OTHER_WORDS: Final = {
    "Apache 2.0": "Apache-2.0",
    "ISC License": "ISC",
    "License :: OSI Approved :: MIT License": "MIT",
}
"""What older packages say, and the expression of SPDX that means it."""

_EXPRESSION: Final = re.compile(r"\(*[\w.+-]+\)*( (AND|OR|WITH) \(*[\w.+-]+\)*)*")
_TEXT: Final = re.compile(r"(LICEN[CS]E|COPYING|NOTICE)[^/]*", re.IGNORECASE)


class Unknown(Exception):
    """A package is not here as the lock has it, or its licence is in words that are not listed."""


def licence(package: Package) -> str:
    """Return the licence of *package* as an expression of SPDX, of what it declares itself."""
    about = _installed(package).metadata.json
    classifiers = [each for each in about.get("classifier", []) if each.startswith("License ::")]
    for said in (about.get("license_expression"), about.get("license"), *classifiers):
        if said:
            expression = _IN_OTHER_WORDS.get(str(said), str(said))
            if _EXPRESSION.fullmatch(expression):
                return expression
            break
    raise Unknown(f"{package.name} declares no licence of SPDX: add what it means to {__name__}")


def texts(package: Package) -> Iterator[tuple[str, str]]:
    """Yield each file of *package* that has a licence or a notice, by its name."""
    for path in sorted(_installed(package).files or ()):
        if ".dist-info" in path.parts[0] and _TEXT.fullmatch(path.name):
            yield path.name, path.read_text("utf-8")


def listed(packages: Iterable[Package]) -> str:
    """Return a line for each of *packages*, then the texts that go with them."""
    packages = list(packages)
    rows = [(PROJECT["name"], PROJECT["version"], PROJECT["license"])]
    rows += [(each.name, each.version, licence(each)) for each in packages]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{name:<{widths[0]}}  {version:<{widths[1]}}  {said}" for name, version, said in rows]
    parts = [
        "\n".join(lines),
        _part(PROJECT["name"], "LICENSE", (ROOT / "LICENSE").read_text("utf-8")),
    ]
    parts += [_part(each.name, name, text) for each in packages for name, text in texts(each)]
    return "\n\n".join(parts) + "\n"


def _part(name: str, file: str, text: str) -> str:
    title = f"{name}: {file}"
    return f"{title}\n{'=' * len(title)}\n\n{text.strip()}"


def _installed(package: Package) -> metadata.Distribution:
    found = metadata.distribution(package.name)
    if found.version != package.version:
        raise Unknown(
            f"{package.name} {found.version} is installed, and the lock has {package.version}: "
            "run make install"
        )
    return found
