"""
A description that is being checked: what of its file is right so far, and where it stands.

The rules ask it instead of the file, so that one wrong table does not hide the problems of others,
and nothing is reported that only follows from it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from auditrelay.descriptions.model import (
    TABLES,
    Actions,
    Defaults,
    DescriptionFile,
    EventPaths,
    Pages,
    Records,
    Request,
    SecretSetting,
    Setting,
    Table,
    Time,
)
from auditrelay.settings.wording import KeyPath


class DeclaringFile(Protocol):
    """A description as far as its settings, secrets and credentials go."""

    @property
    def settings(self) -> Mapping[str, Setting]:
        """The declared settings."""

    @property
    def secrets(self) -> Mapping[str, SecretSetting]:
        """The declared secrets."""

    @property
    def auth(self) -> Table:
        """The table of the credentials."""


class Declaring(Protocol):
    """A description that is being checked, of an API or of a receiver."""

    @property
    def file(self) -> DeclaringFile:
        """Its tables that are right."""

    @property
    def settings(self) -> frozenset[str]:
        """The names of all declared settings, those with problems too."""

    @property
    def secrets(self) -> frozenset[str]:
        """The same of the secrets."""

    def has(self, *path: str) -> bool:
        """Return whether what stands at *path* is there, and not broken."""


@dataclass(frozen=True)
class Part:
    """
    One feed, or all of a description without feeds: the tables that hold for it.

    A table is None if it is missing, or if something is wrong with it that was reported already.
    *at* has the place of each table in the file.
    """

    name: str | None
    at: Mapping[str, KeyPath]
    request: Request | None
    time: Time | None
    pages: Pages | None
    records: Records | None
    event: EventPaths | None
    actions: Actions
    defaults: Defaults


@dataclass(frozen=True)
class Draft:
    """
    A file of which each table is right by itself; those that are not are left out.

    *raw* is what is left of the file, *broken* are the places of what was left out, and *settings*
    and *secrets* are all declared names, those with problems too.
    """

    file: DescriptionFile
    raw: Mapping[str, Any]
    broken: frozenset[KeyPath]
    settings: frozenset[str]
    secrets: frozenset[str]

    def has(self, *path: str) -> bool:
        """Return whether what stands at *path* is there, and not broken."""
        return path not in self.broken and path[:1] not in self.broken

    def parts(self) -> Iterator[Part]:
        """Yield each feed, or the whole if there are none."""
        names: list[str | None] = [*self.file.feeds]
        for name in names or [None]:
            tables = {key: self._table(name, key) for key in TABLES}
            found = {key: table for key, (_, table) in tables.items()}
            yield Part(
                name=name,
                at={key: at for key, (at, _) in tables.items()},
                **{
                    **found,
                    "actions": found["actions"] or {},
                    "defaults": found["defaults"] or Defaults(),
                },
            )

    def _table(self, feed: str | None, key: str) -> tuple[KeyPath, Any]:
        """Return where the table *key* of *feed* stands, and the table."""
        if feed is not None:
            at: KeyPath = ("feeds", feed, key)
            own = getattr(self.file.feeds[feed], key)
            if own is not None or at in self.broken:
                return at, own
        at = (key,)
        table = getattr(self.file, key)
        if table is None and feed is not None and at not in self.broken:
            return ("feeds", feed, key), None
        return at, table

    def raw_at(self, path: KeyPath) -> Any:
        """Return what stands at *path* in the file, an empty table if there is nothing."""
        found: Any = self.raw
        for key in path:
            found = found.get(key, {}) if isinstance(found, Mapping) else {}
        return found
