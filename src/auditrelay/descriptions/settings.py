"""
The settings of a source that is described in a file: the keys of every source, and its own.

The own ones are the settings and the secrets that the description declares. ``settings_class``
makes a class of them, so that errors, the schema and the variables work as for other sources.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    create_model,
    model_validator,
)

from auditrelay.descriptions import REST, holes, times
from auditrelay.descriptions.declared import secret_field, setting_field, value_problem
from auditrelay.descriptions.identity import identity_of, scope_settings
from auditrelay.descriptions.model import Feed, OAuth2Auth
from auditrelay.settings import SourceSettings
from auditrelay.settings.addresses import Address, Endpoint
from auditrelay.settings.secrets import Secret, SecretDocument
from auditrelay.settings.values import IdentityField, format_duration

_EDGE: Final = timedelta(minutes=1)
"""How much before the end of what a vendor keeps nothing is asked for any more."""

_AUTHORITY: Final = "token_url"
"""The key by which an operator sets another address of the authorisation server."""


class DescribedSettings(SourceSettings):
    """What every described source has. ``settings_class`` derives the class of one feed."""

    FEED: ClassVar[Feed]
    FILE_NOTES: ClassVar[tuple[str, ...]] = ()
    """What works in the operator's description, and was hardly meant."""

    _notes: tuple[str, ...] = ()

    @property
    def vendor(self) -> str:
        """The vendor's name in events."""
        return self.FEED.vendor

    @property
    def vendor_key(self) -> str:
        """The vendor and the feed: ids are unique in both together."""
        return self.FEED.key

    @property
    def product(self) -> str:
        """The product as a SIEM shows it."""
        return self.FEED.product

    @property
    def identity(self) -> Mapping[str, object]:
        """By what records are known."""
        return identity_of(self.FEED)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was changed of the operator's settings, and what the description's file shows."""
        return (*self._notes, *(f"description: {note}" for note in self.FILE_NOTES))

    @property
    def values(self) -> Mapping[str, str]:
        """The texts that fill holes, by their name."""
        return {name: getattr(self, name) for name in self.FEED.settings}

    def secret(self, name: str) -> Secret:
        """Return the secret that the description calls *name*; an optional one may be empty."""
        secret: Secret | None = getattr(self, name)
        return Secret("") if secret is None else secret

    @property
    def token_address(self) -> str:
        """The address of the authorisation server, for OAuth 2."""
        address: str = getattr(self, _AUTHORITY)
        return address

    @property
    def scope(self) -> str:
        """
        What ids are unique in, as far as records do not name it: the settings that are marked so.

        Without such a setting it is the settings that stand in the host.
        """
        values = [getattr(self, name) for name in scope_settings(self.FEED)]
        return values[0] if len(values) == 1 else json.dumps(values) if values else ""

    @property
    def filters_time(self) -> bool:
        """Whether a window is asked for alone: not if its walk begins at the newest record."""
        time = self.FEED.time
        return time.end is not None or time.text is not None or time.order == "oldest_first"

    @property
    def reach(self) -> timedelta | None:
        """
        How far back the vendor is asked: not quite as far as it keeps its records.

        A start is asked for a granule earlier, and what is kept ends later with every second.
        """
        if self.retention is None:
            return None
        margin = times.writer(self.FEED.time.format).granule + _EDGE
        return max(self.retention - margin, self.retention / 2)

    @property
    def axis(self) -> Literal["event", "recorded"]:
        """Which time the vendor's filter speaks of."""
        return self.FEED.time.axis

    @property
    def addresses(self) -> Mapping[str, str]:
        """The API's address, and that of its authorisation server."""
        if isinstance(self.FEED.auth, OAuth2Auth):
            return {"base_url": self.base_url, _AUTHORITY: self.token_address}
        return {"base_url": self.base_url}

    @model_validator(mode="before")
    @classmethod
    def _fill_addresses(cls, table: Any) -> Any:
        """Put the description's addresses where the operator has set none of his own."""
        if not isinstance(table, Mapping):
            return table
        addresses = {"base_url": cls.FEED.request.base_url}
        if isinstance(cls.FEED.auth, OAuth2Auth):
            addresses[_AUTHORITY] = cls.FEED.auth.token_url
        values: dict[str, str] = {}
        for name, setting in cls.FEED.settings.items():
            value = table.get(name, setting.default)
            usable = isinstance(value, str) and not _problem(value, cls.FEED, name)
            # What is wrong with a setting is reported there, and not once more here.
            values[name] = str(value) if usable else setting.example
        filled = {key: holes.fill_address(text, values) for key, text in addresses.items()}
        return {**filled, **table}

    @model_validator(mode="after")
    def _keep_to_longest(self) -> Self:
        longest = self.FEED.time.longest
        if longest is None or self.max_window <= longest:
            return self
        if self.overlap >= longest:
            raise ValueError(
                f"overlap: must be shorter than {format_duration(longest)}, the longest window "
                "that the vendor accepts"
            )
        note = (
            f"max_window: the vendor accepts windows of {format_duration(longest)} at most, so "
            f"that is used instead of {format_duration(self.max_window)}"
        )
        self._notes = (note,)
        object.__setattr__(self, "max_window", longest)  # the class is frozen for everybody else
        return self


