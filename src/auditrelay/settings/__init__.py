"""
The kinds of value that a configuration is made of, and the keys that every source and sink has.

What is special to one vendor or product stands in its own module, in a class that derives from
:class:`SourceSettings` or :class:`SinkSettings`. Reading the file is ``config``'s business.
"""

import ipaddress
import json
import os
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_DURATION = re.compile(r"(\d{1,15})(ms|s|m|h|d)", re.ASCII)
_LONGEST = timedelta(days=36500)
"""No setting means more than a century, and the present minus it is still a date."""
_SIZES = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_SIZE = re.compile(r"(\d{1,18}) ?([A-Za-z]*)", re.ASCII)
_REFERENCE = re.compile(r"\$\{([^}]*)(\}?)")


def parse_duration(text: object) -> timedelta:
    """Return the time that *text* names, such as ``90s``: a whole number and one unit."""
    if isinstance(text, timedelta):
        return text
    found = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(
            f"{text!r} is not a duration: write a whole number and one unit of "
            'ms, s, m, h, d, such as "5m"'
        )
    number, unit = int(found[1]), _UNITS[found[2]]
    if number > _LONGEST // unit:
        raise ValueError(f"{text!r} is longer than a century")
    return number * unit


def format_duration(value: timedelta) -> str:
    """Return *value* in the form that :func:`parse_duration` reads, in its largest whole unit."""
    for unit, size in reversed(_UNITS.items()):
        if value and not value % size:
            return f"{value // size}{unit}"
    return "0s"


def parse_size(text: object) -> int:
    """Return the number of bytes that *text* names, such as ``2GiB``, or a bare number."""
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    found = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if found is None or (found[2] or "B") not in _SIZES:
        raise ValueError(
            f"{text!r} is not a size: write a whole number and one unit of "
            f'{", ".join(_SIZES)}, such as "2GiB"'
        )
    return int(found[1]) * _SIZES[found[2] or "B"]


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration),
    # An environment variable or a file may hold it: ${env:SETTLE}.
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]+(ms|s|m|h|d)$|\$\{"}),
]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    Field(gt=0),
    WithJsonSchema({"type": ["string", "integer"]}),
]


def _words(value: object) -> object:
    """Let an environment variable give a list: as JSON, or as words between commas."""
    if not isinstance(value, str):
        return value
    if value.startswith("["):
        return _from_json(value, "a list")
    return [word for word in (part.strip() for part in value.split(",")) if word]


def _labels(value: object) -> object:
    """Let an environment variable give a table as JSON."""
    return _from_json(value, "a table") if isinstance(value, str) else value


