"""
The identity of an event for life: the first 40 hex digits of a SHA-256 over its origin.

It depends on the vendor, its organisation and the record alone: not on the configured name of the
source, nor on when, how or by which replica the record was read. Every part is preceded by its
length, so that no two lists of parts hash the same bytes; SHA-256, because audited users control
part of the input, and a collision would hide an event.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

_SCHEME = "1"
"""Part of every hash, so that a later scheme cannot collide with this one."""


def _part(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def canonical(value: Any) -> bytes:
    """Return *value* as JSON that does not depend on the order of keys or on spacing."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode()


class Uids:
    """Computes the uids of one vendor's records. Caches the hashed prefix of each scope."""

    def __init__(self, vendor: str) -> None:
        self._vendor = vendor
        self._prefixes: dict[tuple[str, str], Any] = {}

    def _prefix(self, how: str, scope: str) -> Any:
        prefix = self._prefixes.get((how, scope))
        if prefix is None:
            parts = ("auditrelay", _SCHEME, how, self._vendor, scope)
            prefix = hashlib.sha256(b"".join(_part(part.encode()) for part in parts))
            if len(self._prefixes) >= 1024:
                self._prefixes.clear()
            self._prefixes[how, scope] = prefix
        return prefix

    def _uid(self, prefix: Any, last: bytes) -> str:
        digest = prefix.copy()
        digest.update(_part(last))
        uid: str = digest.hexdigest()[:40]
        return uid

    def native(self, scope: str, native_id: str) -> str:
        """Return the uid of the record that the vendor calls *native_id* within *scope*."""
        return self._uid(self._prefix("n", scope), native_id.encode())

    def natives(self, scope: str, native_ids: Iterable[str]) -> list[str]:
        """Return what :meth:`native` returns for each of *native_ids*."""
        copy = self._prefix("n", scope).copy
        uids: list[str] = []
        for native_id in native_ids:
            text = native_id.encode()
            digest = copy()
            digest.update(len(text).to_bytes(4, "big") + text)  # as in _part
            uids.append(digest.hexdigest()[:40])
        return uids

    def content(self, scope: str, content: bytes, ordinal: int) -> str:
        """
        Return the uid of a record without an id: the *ordinal*-th with this *content*.

        Identical records of one page count from 0, so that twins remain two events.
        """
        return self._uid(self._prefix("c", scope), b"%s#%d" % (content, ordinal))