def name_problem(name: str) -> str | None:
    """Return why a declared setting or secret must not be called *name*, or None."""
    if name in (_AUTHORITY, "feed", "description") or name in SourceSettings.model_fields:
        return "is the name of a key that every source has; choose another"
    if hasattr(DescribedSettings, name):
        return "is a word that settings use themselves; choose another"
    return None


def settings_class(feed: Feed, type_name: str) -> type[DescribedSettings]:
    """Return the settings of *feed* under the type *type_name*: a shipped name, or ``rest``."""
    fields: dict[str, Any] = {
        "type": (Literal[type_name], ...),
        "base_url": (Address, feed.request.base_url),
        "page_size": _page_size(feed),
        **_defaults(feed),
    }
    if type_name == REST:
        fields["description"] = (Path, ...)
    if feed.feeds:
        fields["feed"] = (Literal[feed.feeds], ... if feed.default_feed is None else feed.name)
    if isinstance(feed.auth, OAuth2Auth):
        fields[_AUTHORITY] = (Endpoint, feed.auth.token_url)
    for name, setting in feed.settings.items():
        fields[name] = setting_field(setting, partial(_problem, feed=feed, name=name))
    documents = _documents(feed)
    for name, secret in feed.secrets.items():
        fields[name] = secret_field(secret, SecretDocument if name in documents else Secret)
    made: type[DescribedSettings] = create_model(
        f"{feed.key} settings",
        __base__=DescribedSettings,
        __doc__=f"{feed.product}, as described in a file.",
        **fields,
    )
    made.FEED = feed
    made.IDENTITIES = frozenset(_identities(feed))
    return made


def _page_size(feed: Feed) -> Any:
    largest = feed.pages.largest
    usual = feed.defaults.page_size or largest or SourceSettings.model_fields["page_size"].default
    if largest is None:
        return Annotated[int, Field(ge=1)], usual

    def check(size: int) -> int:
        if size > largest:
            raise ValueError(f"the vendor gives at most {largest}")
        return size

    schema = WithJsonSchema({"type": "integer", "minimum": 1, "maximum": largest})
    return Annotated[int, Field(ge=1), AfterValidator(check), schema], usual


def _defaults(feed: Feed) -> dict[str, Any]:
    """Return the common keys of which the vendor has its own default, with that default."""
    given = {**feed.defaults.given()}
    given.pop("page_size", None)
    longest = feed.time.longest
    usual = SourceSettings.model_fields["max_window"].default
    if longest is not None and "max_window" not in given and longest < usual:
        given["max_window"] = longest
    return {
        key: (Annotated[field.annotation, *field.metadata], default)
        for key, default in given.items()
        if (field := SourceSettings.model_fields[key])
    }


def _problem(value: str, feed: Feed, name: str) -> str | None:
    """Return what is wrong with *value* for the setting *name*, where it stands in *feed*."""
    problem = value_problem(value, feed.settings[name])
    if problem:
        return problem
    hole = f"{{{name}}}"
    host, path = holes.split_address(feed.request.base_url)
    token_host, token_path = holes.split_address(getattr(feed.auth, _AUTHORITY, ""))
    if hole in host or hole in token_host:
        return holes.host_problem(value)
    if any(hole in text for text in (path, token_path, feed.request.path, feed.pages.path or "")):
        return holes.path_problem(value)
    if any(hole in text for text in feed.request.headers.values()) and not value.isascii():
        return "stands in a header, so it must not contain a letter outside ASCII"
    return None


def _documents(feed: Feed) -> set[str]:
    """Return the names of the secrets that may have several lines."""
    key = feed.auth.key if isinstance(feed.auth, OAuth2Auth) else None
    return set() if key is None else {key}


def _identities(feed: Feed) -> Iterator[IdentityField]:
    """Yield the identities that the paths of *feed* can find."""
    actors, targets = feed.event.actor, feed.event.target
    by_field: Mapping[IdentityField, bool] = {
        "actor.id": any(each.id for each in actors),
        "actor.name": any(each.name for each in actors),
        "actor.email": any(each.email for each in actors),
        "actor.ip": feed.event.actor_ip is not None,
        "target.id": any(each.id for each in targets),
        "target.name": any(each.name for each in targets),
        "target.email": any(each.email for each in targets),
    }
    return (field for field, there in by_field.items() if there)


class _AnyKeys(SourceSettings):
    model_config = ConfigDict(extra="allow")


def rest_settings() -> type[SourceSettings]:
    """
    Return what is known of the settings of any operator's description, without reading it.

    The schema of the configuration needs it: any other key may be a setting or a secret.
    """
    fields: dict[str, Any] = {
        "type": (Literal[REST], ...),
        "description": (Path, ...),
        "feed": (str | None, None),
        "base_url": (Address | None, None),
    }
    made: type[SourceSettings] = create_model(
        "rest settings",
        __base__=_AnyKeys,
        __doc__="An API that a file of the operator's describes.",
        **fields,
    )
    return made
