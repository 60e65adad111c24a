"""Secrets by reference: environment variables, files, credentials; read again after a refusal."""

import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote, unquote, urlsplit

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from auditrelay.files import read_file
from auditrelay.settings.addresses import check_address

_MOST_BYTES: Final = 2**20
"""The most bytes of a secret in a file: more than any certificate or key."""

_REFERENCE = re.compile(r"\$\{([^}]*)(\}?)")


class Unresolved(ValueError):
    """A ``${...}`` reference that cannot be resolved; the message says why and what to do."""


def resolve(template: str, environ: Mapping[str, str] = os.environ) -> str:
    """
    Return *template* with each ``${env:}``, ``${file:}`` and ``${credential:}`` resolved.

    The final line end of a file is removed, and the mark that some editors put at the beginning of
    a text in UTF-8. Raises Unresolved.
    """
    return _REFERENCE.sub(lambda found: _resolve_one(found, environ), template)


def _resolve_one(found: re.Match[str], environ: Mapping[str, str]) -> str:
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
            raise Unresolved(f"{found[0]}: a credential's name must be a plain file name")
        path = Path(folder, name)
    else:
        # Sent unresolved it would be a wrong password, and the cause hard to find.
        hint = "" if colon else f"; did you mean ${{env:{kind}}}?"
        raise Unresolved(
            f"{found[0]} is not a reference: write ${{env:NAME}}, ${{file:PATH}} or "
            f"${{credential:NAME}}{hint}"
        )
    try:
        text = read_file(path, _MOST_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise Unresolved(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Unresolved(f"{path} is not text in UTF-8") from error
    except ValueError as error:
        raise Unresolved(f"{str(path)!r} is not the name of a file") from error
    return text.removesuffix("\n").removesuffix("\r")


class Resolved(str):
    """
    A text of the configuration whose references were resolved.

    *template* is the text as written. The repr shows it instead of the value: an error about the
    value may be read by people who must not see the secret. *environ* is the environment that
    resolved it.
    """

    __slots__ = ("environ", "template")
    template: str
    environ: Mapping[str, str]

    def __new__(cls, template: str, environ: Mapping[str, str] = os.environ) -> Self:
        """Resolve the references of *template*, or raise Unresolved."""
        text = super().__new__(cls, resolve(template, environ))
        text.template = template
        text.environ = environ
        return text

    def __repr__(self) -> str:
        """Show the text as written, not its value."""
        return repr(self.template)


def _check_header_value(secret: str) -> None:
    """Raise ValueError if *secret* cannot be the value of an HTTP header."""
    if not secret:
        raise ValueError("is empty")
    if not secret.isprintable() or not secret.isascii() or secret != secret.strip():
        raise ValueError(
            "contains a character that no HTTP header may have (a line end, a space at an "
            "end, or a letter outside ASCII)"
        )


class Secret:
    """
    A text that is never shown, and that can be read again from its reference.

    Its repr and str are stars. ``reveal`` is the only way to the value.
    """

    __slots__ = ("_environ", "_template", "_value", "problem")

    problem: str | None
    """Why what its reference stands for now cannot be used, if so; it has no part of a secret."""

    def __init__(self, value: str) -> None:
        self.problem = None
        self._template: str | None = None
        self._environ: Mapping[str, str] = os.environ
        if isinstance(value, Resolved):
            self._template, self._environ = value.template, value.environ
        self._value = str(value)

    def reveal(self) -> str:
        """Return the secret."""
        return self._value

    @property
    def hidden(self) -> tuple[str, ...]:
        """The texts that must not be shown: the secret, or the parts of it that matter."""
        return (self._value,)

    @property
    def literal(self) -> bool:
        """True if the secret is in the configuration itself, not behind a reference."""
        return self._template is None

    @property
    def references(self) -> tuple[str, ...]:
        """The references in it, such as ``${env:NAME}``, without the text between them."""
        if self._template is None:
            return ()
        return tuple(found[0] for found in _REFERENCE.finditer(self._template))

    def reload(self) -> bool:
        """Read the secret again from its reference; return True if it has changed."""
        if self._template is None:
            return False
        try:
            value = self._resolve(self._template, self._environ)
            self._check(value)
        except ValueError as error:
            self.problem = str(error)
            return False  # its file may be being replaced: keep the old value
        self.problem = None
        changed = value != self._value
        self._value = value
        return changed

    @staticmethod
    def _resolve(template: str, environ: Mapping[str, str]) -> str:
        return resolve(template, environ)

    def __repr__(self) -> str:
        """Show stars instead of the secret."""
        return "Secret('***')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        """Two secrets are equal if they have the same references and the same value."""
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
        cls._check(secret.reveal())
        return secret

    @staticmethod
    def _check(value: str) -> None:
        """Raise ValueError if *value* cannot be used."""
        _check_header_value(value)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, _source: type[Any], _handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Define for pydantic how a secret is read, and how it is shown."""
        return core_schema.no_info_plain_validator_function(
            cls._read, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe it as a write-only text."""
        return {"type": "string", "writeOnly": True}


_KEY = re.compile(r"-----BEGIN [^-]*PRIVATE KEY-----(.*?)-----END ", re.DOTALL)
_LINE = re.compile(r"[A-Za-z0-9+/=]{16,}")


@functools.lru_cache
def _key_lines(document: str) -> tuple[str, ...]:
    keys: list[str] = _KEY.findall(document.replace("\\n", "\n"))  # in JSON
    return tuple(line for key in keys for line in _LINE.findall(key))


class SecretDocument(Secret):
    """A secret of any number of lines, such as a private key: it is never sent as it is."""

    __slots__ = ()

    @property
    def hidden(self) -> tuple[str, ...]:
        """Each line of the private key in it: what stands beside it (names, addresses) is none."""
        return _key_lines(self.reveal()) or super().hidden

    @staticmethod
    def _check(value: str) -> None:
        if not value.strip():
            raise ValueError("is empty")


class SecretUrl(Secret):
    """An http or https address that is a credential as a whole: who knows it may send to it."""

    __slots__ = ()

    @property
    def origin(self) -> str:
        """Its scheme, host and port, which are no secret."""
        parts = urlsplit(self.reveal())
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def hidden(self) -> tuple[str, ...]:
        """The whole, and each part of its path that is long enough to be the secret."""
        value = self.reveal()
        parts = urlsplit(value).path.split("/")
        return (value, *(part for part in parts if len(part) >= _LONG_PART))

    @staticmethod
    def _check(value: str) -> None:
        check_address(value)


_LONG_PART: Final = 12
"""Characters from which on a part of a path may be a credential."""

_USER_AND_PASSWORD = re.compile(r"[a-z]+://([^/?#]*)@", re.IGNORECASE)


class SecretAddress(Secret):
    """
    An address with a password in it, such as ``postgresql://relay:${file:/run/pw}@db1/auditrelay``.

    What a reference stands for is taken as it is, so the password in a file may have any character;
    what is written in the address itself must be percent-encoded, as in every URL. A reference at
    the very beginning stands for an address.
    """

    __slots__ = ()

    def __init__(self, value: str) -> None:
        super().__init__(value)
        if isinstance(value, Resolved):
            self._value = self._resolve(value.template, value.environ)

    def __eq__(self, other: object) -> bool:
        """
        Two addresses are equal if they are written alike.

        What a reference stands for is read again for every connection: a new password is no change.
        """
        if not isinstance(other, SecretAddress) or self._template != other._template:
            return False
        return self._template is not None or self._value == other._value

    __hash__ = None  # as above

    @property
    def hidden(self) -> tuple[str, ...]:
        """The password, as it is and as it is written; nothing if the address has none."""
        found = _USER_AND_PASSWORD.match(self.reveal())
        if found is None:
            return (self.reveal(),)
        written = found[1].partition(":")[2]
        return tuple(dict.fromkeys(each for each in (unquote(written), written) if each))

    @staticmethod
    def _resolve(template: str, environ: Mapping[str, str]) -> str:
        return _REFERENCE.sub(
            lambda found: _in_address(_resolve_one(found, environ), first=not found.start()),
            template,
        )

    @staticmethod
    def _check(value: str) -> None:
        if not value:
            raise ValueError("is empty")
        if not value.isprintable() or " " in value:
            raise ValueError("has a space or a control character: percent-encode it (%20)")


def _in_address(value: str, *, first: bool) -> str:
    """Return *value* as it is written in an address; hosts, ports and ``user:password`` stay."""
    return value if first else quote(value, safe=",:[]")
