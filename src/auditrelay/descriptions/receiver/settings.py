"""
The settings of a sink whose receiver is described in a file: the keys of every sink, and its own.

The own ones are the settings and the secrets that the description declares, and ``url``, where the
operator sets another host than the description's. ``settings_class`` makes a class of them, so that
errors, the schema and the variables work as for other sinks.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple

from pydantic import (
    ConfigDict,
    Field,
    create_model,
    model_validator,
)

from auditrelay.descriptions import HTTP, holes
from auditrelay.descriptions.declared import secret_field, setting_field, value_problem
from auditrelay.descriptions.model import OAuth2Auth
from auditrelay.descriptions.receiver.model import FormName, ReceiverFile
from auditrelay.settings import Proves, SinkSettings
from auditrelay.settings.addresses import Address, Endpoint
from auditrelay.settings.secrets import Secret, SecretUrl
from auditrelay.settings.values import Size

SECRET: Final = "secret:"  # noqa: S105  # the beginning of an address that is one
"""How ``request.url`` begins if the whole address is a secret."""

OWN_URL: Final = "{url}"
"""How ``request.url`` begins if there is no address but the operator's."""

_URL, _AUTHORITY = "url", "token_url"


class Target(NamedTuple):
    """An address in two parts: scheme, host, port and what the operator's own begins with; path."""

    base: str
    path: str


class DescribedSinkSettings(SinkSettings):
    """What every described sink has. ``settings_class`` derives the class of one receiver."""

    RECEIVER: ClassVar[ReceiverFile]
    FILE_NOTES: ClassVar[tuple[str, ...]] = ()
    """What works in the operator's description, and was hardly meant."""

    @property
    def proves(self) -> Proves:
        """What the description says that a success proves."""
        return self.RECEIVER.proves

    @property
    def notes(self) -> tuple[str, ...]:
        """What the description's file shows."""
        return tuple(f"description: {note}" for note in self.FILE_NOTES)

    @property
    def values(self) -> Mapping[str, str]:
        """The texts that fill holes, by their name."""
        return {
            name: setting.means.get(value := getattr(self, name), value)
            for name, setting in self.RECEIVER.settings.items()
        }

    def secret(self, name: str) -> Secret:
        """Return the secret that the description calls *name*; an optional one may be empty."""
        secret: Secret | None = getattr(self, name)
        return Secret("") if secret is None else secret

    @property
    def secret_address(self) -> SecretUrl | None:
        """The address, if all of it is a secret."""
        name = secret_url(self.RECEIVER.request.url)
        found = None if name is None else getattr(self, name)
        return found if isinstance(found, SecretUrl) else None

    @property
    def target(self) -> Target:
        """Where events are sent to; of a secret address only the host."""
        secret = self.secret_address
        if secret is not None:
            return Target(secret.origin, "")
        return self.target_of(self.RECEIVER.request.url)

    def target_of(self, address: str) -> Target:
        """Return the *address* with its holes filled; the operator's host replaces its own."""
        own: str | None = getattr(self, _URL, None)
        if address.startswith(OWN_URL) and own is not None:
            return Target(own, holes.fill(address.removeprefix(OWN_URL), self.values, "path"))
        host, path = holes.split_address(address)
        filled = holes.fill(path, self.values, "path")
        return Target(own or holes.fill(host, self.values), filled)

    @property
    def token_address(self) -> str:
        """The address of the authorisation server, for OAuth 2."""
        address: str = getattr(self, _AUTHORITY)
        return address

    @property
    def addresses(self) -> Mapping[str, str]:
        """The receiver's address, and that of its authorisation server."""
        found = {self._address_key: self.target.base}
        if isinstance(self.RECEIVER.auth, OAuth2Auth):
            found[_AUTHORITY] = self.token_address
        return found

    @property
    def _address_key(self) -> str:
        return secret_url(self.RECEIVER.request.url) or _URL

    @model_validator(mode="before")
    @classmethod
    def _fill_token_address(cls, table: Any) -> Any:
        """Put the description's authorisation server where the operator has set none."""
        auth = cls.RECEIVER.auth
        if not isinstance(auth, OAuth2Auth) or not isinstance(table, Mapping):
            return table
        values: dict[str, str] = {}
        for name, setting in cls.RECEIVER.settings.items():
            value = table.get(name, setting.default)
            usable = isinstance(value, str) and not setting_problem(value, cls.RECEIVER, name)
            text = str(value) if usable else setting.example
            values[name] = setting.means.get(text, text)
        return {_AUTHORITY: holes.fill_address(auth.token_url, values), **table}


