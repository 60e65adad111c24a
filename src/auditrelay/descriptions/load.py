"""
Read a description: a TOML file, each table checked by itself, and what one says about another.

All problems are reported at once, each as a sentence that begins with the file and the whole path
of its key.
"""

import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from auditrelay.clock import Clock
from auditrelay.descriptions import FOLDER, REST, identity, shipped
from auditrelay.descriptions.draft import Draft
from auditrelay.descriptions.model import DescriptionFile, Feed, feed_of
from auditrelay.descriptions.rules import notes, problems, unused
from auditrelay.descriptions.settings import DescribedSettings, settings_class
from auditrelay.descriptions.tables import (
    Problem,
    each_table,
    in_lines,
    in_order,
    names_in,
    written_path,
)
from auditrelay.errors import ConfigError
from auditrelay.events import vendors
from auditrelay.settings.reserved import ALERTS
from auditrelay.settings.toml import Unreadable, read_toml
from auditrelay.settings.wording import KeyPath, suggestion


@dataclass(frozen=True)
class Description:
    """
    A description without problems.

    *notes* are sentences about what works in it and was hardly meant; *digest* changes with every
    byte of the file.
    """

    path: Path
    file: DescriptionFile
    digest: str
    notes: tuple[str, ...] = ()

    @property
    def feeds(self) -> tuple[str, ...]:
        """The names of its feeds; none if the whole is one."""
        return tuple(self.file.feeds)

    def feed(self, name: str | None = None) -> Feed:
        """
        Return the feed *name* with all tables that hold for it.

        Without a name it is the default one, or the whole if there are no feeds. Raises
        ConfigError.
        """
        file = self.file
        name = name or file.default_feed
        if (name is None) != (not file.feeds) or (name is not None and name not in file.feeds):
            known = " or ".join(f'"{each}"' for each in file.feeds) or "none: leave it out"
            hint = f", not {name!r}{suggestion(name, file.feeds)}" if name else ""
            raise ConfigError(f"{self.path}: feed: must be {known}{hint}")
        return feed_of(file, name)


def named(name: str) -> Description:
    """Return the shipped description *name*. Raises ConfigError if its file was changed."""
    try:
        return _read(FOLDER / f"{name}.toml", is_shipped=True)
    except Unreadable as error:
        raise ConfigError(str(error)) from error


def read(path: Path) -> Description:
    """Return the operator's description in the file *path*. Raises ConfigError, Unreadable."""
    return _read(path, is_shipped=False)


_known: Final[dict[Path, Description]] = {}
"""The last description of each file, which is the same as long as the file is."""


def _read(path: Path, *, is_shipped: bool) -> Description:
    table, content = read_toml(path)
    digest = sha256(content).hexdigest()
    known = _known.get(path)
    if known is None or known.digest != digest:
        known = _known[path] = _checked(path, table, digest, is_shipped=is_shipped)
    return known


def _checked(path: Path, table: dict[str, Any], digest: str, *, is_shipped: bool) -> Description:
    found, draft = _parsed(table)
    if draft is not None:
        found += problems(draft)
        if not is_shipped:
            found += _names(draft)
        if not found:
            found += unused(draft)
        if not found and draft.file.replaces is not None:
            found += identity.differences(draft.file, named(draft.file.replaces).file)
    lines = in_order(path, table, found)
    if lines or draft is None:
        raise ConfigError(*lines)
    # The configuration is read before there is a clock, and any will do for a date.
    said = () if is_shipped else in_lines(path, notes(draft, Clock().now().date()))
    return Description(path, draft.file, digest, tuple(said))


# --- each table by itself ----------------------------------------------------

_PLACEHOLDERS: Final[Mapping[str, Any]] = {
    "vendor": "placeholder",
    "product": "placeholder",
    "docs": ["https://placeholder.example"],
    "checked": date(2000, 1, 1),
    "evidence": "documentation",
    "auth": {"kind": "header", "secret": "placeholder"},
}


def _parsed(table: Mapping[str, Any]) -> tuple[list[Problem], Draft | None]:
    """Return what is wrong with each table of the file by itself, and what is right of it."""
    found, right = each_table(table, DescriptionFile, _PLACEHOLDERS, _table_of)
    if right is None:
        return found, None
    names = {kind: names_in(table, kind) for kind in ("settings", "secrets")}
    return found, Draft(right.file, right.raw, right.broken, **names)


def _table_of(path: KeyPath) -> KeyPath:
    """Return the part of the file to leave out because of a problem at *path*."""
    if path[0] in ("settings", "secrets"):
        return path[:2]
    return path[:3] if path[0] == "feeds" else path[:1]


# --- names -------------------------------------------------------------------


def _names(draft: Draft) -> Iterable[Problem]:
    """Yield what is wrong with the vendor of an operator's file."""
    file = draft.file
    if not draft.has("vendor"):
        return
    written = {module.name for module in pkgutil.iter_modules(vendors.__path__)}
    if file.replaces is not None:
        if file.replaces not in shipped():
            hint = suggestion(file.replaces, shipped())
            yield ("replaces",), f'no description "{file.replaces}" comes with auditrelay{hint}'
        return
    if file.vendor in shipped() or file.vendor in written or file.vendor == ALERTS:
        yield (
            ("vendor",),
            f'"{file.vendor}" is the name of a description that comes with auditrelay; two sources '
            "of one vendor must agree on ids: give yours another name, or use "
            f'type = "{file.vendor}"'
            + (f' (or say replaces = "{file.vendor}")' if file.vendor in shipped() else ""),
        )


# --- settings ----------------------------------------------------------------

_classes: Final[dict[tuple[Path, str, str | None], tuple[str, type[DescribedSettings]]]] = {}
"""The last class of settings of each file, type and feed: equal settings must be of one class."""


def settings_for(type_name: str, table: Mapping[str, Any], folder: Path) -> type[DescribedSettings]:
    """
    Return the settings of a source with the keys *table*, of a shipped type or of ``rest``.

    *folder* is what the path of an operator's description is relative to. A feed that does not
    exist gets the settings of another one, which refuse it. Raises ConfigError with what is wrong
    with the description, and ValueError with what is wrong with the key that names it.
    """
    if type_name == REST:
        description = read(written_path(table, folder, "API"))
    else:
        description = named(type_name)
    wanted = table.get("feed")
    feeds = description.feeds
    if wanted not in feeds:
        wanted = description.file.default_feed or next(iter(feeds), None)
    key = (description.path, type_name, wanted)
    known = _classes.get(key)
    if known is None or known[0] != description.digest:
        made = settings_class(description.feed(wanted), type_name)
        made.FILE_NOTES = description.notes
        known = _classes[key] = (description.digest, made)
    return known[1]
