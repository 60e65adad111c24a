"""
The next address that a vendor gives: only its path and query are used, and only if they are ours.

Everything goes to the host that the operator configured, because the credentials go along.
"""

from collections.abc import Collection
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urljoin, urlsplit

from auditrelay.errors import Refused
from auditrelay.telemetry.scrubber import scrub

_PORTS = {"https": 443, "http": 80}


class NextAddress(NamedTuple):
    """A path of ours and the query of the next page, as the vendor has written it."""

    path: str
    query: str

    @property
    def identity(self) -> tuple[str, ...]:
        """The same for two spellings of one address."""
        return self.path, *map("=".join, sorted(parameters(self.query)))


def checked(address: str) -> str:
    """Return *address* if it can be one, whole or in part. Raises ValueError."""
    target = urlsplit(urljoin("https://host.invalid/", address.strip()))
    _ = target.hostname, target.port  # which are read only now
    return address


def parameters(query: str) -> list[tuple[str, str]]:
    """Return the parameters of *query*, decoded."""
    return parse_qsl(query, keep_blank_values=True, errors="surrogateescape")


class OurAddresses:
    """
    The addresses that a next page may have.

    *bases* are the addresses of the API: the one that requests go to and, if the operator put
    another in its place (a gateway), the vendor's own, which it goes on writing into its replies.
    *paths* are the paths of pages, below a base.
    """

    def __init__(self, bases: Collection[str], paths: Collection[str]) -> None:
        split = [urlsplit(base) for base in bases]
        self._origins = {_origin(base) for base in split}
        self._base = split[0]
        self._paths = {
            unquote(f"{prefix}{path}"): path
            for path in paths
            for prefix in ("", *(base.path.rstrip("/") for base in split))
        }

    def next(self, address: str, current: str) -> NextAddress:
        """
        Return *address*, which a page at the path *current* gave and which is ``checked``.

        Raises Refused if it is not ours.
        """
        here = f"{self._base.scheme}://{self._base.netloc}{self._base.path.rstrip('/')}{current}"
        target = urlsplit(urljoin(here, address.strip()))
        if _origin(target) not in self._origins:
            raise Refused(
                f"the next page lies on another host ({scrub(_shown(target), 100)}); it is not "
                "followed, because the credentials would go there"
            )
        path = self._paths.get(unquote(target.path))
        if path is None:
            raise Refused(
                f"the next page lies at another path ({scrub(target.path, 100)}); it is not "
                "followed, because only request.path and pages.path are known to be pages"
            )
        return NextAddress(path, target.query)


def _origin(address: SplitResult) -> tuple[str, str | None, int | None]:
    scheme = address.scheme.lower()
    return scheme, address.hostname, address.port or _PORTS.get(scheme)


def _shown(address: SplitResult) -> str:
    host = address.hostname or address.scheme
    port = "" if address.port is None else f":{address.port}"
    return f"{host}{port}"
