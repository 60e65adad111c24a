"""
The address of the database: what may stand in it, and how a connection is made by it.

Nothing but the address decides how we connect: libpq would also follow the variables ``PG*``,
``~/.pgpass``, service files and the certificates in ``~/.postgresql``. TLS is verified, as
everywhere in auditrelay, where libpq's default would accept any certificate, or none.
"""

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

from auditrelay.errors import ConfigError, StateError
from auditrelay.settings.secrets import SecretAddress
from auditrelay.telemetry.scrubber import Scrubber

if TYPE_CHECKING:
    from psycopg import Connection

SCHEMA: Final = "auditrelay"
"""The schema of the tables, unless the address names another."""

_EXAMPLE: Final = "postgresql://relay@db1.example.com/auditrelay"
_KEYS: Final = ("schema", "sslrootcert", "sslcert", "sslkey", "connect_timeout")
_FILES: Final = ("sslrootcert", "sslcert", "sslkey")
_SCHEMA = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,62}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9])?[.]?", re.ASCII)
_KEYWORD = re.compile("[a-z_]{1,40}", re.ASCII)

_MOST_OF_AN_ERROR: Final = 2000
"""Characters: it has a sentence for each address of each host."""

_NO_FILE: Final = "/dev/null/none"
"""A file that cannot exist: without a name, libpq looks for one in the home folder."""

_UNASKED: Final = ("PGDATESTYLE", "PGGEQO", "PGREQUIRESSL", "PGSERVICE", "PGSERVICEFILE", "PGTZ")
"""Variables that libpq follows and no parameter overrides: we take them out of our environment."""

