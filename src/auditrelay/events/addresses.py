"""Which texts are IP or email addresses: a SIEM's typed fields refuse anything else."""

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
    """Return whether *text* is an ASCII email address, as OCSF's ``email_t`` requires."""
    return _EMAIL.fullmatch(text) is not None
