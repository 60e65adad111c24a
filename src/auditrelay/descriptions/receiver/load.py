"""
Read a receiver's description: a TOML file, each table checked by itself, and all of them together.

All problems are reported at once, each as a sentence that begins with the file and the whole path
of its key.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from auditrelay.clock import Clock
from auditrelay.descriptions import HTTP, RECEIVERS, shipped_receivers
from auditrelay.descriptions.receiver.model import ReceiverFile
from auditrelay.descriptions.receiver.rules import ReceiverDraft, notes, problems, unused
from auditrelay.descriptions.receiver.settings import DescribedSinkSettings, settings_class
from auditrelay.descriptions.tables import (
    Problem,
    each_table,
    in_lines,
    in_order,
    names_in,
    written_path,
)
from auditrelay.errors import ConfigError
from auditrelay.settings.toml import Unreadable, read_toml
from auditrelay.settings.wording import KeyPath, suggestion


@dataclass(frozen=True)
class Receiver:
    """
    A receiver's description without problems.

    *notes* are sentences about what works in it and was hardly meant; *digest* changes with every
    byte of the file.
    """

    path: Path
    file: ReceiverFile
    digest: str
    notes: tuple[str, ...] = ()


def named(name: str) -> Receiver:
    """Return the shipped description *name*. Raises ConfigError if its file was changed."""
    try:
        return _read(RECEIVERS / f"{name}.toml", is_shipped=True)
    except Unreadable as error:
        raise ConfigError(str(error)) from error


def read(path: Path) -> Receiver:
    """Return the operator's description in the file *path*. Raises ConfigError, Unreadable."""
    return _read(path, is_shipped=False)


def is_receiver(table: Mapping[str, Any]) -> bool:
    """Return whether the file with *table* describes a receiver, not an API that is read."""
    return "receiver" in table and "vendor" not in table


_known: Final[dict[Path, Receiver]] = {}
"""The last description of each file, which is the same as long as the file is."""


def _read(path: Path, *, is_shipped: bool) -> Receiver:
    table, content = read_toml(path)
    digest = sha256(content).hexdigest()
    known = _known.get(path)
    if known is None or known.digest != digest:
        known = _known[path] = _checked(path, table, digest, is_shipped=is_shipped)
    return known


def _checked(path: Path, table: dict[str, Any], digest: str, *, is_shipped: bool) -> Receiver:
    if "vendor" in table and "receiver" not in table:
        raise ConfigError(
            f'{path}: vendor: describes an API that is read, for a source of type = "rest"; a '
            "receiver's file begins with receiver"
        )
    found, right = each_table(table, ReceiverFile, _PLACEHOLDERS, _table_of)
    draft = None
    if right is not None:
        names = {kind: names_in(table, kind) for kind in ("settings", "secrets")}
        draft = ReceiverDraft(right.file, right.raw, right.broken, **names)
        found += problems(draft)
        if not is_shipped:
            found += _names(draft)
        if not found:
            found += unused(draft)
    lines = in_order(path, table, found)
    if lines or draft is None:
        raise ConfigError(*lines)
    # The configuration is read before there is a clock, and any will do for a date.
    said = () if is_shipped else in_lines(path, notes(draft, Clock().now().date()))
    return Receiver(path, draft.file, digest, tuple(said))


_PLACEHOLDERS: Final[Mapping[str, Any]] = {
    "receiver": "placeholder",
    "product": "placeholder",
    "docs": ["https://placeholder.example"],
    "checked": date(2000, 1, 1),
    "evidence": "documentation",
    "request": {"url": "https://placeholder.example/"},
    "auth": {"kind": "none"},
    "body": {"shape": "array"},
    "success": {"statuses": [200], "body": "any"},
}


def _table_of(path: KeyPath) -> KeyPath:
    """Return the part of the file to leave out because of a problem at *path*."""
    return path[:2] if path[0] in ("settings", "secrets") else path[:1]


def _names(draft: ReceiverDraft) -> Iterator[Problem]:
    """Yield what is wrong with the name in an operator's file."""
    file = draft.file
    if not draft.has("receiver"):
        return
    if file.replaces is not None:
        if file.replaces not in shipped_receivers():
            hint = suggestion(file.replaces, shipped_receivers())
            yield ("replaces",), f'no receiver "{file.replaces}" comes with auditrelay{hint}'
    elif file.receiver in shipped_receivers():
        yield (
            ("receiver",),
            (
                f'"{file.receiver}" is the name of a description that comes with auditrelay: give '
                f'yours another name, use type = "{file.receiver}", or say replaces = '
                f'"{file.receiver}"'
            ),
        )


_classes: Final[dict[tuple[Path, str], tuple[str, type[DescribedSinkSettings]]]] = {}
"""The last class of settings of each file and type: equal settings must be of one class."""


def settings_for(
    type_name: str, table: Mapping[str, Any], folder: Path
) -> type[DescribedSinkSettings]:
    """
    Return the settings of a sink with the keys *table*, of a shipped type or of ``http``.

    *folder* is what the path of an operator's description is relative to. Raises ConfigError with
    what is wrong with the description, and ValueError with what is wrong with the key that names
    it.
    """
    is_own = type_name == HTTP
    found = read(written_path(table, folder, "receiver")) if is_own else named(type_name)
    key = (found.path, type_name)
    known = _classes.get(key)
    if known is None or known[0] != found.digest:
        made = settings_class(found.file, type_name)
        made.FILE_NOTES = found.notes
        known = _classes[key] = (found.digest, made)
    return known[1]
