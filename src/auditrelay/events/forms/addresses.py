"""Which texts are addresses: a SIEM's typed fields refuse, or mislead about, any other."""

import re
from functools import lru_cache
from ipaddress import ip_address

_EMAIL = re.compile(r"[a-zA-Z0-9!#-'*-/=?^-`{|}~]+@[a-zA-Z0-9-]+(?:\.[a-zA-Z0-9-]+)+")


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
    """Return whether *text* is an e-mail address of plain letters, as OCSF's ``email_t`` is."""
    return _EMAIL.fullmatch(text) is not None
