"""What an intake really stored, independent of its answers: counts lost and repeated events."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any, Final

_MARK: Final = re.compile(r"sandbox-[a-z0-9_.]+-\d{8}(?:-\d+)?")

_HEAD: Final = "auditrelay.ledger_sealed"

_WORD: Final = re.compile(rb"arh1\.([0-9a-f]{32})\.([0-9]+)\.([0-9a-f]{64})")
"""A head of the evidence, up to its root."""


class Stored:
    """
    The events that one intake stored, counted by the sender's uid and by the vendor's native id.

    *documents* are the events themselves in order of arrival, and *uids* their uids in the same
    order; neither is stored if *lean*, so that a million events cost only their counters.

    If *marked*, an event that has a :func:`mark` anywhere is counted by that instead of its native
    id: not every vendor's records have one, and several events may come of one record.
    """

    def __init__(self) -> None:
        self.lean = False
        self.marked = False
        self.total = 0
        self.by_uid: Counter[str] = Counter()
        self.by_native_id: Counter[str] = Counter()
        self.uids: list[str | None] = []
        self.documents: list[Any] = []
        self.heads: list[Any] = []
        self.head_uids: set[str] = set()
        """The uids among ``by_uid`` of heads, in lean mode."""
        self._native_ids: list[str | None] = []

    def add(self, document: Any, uid: str | None, native_id: str | None) -> None:
        """Store one event; a head of the evidence, which no vendor recorded, among the *heads*."""
        if (native_id is None or not self.lean) and _HEAD in json.dumps(document, default=str):
            self.heads.append(document)
            return
        if self.marked:
            native_id = _marked(document) or native_id
        self.total += 1
        if uid is not None:
            self.by_uid[uid] += 1
        if native_id is not None:
            self.by_native_id[native_id] += 1
        if not self.lean:
            self.uids.append(uid)
            self._native_ids.append(native_id)
            self.documents.append(document)

    def note_heads(self, body: bytes) -> None:
        """Take the heads in *body*, for lean mode, out of the total; their words say the uids."""
        if b"arh1." in body:
            texts = {b"head " + b" ".join(found.groups()) for found in _WORD.finditer(body)}
            uids = {sha256(text).hexdigest()[:40] for text in texts} - self.head_uids
            self.head_uids |= uids
            self.total -= len(uids)

    def lose(self, document: Any) -> None:
        """Remove this very *document*: accepted, but lost before it reached a disk."""
        place = next(i for i, each in enumerate(self.documents) if each is document)
        del self.documents[place]
        uid, native_id = self.uids.pop(place), self._native_ids.pop(place)
        self.total -= 1
        for counter, name in ((self.by_uid, uid), (self.by_native_id, native_id)):
            if name is not None:
                counter[name] -= 1
                if not counter[name]:
                    del counter[name]

    def lost(self, made: Iterable[str]) -> list[str]:
        """Return those native ids of *made* that never arrived."""
        return [native_id for native_id in made if native_id not in self.by_native_id]

    def repeated(self) -> dict[str, int]:
        """Return the uids that arrived more than once, with their counts."""
        return {uid: count for uid, count in self.by_uid.items() if count > 1}


def mark(origin: str, number: int) -> str:
    """Return the text by which the record *number* of *origin* is found in any event."""
    return f"sandbox-{origin}-{number:08}"


def _marked(document: Any) -> str | None:
    """Return the longest mark in *document*: that of a part of a record is the longer one."""
    return max(_MARK.findall(json.dumps(document)), key=len, default=None)


def first_at(document: Any, paths: Iterable[str]) -> str | None:
    """Return as text the first of the dotted *paths* with a value in *document*."""
    for path in paths:
        value = at_path(document, path)
        if isinstance(value, str | int) and value != "":
            return str(value)
    return None


def at_path(document: Any, path: str) -> Any:
    """Return the value at a dotted *path*, nested or under the dotted key itself; else None."""
    if not isinstance(document, dict):
        return None
    if path in document:
        return document[path]
    for head, tail in _splits(path):
        if head in document:
            return at_path(document[head], tail)
    return None


def _splits(path: str) -> Iterator[tuple[str, str]]:
    dot = path.find(".")
    while dot >= 0:
        yield path[:dot], path[dot + 1 :]
        dot = path.find(".", dot + 1)


def scan(body: bytes, marker: bytes, key: bytes) -> list[str]:
    """
    Return, without parsing, the JSON text or number that follows *key* after each *marker*.

    For lean mode only: a marker inside a text value would count as well. Keys of JSON inside a
    string are escaped and do not.
    """
    found = []
    for part in body.split(marker)[1:]:
        start = part.find(key)
        if start < 0:
            continue
        start += len(key)
        if part[start : start + 1] == b'"':
            found.append(part[start + 1 : part.index(b'"', start + 1)].decode())
        else:
            end = start
            while part[end : end + 1].isdigit():
                end += 1
            found.append(part[start:end].decode())
    return found