_ALWAYS: Final[Mapping[str, str]] = {
    "client_encoding": "UTF8",
    "gssencmode": "disable",
    "keepalives": "1",
    "keepalives_count": "3",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "max_protocol_version": "3.0",  # what every pooler speaks
    "min_protocol_version": "3.0",
    "passfile": _NO_FILE,
    "require_auth": "scram-sha-256,md5,password,none",  # none: by certificate, or by the socket
    "sslcert": _NO_FILE,
    "sslcertmode": "disable",
    "sslcrl": _NO_FILE,
    "sslmode": "disable",
    "target_session_attrs": "read-write",  # of several hosts the one that is not a standby
    "tcp_user_timeout": "30000",
}
"""What every connection is made with; the address may change the files, and ``sslmode`` follows."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """
    The parts of an address, decoded.

    *verified* is whether the connection is by TLS, to a server whose certificate is of its name.
    """

    user: str
    password: str = field(repr=False)
    hosts: tuple[tuple[str, int], ...]
    database: str
    schema: str
    connect_timeout: int
    files: Mapping[str, str]
    verified: bool

    @property
    def safe(self) -> str:
        hosts = ",".join(_shown(host, port) for host, port in self.hosts)
        schema = "" if self.schema == SCHEMA else f"?schema={self.schema}"
        return f"postgresql://{quote(self.user)}@{hosts}/{quote(self.database)}{schema}"

    @property
    def parameters(self) -> dict[str, str]:
        files = dict(self.files)
        if "sslcert" in files:
            files["sslcertmode"] = "allow"
        if self.verified:
            files.setdefault("sslrootcert", _authorities())
        return {
            **_ALWAYS,
            **files,
            "sslmode": "verify-full" if self.verified else "disable",
            "user": self.user,
            "password": self.password,
            "host": ",".join(host for host, _ in self.hosts),
            "port": ",".join(str(port) for _, port in self.hosts),
            "dbname": self.database,
            "connect_timeout": str(self.connect_timeout),
        }


class Address:
    """
    Where the shared store is, and how to connect to it.

    Raises ValueError with a sentence, without any value, if *secret* is no address we can use.
    """

    def __init__(self, secret: SecretAddress) -> None:
        self._secret = secret
        self._scrubber = Scrubber()
        self._scrubber.learn(secret)
        self._parts = _parse(secret.reveal())

    @property
    def schema(self) -> str:
        """The schema of the tables: a plain name, which needs no quotes."""
        return self._parts.schema

    @property
    def safe(self) -> str:
        """The address for logs and errors, without the password."""
        return self._parts.safe

    def connect(self, application_name: str) -> "Connection[tuple[Any, ...]]":
        """
        Return a new connection in autocommit that prepares no statements.

        The secret is read again first, so that a password that has changed needs no restart. Takes
        at most ``connect_timeout`` seconds for each address of each host. Raises psycopg's
        OperationalError, without the password, if no host lets us in; StateError if the secret
        now names another database.
        """
        import psycopg  # noqa: PLC0415  # only a shared store needs it

        for name in _UNASKED:
            os.environ.pop(name, None)
        if self._secret.reload():
            self._read_again()
        parameters = {**self._parts.parameters, "application_name": application_name}
        try:
            connection: Connection[tuple[Any, ...]] = psycopg.connect(
                **_all_that_libpq_knows(parameters), autocommit=True, prepare_threshold=None
            )
        except psycopg.Error as error:
            text = self._scrubber.scrub(" ".join(str(error).split()), _MOST_OF_AN_ERROR)
            # psycopg's own error has all parameters as well, and the password is one.
            raise type(error)(text) from None
        return connection

    def _read_again(self) -> None:
        try:
            parts = _parse(self._secret.reveal())
        except ValueError:
            return  # its file may be being replaced: the next connection reads it again
        if (parts.database, parts.schema) != (self._parts.database, self._parts.schema):
            raise StateError(
                f"store: names another database or schema than {self.safe}, with which this "
                "process was started: restart it if that is meant"
            )
        self._parts = parts


def check_address(secret: SecretAddress) -> None:
    """Raise ValueError with a sentence, without any value, if *secret* is no address we can use."""
    _parse(secret.reveal())


def require_psycopg() -> None:
    """Raise ConfigError unless psycopg is there, which the other modules beside this one import."""
    try:
        import psycopg  # noqa: F401, PLC0415  # only a shared store needs it
    except ImportError as error:
        raise ConfigError(
            f'store: needs the package psycopg: pip install "auditrelay[postgres]" ({error})'
        ) from error


def _all_that_libpq_knows(parameters: Mapping[str, str]) -> dict[str, Any]:
    """
    Return *parameters* without those that this libpq does not know, and what else has a variable.

    A parameter that is given is never taken from its variable. Poolers refuse a connection that has
    ``options``, and nothing here gives any.
    """
    from psycopg.pq import Conninfo  # noqa: PLC0415  # as above

    found = {}
    for option in Conninfo.get_defaults():
        keyword = option.keyword.decode()
        variable = (option.envvar or b"").decode()
        if keyword in parameters:
            found[keyword] = parameters[keyword]
        elif variable and variable in os.environ:
            found[keyword] = (option.compiled or b"").decode()
    return found


def _authorities() -> str:
    """
    Return the file of the authorities that this system trusts, else of the public ones.

    libpq's own word for that, ``system``, looks where its OpenSSL was built to look: nowhere, if it
    came in a wheel.
    """
    import ssl  # noqa: PLC0415  # it takes 10 ms to import

    import certifi  # noqa: PLC0415  # as above

    return ssl.get_default_verify_paths().cafile or certifi.where()


# -- parsing ---------------------------------------------------------------------------------------


def _parse(text: str) -> _Parts:
    """Return the parts of the address *text*, or raise ValueError. No message has a part of it."""
    scheme, found, rest = text.partition("://")
    if not found or scheme.lower() not in ("postgresql", "postgres"):
        raise ValueError(
            f'is not an address of PostgreSQL: write "{_EXAMPLE}"; without the key SQLite in '
            "state_dir is used"
        )
    authority, path, query = _split(rest)
    who, at, where = authority.rpartition("@")
    user, _, password = who.partition(":")
    if not at or not user:
        raise ValueError(f'names no user: write "{_EXAMPLE}"')
    hosts = tuple(_host(each) for each in where.split(","))
    database = _decoded(path, "the database")
    if not database:
        raise ValueError(f'names no database: write "{_EXAMPLE}"')
    asked = _asked(query)
    schema = asked.pop("schema", SCHEMA)
    if not _SCHEMA.fullmatch(schema):
        raise ValueError(
            "schema: must be a name of small letters, digits and _, at most 63, and not begin "
            "with a digit or pg_"
        )
    tls = bool({"sslrootcert", "sslcert", "sslmode"} & asked.keys())
    return _Parts(
        user=_decoded(user, "the user"),
        password=_decoded(password, "the password"),
        hosts=hosts,
        database=database,
        schema=schema,
        connect_timeout=_timeout(asked.get("connect_timeout", "10")),
        files=_files(asked),
        verified=tls or not all(_is_here(host) for host, _ in hosts),
    )


def _split(rest: str) -> tuple[str, str, str]:
    """Return user, password and hosts; the database; and what follows the question mark."""
    found = re.match("([^/?#]*)(?:/([^?#]*))?(?:[?]([^#]*))?", rest)
    assert found is not None  # noqa: S101  # each part may be empty
    authority, path, query = found[1], found[2] or "", found[3] or ""
    if found.end() < len(rest) or "@" in path + query:
        raise ValueError(
            "has a character that must be percent-encoded, in the password perhaps: write %2F for "
            "/, %3F for ?, %23 for #, %40 for @, or refer to a file with the password alone, "
            '"postgresql://relay:${file:/run/secrets/password}@db1.example.com/auditrelay"'
        )
    return authority, path, query


def _decoded(text: str, what: str) -> str:
    if re.search("%(?![0-9A-Fa-f]{2})", text):
        raise ValueError(f"{what} has a % that begins no %XX: write %25 for it")
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError(f"{what} is not text in UTF-8") from None
    if "\0" in decoded or (what != "the password" and not decoded.isprintable()):
        raise ValueError(f"{what} has a control character")
    return decoded


def _host(text: str) -> tuple[str, int]:
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(.*))?", text)
    if bracketed:
        host, port = bracketed[1], bracketed[2]
    else:
        written, colon, behind = text.partition(":")
        host, port = _decoded(written, "a host"), behind if colon else None
    if not host:
        raise ValueError(f'names no host: write "{_EXAMPLE}"; a folder of sockets is %2Frun%2F...')
    is_name = _NAME.fullmatch(host) and not bracketed
    if not (host.startswith("/") and "," not in host) and not is_name and _ip(host) is None:
        raise ValueError("a host is malformed: write a name, an IP address ([::1]), or %2Frun%2F..")
    if port is None:
        return host, 5432
    if not re.fullmatch("[0-9]{1,5}", port, re.ASCII) or not 0 < int(port) < 65536:
        raise ValueError("a port is malformed: write a number from 1 to 65535 behind the host")
    return host, int(port)


def _asked(query: str) -> dict[str, str]:
    """Return the keys behind the question mark with their values; raise ValueError for others."""
    asked: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        key, _, written = pair.partition("=")
        value = _decoded(written, key if key in _KEYS else "the part behind the question mark")
        if key == "sslmode":
            if value != "verify-full":
                raise ValueError(
                    "sslmode: TLS is always verified, and cannot be weaker than verify-full: leave "
                    "it out, and give the authority of the server's certificate with sslrootcert"
                )
        elif key not in _KEYS:
            named = f" {key}" if _KEYWORD.fullmatch(key) else ""
            raise ValueError(
                f"has an unknown key{named} behind the question mark; there may be: "
                f"{', '.join(_KEYS)}"
            )
        if key in asked:
            raise ValueError(f"{key} is there twice")
        asked[key] = value
    return asked


def _files(asked: Mapping[str, str]) -> dict[str, str]:
    if ("sslcert" in asked) != ("sslkey" in asked):
        raise ValueError("sslcert and sslkey: set both or neither")
    files = {key: asked[key] for key in _FILES if key in asked}
    if files.get("sslrootcert") == "system":
        files["sslrootcert"] = _authorities()
    for key, path in files.items():
        if not os.access(path, os.R_OK):
            raise ValueError(f"{key}: cannot read {path}")
    return files


def _timeout(text: str) -> int:
    if not re.fullmatch("[0-9]{1,2}", text, re.ASCII) or not 2 <= int(text) <= 60:
        raise ValueError("connect_timeout: must be a whole number of seconds, from 2 to 60")
    return int(text)


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_here(host: str) -> bool:
    """Return whether *host* is this machine."""
    ip = _ip(host)
    return host.startswith("/") or host == "localhost" or (ip is not None and ip.is_loopback)


def _shown(host: str, port: int) -> str:
    name = f"[{host}]" if ":" in host else quote(host, safe="")
    return name if port == 5432 else f"{name}:{port}"
