"""Export the evidence as plain lines, which an auditor checks without the state."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Final

from auditrelay import __version__
from auditrelay.errors import RelayError
from auditrelay.evidence.heads import Head
from auditrelay.store.sql.branches import log_of
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.evidence import entries, heads, newest_word, uids

JOURNAL: Final = "journal.ndjson"
HEADS: Final = "heads.txt"
UIDS: Final = "uids.ndjson"
MANIFEST: Final = "manifest.json"


@dataclass(frozen=True, slots=True)
class Exported:
    """How many entries, heads and uids were written; None: uids were not asked for."""

    entries: int
    heads: int
    uids: int | None


class _File:
    """A file of lines, of which it counts the bytes' digest as well."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._digest = sha256()

    def line(self, text: str) -> None:
        """Append *text*, which is ASCII, and a line feed."""
        line = f"{text}\n".encode("ascii")
        self._digest.update(line)
        self._stream.write(line)

    @property
    def digest(self) -> str:
        """The SHA-256 of what was written, in hexadecimal."""
        return self._digest.hexdigest()


def export(db: Connection, folder: Path, *, within: tuple[int, int] | None = None) -> Exported:
    """
    Write the evidence that *db* shows, one snapshot, to *folder*, which has none yet.

    All entries go to ``journal.ndjson`` and all heads to ``heads.txt``. With *within*, times in
    microseconds, the uids of what was sealed in that time go to ``uids.ndjson``, a page a line:
    ``{"n", "first", "keys"}``, the entry, the first place and the keys, in base64. At last comes
    ``manifest.json``: without it the export is not complete. Raises FileExistsError and OSError,
    and RelayError between the begin of a new log and its first seal: heads of the log before that
    lie beyond the branch would look as if the end of it had been cut off.
    """
    word = newest_word(db)
    log = log_of(db)
    if word is not None and Head.parse(word).log != log:
        raise RelayError(
            "the state was restored, copied, moved or damaged, and goes on in a new log of which "
            "nothing is sealed yet: start the service, and export after its first seal (within 5 "
            "minutes)"
        )
    digests: dict[str, str] = {}
    sealed: list[int] = []  # entries whose uids are wanted
    with (folder / JOURNAL).open("xb") as stream:
        file, count = _File(stream), 0
        for n, text in entries(db):
            file.line(text)
            count += 1
            if within is not None and within[0] <= json.loads(text)["at"] < within[1]:
                sealed.append(n)
        digests[JOURNAL] = file.digest
    with (folder / HEADS).open("xb") as stream:
        file, written_heads = _File(stream), 0
        for head in heads(db):
            file.line(head.word)
            written_heads += 1
        digests[HEADS] = file.digest
    found = None
    if within is not None:
        with (folder / UIDS).open("xb") as stream:
            file, found = _File(stream), 0
            for n, first, keys in _within(db, sealed):
                text = base64.b64encode(keys).decode("ascii")
                file.line(f'{{"n":{n},"first":{first},"keys":"{text}"}}')
                found += len(keys) // 28
            digests[UIDS] = file.digest
    manifest = {
        "v": 1,
        "auditrelay": __version__,
        "log": log,
        "entries": count,
        "heads": written_heads,
        "uids": found,
        "head": word,
        "sha256": digests,
    }
    with (folder / MANIFEST).open("x", encoding="ascii") as written:
        written.write(json.dumps(manifest, indent=2) + "\n")
    return Exported(count, written_heads, found)


def _within(db: Connection, sealed: list[int]) -> Iterator[tuple[int, int, bytes]]:
    """Yield the pages of the entries *sealed*, which follow each other as times never run back."""
    if sealed:
        first, last = sealed[0], sealed[-1]
        yield from (page for page in uids(db) if first <= page[0] <= last)
