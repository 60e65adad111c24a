"""Addresses of peers: https, unless the host is loopback."""

import ipaddress
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

_METADATA_HOSTS = frozenset(map(ipaddress.ip_address, ("169.254.169.254", "fd00:ec2::254")))


def check_address(value: str) -> str:
    """Return *value* with its scheme in small letters. Raises ValueError if it is no address."""
    # No message repeats the value: it may be a key that was pasted into the wrong line.
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018  # reading it is the check
    except ValueError:
        raise ValueError("is not an address: its host or port is malformed") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is not an address: write https://host or https://host:port")
    if not value.isprintable() or " " in value:
        raise ValueError("must not contain a space or a control character")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not contain a user name or password: they would appear in logs")
    if parts.query or parts.fragment:
        raise ValueError("must not contain a query or a fragment")
    if _ip(parts.hostname) in _METADATA_HOSTS:
        raise ValueError("is a cloud metadata service, not a peer")
    return parts.scheme + value[len(parts.scheme) :]  # the scheme in lower case


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


Address = Annotated[str, AfterValidator(lambda value: check_address(value).rstrip("/"))]
"""An http or https address without credentials, query or trailing slash."""

Endpoint = Annotated[str, AfterValidator(check_address)]
"""The same, but with the slash at its end if it has one: nothing is added to it."""


def is_loopback(address: str) -> bool:
    """Return whether the host of *address* is this machine."""
    host = urlsplit(address).hostname or ""
    ip = _ip(host)
    return host == "localhost" if ip is None else ip.is_loopback