def _from_json(text: str, what: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError(f"is not {what} in JSON") from None


def _redact(value: object) -> object:
    if isinstance(value, str) and value.startswith("["):
        return _words(value)
    if value not in ("default", "off") and not isinstance(value, list):
        raise ValueError('must be "default", "off", or a list of key patterns')
    return value


Identifying = Literal[
    "actor.id",
    "actor.name",
    "actor.email",
    "actor.ip",
    "target.id",
    "target.name",
    "target.email",
]
"""The fields of an event that can tell who somebody is."""

Words = Annotated[list[str], BeforeValidator(_words)]
Labels = Annotated[dict[str, str], BeforeValidator(_labels)]


class Unresolved(ValueError):
    """A ``${...}`` reference that cannot be followed; the message says why and what to do."""


def resolve(template: str, environ: Mapping[str, str] = os.environ) -> str:
    """
    Return *template* with each ``${env:}``, ``${file:}`` and ``${credential:}`` followed.

    A file loses its final line end. Raises Unresolved.
    """
    return _REFERENCE.sub(lambda found: _follow(found, environ), template)


def _follow(found: re.Match[str], environ: Mapping[str, str]) -> str:
    kind, colon, name = found[1].partition(":")
    if kind == "env" and name:
        if name not in environ:
            raise Unresolved(f"the environment variable {name} is not set")
        return environ[name]
    if kind == "file" and name:
        path = Path(name)
    elif kind == "credential" and name:
        folder = environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise Unresolved(
                f"{found[0]} needs $CREDENTIALS_DIRECTORY, which systemd sets for "
                "LoadCredential=; it is not set"
            )
        if "/" in name or name in (".", ".."):
            raise Unresolved(f"{found[0]}: a credential's name is a plain file name")
        path = Path(folder, name)
    else:
        # Sent as it stands it would be a wrong password, and nobody would see why.
        hint = "" if colon else f"; did you mean ${{env:{kind}}}?"
        raise Unresolved(
            f"{found[0]} is not a reference: write ${{env:NAME}}, ${{file:PATH}} or "
            f"${{credential:NAME}}{hint}"
        )
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise Unresolved(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Unresolved(f"{path} is not text in UTF-8") from error
    except ValueError as error:
        raise Unresolved(f"{str(path)!r} is not the name of a file") from error


class Resolved(str):
    """
    A text of the configuration whose references were followed.

    *template* is as written, and is what its repr shows: an error about the value may be read by
    people who must not see what is behind the reference. *environ* is where it was looked up.
    """

    __slots__ = ("environ", "template")
    template: str
    environ: Mapping[str, str]

    def __new__(cls, template: str, environ: Mapping[str, str] = os.environ) -> Self:
        """Follow the references of *template*, or raise Unresolved."""
        text = super().__new__(cls, resolve(template, environ))
        text.template = template
        text.environ = environ
        return text

    def __repr__(self) -> str:
        """Show it as it was written."""
        return repr(self.template)


def _must_be_carried(secret: str) -> None:
    """Raise ValueError if no HTTP header can carry *secret*."""
    if not secret:
        raise ValueError("is empty")
    if not secret.isprintable() or not secret.isascii() or secret != secret.strip():
        raise ValueError(
            "holds a character that no HTTP header may carry (a line end, a space at an "
            "end, or a letter outside of ASCII)"
        )


class Secret:
    """
    A text that must never be shown, and that can be read again where it came from.

    Its repr and str are stars. ``reveal`` is the only way to the value.
    """

    __slots__ = ("_environ", "_template", "_value")

    def __init__(self, value: str) -> None:
        self._template: str | None = None
        self._environ: Mapping[str, str] = os.environ
        if isinstance(value, Resolved):
            self._template, self._environ = value.template, value.environ
        self._value = str(value)

    def reveal(self) -> str:
        """Return the secret."""
        return self._value

    @property
    def literal(self) -> bool:
        """True if the secret stands in the configuration itself, not behind a reference."""
        return self._template is None

    @property
    def references(self) -> tuple[str, ...]:
        """The references that it is made of, such as ``${env:NAME}``; not what is between them."""
        if self._template is None:
            return ()
        return tuple(found[0] for found in _REFERENCE.finditer(self._template))

    def reload(self) -> bool:
        """Read the secret again where it came from; return True if it has changed."""
        if self._template is None:
            return False
        try:
            value = resolve(self._template, self._environ)
            _must_be_carried(value)
        except ValueError:
            return False  # a file being replaced: the old value is the best there is
        changed = value != self._value
        self._value = value
        return changed

    def __repr__(self) -> str:
        """Show that there is a secret, and nothing of it."""
        return "Secret('***')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        """Two secrets are the same if they are written the same and hold the same."""
        return isinstance(other, Secret) and (self._template, self._value) == (
            other._template,
            other._value,
        )

    __hash__ = None  # type: ignore[assignment]  # its value changes, so it cannot be a key

    @classmethod
    def _read(cls, value: object) -> "Secret":
        if isinstance(value, Secret):
            return value
        if not isinstance(value, str):
            raise ValueError("must be a text")  # noqa: TRY004  # pydantic reports ValueError only
        secret = cls(value)
        _must_be_carried(secret.reveal())
        return secret

    @classmethod
    def __get_pydantic_core_schema__(
        cls, _source: type[Any], _handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Tell pydantic how to read one, and how to show it."""
        return core_schema.no_info_plain_validator_function(
            cls._read, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe it as a text that is only ever written."""
        return {"type": "string", "writeOnly": True}


_METADATA_HOSTS = frozenset(map(ipaddress.ip_address, ("169.254.169.254", "fd00:ec2::254")))


def _address(value: str) -> str:
    # The value is never shown: a key that was put into the wrong line would be.
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018  # reading it is the check
    except ValueError:
        raise ValueError("is not an address: its host or port is malformed") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is not an address: write https://host or https://host:port")
    if not value.isprintable() or " " in value:
        raise ValueError("must not hold a space or a control character")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user name or password: they would end up in logs")
    if parts.query or parts.fragment:
        raise ValueError("must not hold a query or a fragment")
    if _ip(parts.hostname) in _METADATA_HOSTS:
        raise ValueError("is a cloud metadata service, not a peer")
    return parts.scheme + value[len(parts.scheme) :].rstrip("/")  # the scheme in small letters


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


Address = Annotated[str, AfterValidator(_address)]
"""An http or https address without credentials, query or trailing slash."""


def _is_loopback(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    ip = _ip(host)
    return host == "localhost" if ip is None else ip.is_loopback


ALERTS: Final = "auditrelay"
"""The name under which the instance's own alerts are spooled; no source may have it."""


class PeerSettings(BaseModel):
    """How to reach one HTTP peer. TLS verification cannot be switched off."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    timeout: Duration = Field(timedelta(seconds=30), gt=timedelta(0))
    """Total, for one request."""
    ca_file: Path | None = None
    """Certificates to trust instead of the public ones (PEM)."""
    client_cert: Path | None = None
    client_key: Path | None = None
    proxy: Address | None = None
    allow_insecure_http: bool = False
    """Allow plain http to a host that is not loopback."""

    @property
    def addresses(self) -> Mapping[str, str]:
        """Each address that will be spoken to, by the name of its key."""
        return {}

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        for key, address in self.addresses.items():
            if address.startswith("http:") and not (
                self.allow_insecure_http or _is_loopback(address)
            ):
                raise ValueError(
                    f"{key}: plain http would show the credentials to everybody on the way; "
                    "use https, or set allow_insecure_http = true"
                )
        if (self.client_cert is None) != (self.client_key is None):
            raise ValueError("client_cert and client_key go together")
        for key in ("ca_file", "client_cert", "client_key"):
            path = getattr(self, key)
            if path is not None and not os.access(path, os.R_OK):
                raise ValueError(f"{key}: cannot read {path}")
        return self


class SourceSettings(PeerSettings):
    """The keys of every source. A vendor's module sets its own defaults, with the reason."""

    type: str
    enabled: bool = True
    base_url: Address
    poll_interval: Duration = Field(timedelta(minutes=5), ge=timedelta(seconds=1))
    settle: Duration = Field(timedelta(seconds=30), ge=timedelta(0))
    """How long after an instant it is trusted to be complete."""
    overlap: Duration = Field(timedelta(minutes=5), ge=timedelta(seconds=1))
    """How far each window starts before the checkpoint."""
    resweep: Annotated[
        list[Annotated[Duration, Field(gt=timedelta(0))]], BeforeValidator(_words)
    ] = [
        timedelta(hours=1),
        timedelta(hours=24),
    ]
    """Second looks: a covered span is read again that long after it ended."""
    max_window: Duration = Field(timedelta(days=30), ge=timedelta(seconds=2), le=timedelta(days=30))
    """Most event time that one request window spans."""
    initial_lookback: Duration = Field(timedelta(days=7), ge=timedelta(0), le=timedelta(days=30))
    """Where the very first checkpoint lies."""
    catch_up_limit: Duration | None = Field(None, gt=timedelta(0))
    """Time older than this is declared a gap instead of being caught up."""
    retention: Duration | None = Field(None, gt=timedelta(0))
    """How long the vendor keeps its records: what is older is declared a gap, not asked for."""
    page_size: int = Field(100, ge=1)
    requests_per_minute: int | None = Field(None, ge=1)
    """The daemon's own ceiling."""
    max_silence: Duration | None = Field(None, gt=timedelta(0))
    """A source without new events for this long is reported as stale."""
    redact: Annotated[Literal["default", "off"] | list[str], BeforeValidator(_redact)] = "default"
    """Whose values are redacted: keys that look secret, none, or keys that match these globs."""
    pseudonymize: Annotated[list[Identifying], BeforeValidator(_words)] = []
    """The fields of an event whose values are replaced by pseudonyms, wherever they stand."""
    pseudonym_key: Secret | None = None
    """What pseudonyms are made with; another key makes others."""
    tags: Labels = {}
    """Static labels put on every event."""

    @property
    def addresses(self) -> Mapping[str, str]:
        """The API's address."""
        return {"base_url": self.base_url}

    @property
    def places(self) -> Mapping[str, list[str]]:
        """Where records have their id and their time, as ``Normalizer`` takes it, if it is set."""
        return {}

    @field_validator("pseudonym_key")
    @classmethod
    def _cannot_be_guessed(cls, key: Secret | None) -> Secret | None:
        if key is not None and len(key.reveal()) < 16:
            raise ValueError("must have at least 16 characters: a shorter one can be guessed")
        return key

    @model_validator(mode="after")
    def _has_a_key(self) -> Self:
        if self.pseudonymize and self.pseudonym_key is None:
            raise ValueError("pseudonym_key: is missing, and pseudonymize needs it")
        return self

    @model_validator(mode="after")
    def _moves_on(self) -> Self:
        if self.overlap >= self.max_window:
            raise ValueError(
                "overlap must be shorter than max_window, or the checkpoint never moves"
            )
        return self


class SinkSettings(PeerSettings):
    """The keys of every sink. A product's module sets its own defaults, with the reason."""

    type: str
    enabled: bool = True
    sources: Words = ["*"]
    """Names or globs of the sources that it receives."""
    format: str
    """The form in which events are sent."""
    batch_events: int = Field(1000, ge=1)
    batch_bytes: Size = 1_000_000
    """Counted before compression."""
    linger: Duration = Field(timedelta(seconds=1), ge=timedelta(0))
    """How long a batch waits to fill."""
    concurrency: int = Field(4, ge=1, le=64)
    """Most requests in flight."""
    compression: Literal["gzip", "none"] = "gzip"
