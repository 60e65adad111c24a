"""Which texts are IP or email addresses: a SIEM's typed fields refuse anything else."""

import re
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

_EMAIL = re.compile(r"[a-zA-Z0-9!#-'*-/=?^-`{|}~]+@[a-zA-Z0-9-]+(?:\.[a-zA-Z0-9-]+)+")

_FORWARDED = re.compile(r"for=\s*\"?([^\";,]*)", re.IGNORECASE)
"""An element of a ``Forwarded`` header (RFC 7239)."""
_SEPARATORS = re.compile(r"[\s,;]+")
_WITH_PORT = re.compile(r"\[([^\]]+)\](?::\w{1,16})?|([\d.]+):\w{1,16}")
_MAX_CHAIN_LENGTH = 4096
"""Characters of a chain of addresses that are read."""


@lru_cache(maxsize=4096)
def is_ip(text: str) -> bool:
    """Return whether *text* is an IPv4 or IPv6 address, without a zone."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


@lru_cache(maxsize=4096)
def is_email(text: str) -> bool:
    """Return whether *text* is an ASCII email address, as OCSF's ``email_t`` requires."""
    return _EMAIL.fullmatch(text) is not None


@lru_cache(maxsize=4096)
def client_ip(text: str) -> str | None:
    """
    Return the IP address of the client that *text* names first, None if it names none.

    It may be a chain of proxies (``X-Forwarded-For``, ``Forwarded`` of RFC 7239), where the client
    is leftmost, and an address may have a port or a zone. An IPv4 address that is written as an
    IPv6 one is an IPv4 address.
    """
    text = text[:_MAX_CHAIN_LENGTH]
    parts = _FORWARDED.findall(text) if "=" in text else _SEPARATORS.split(text)
    return next((ip for part in parts if (ip := _one_ip(part))), None)


def _one_ip(part: str) -> str | None:
    part = part.strip(" \t\r\n\"'")
    found = _WITH_PORT.fullmatch(part)
    address = (found[1] or found[2]) if found else part
    address = address.partition("%")[0]
    if not is_ip(address):
        return None
    ip = ip_address(address)
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return address if mapped is None else str(mapped)


def ip_and_text(text: str | None) -> tuple[str | None, str | None]:
    """Return the client's address in *text*, and *text* itself if it says more."""
    if not text:
        return None, None
    ip = client_ip(text)
    if ip is None:
        return text, None
    return ip, text if text != ip else None