def secret_url(address: str) -> str | None:
    """Return the name of the secret that the whole *address* is; None if it is none."""
    return address.removeprefix(SECRET) if address.startswith(SECRET) else None


def name_problem(name: str, *, has_own_url: bool = False) -> str | None:
    """Return why a declared setting or secret must not be called *name*, or None."""
    if name == _URL and has_own_url:
        return None
    if name in (_URL, _AUTHORITY, "description") or name in SinkSettings.model_fields:
        return "is the name of a key that every sink has; choose another"
    if hasattr(DescribedSinkSettings, name):
        return "is a word that settings use themselves; choose another"
    return None


def settings_class(file: ReceiverFile, type_name: str) -> type[DescribedSinkSettings]:
    """Return the settings of the receiver *file* under the type *type_name*."""
    fields: dict[str, Any] = {
        "type": (Literal[type_name], ...),
        "format": (FormName, file.item.form),
        **_defaults(file),
    }
    if not file.request.gzip:
        fields["compression"] = (Literal["none"], "none")
    if type_name == HTTP:
        fields["description"] = (Path, ...)
    if isinstance(file.auth, OAuth2Auth):
        fields[_AUTHORITY] = (Endpoint, file.auth.token_url)
    address = secret_url(file.request.url)
    if address is None and not file.request.url.startswith(OWN_URL):
        about = Field(description="Another scheme, host and port than the description's.")
        fields[_URL] = (Annotated[Address | None, about], None)
    for name, setting in file.settings.items():
        if name == _URL:
            fields[name] = (Annotated[Address, Field(description=setting.about)], ...)
        else:
            fields[name] = setting_field(setting, partial(setting_problem, file=file, name=name))
    for name, secret in file.secrets.items():
        fields[name] = secret_field(secret, SecretUrl if name == address else Secret)
    made: type[DescribedSinkSettings] = create_model(
        f"{file.receiver} settings",
        __base__=DescribedSinkSettings,
        __doc__=f"{file.product}, as described in a file.",
        **fields,
    )
    made.RECEIVER = file
    return made


def _defaults(file: ReceiverFile) -> dict[str, Any]:
    """Return the common keys with the receiver's own default, within what it takes."""
    given, fields = {**file.defaults.given()}, SinkSettings.model_fields
    limits = file.limits
    events = 1 if file.body.shape == "single" else limits.events
    found: dict[str, Any] = {}
    for key, most, kind in (("batch_events", events, int), ("batch_bytes", limits.bytes, Size)):
        usual = given.pop(key, fields[key].default)
        if most is None:
            found[key] = (Annotated[kind, Field(ge=1)], usual)
        else:
            found[key] = (Annotated[kind, Field(ge=1, le=most)], min(usual, most))
    for key, value in given.items():
        field = fields[key]
        found[key] = (Annotated[field.annotation, *field.metadata], value)
    return found


def setting_problem(value: str, file: ReceiverFile, name: str) -> str | None:
    """Return what is wrong with *value* for the setting *name*, where it stands, or None."""
    setting = file.settings[name]
    problem = value_problem(value, setting)
    if problem:
        return problem
    hole, meant = f"{{{name}}}", setting.means.get(value, value)
    addresses = [file.request.url, getattr(file.auth, _AUTHORITY, "")]
    if file.check is not None and file.check.url is not None:
        addresses.append(file.check.url)
    for address in addresses:
        host, path = holes.split_address(address)
        if hole in host and not address.startswith(OWN_URL):
            return holes.host_problem(meant)
        if hole in path:
            return holes.path_problem(meant)
    if any(hole in text for text in file.request.headers.values()) and not meant.isascii():
        return "stands in a header, so it must not contain a letter outside ASCII"
    return None


class _AnyKeys(SinkSettings):
    model_config = ConfigDict(extra="allow")


def http_settings() -> type[SinkSettings]:
    """
    Return what is known of the settings of any operator's description, without reading it.

    The schema of the configuration needs it: any other key may be a setting or a secret.
    """
    fields: dict[str, Any] = {
        "type": (Literal[HTTP], ...),
        "description": (Path, ...),
        "format": (FormName | None, None),
    }
    made: type[SinkSettings] = create_model(
        "http settings",
        __base__=_AnyKeys,
        __doc__="A receiver that a file of the operator's describes.",
        **fields,
    )
    return made
