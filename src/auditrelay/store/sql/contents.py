"""
The contents that known records were shown with: the column ``digest`` beside each known uid.

It holds the first eight bytes of the digest of each content that was forwarded, the newest first:
the last one is that of the event itself. One byte more, if it is there, counts the contents that
were accepted in place of the last one. A record that was shown with another content MOST times is
not compared any more, so that none costs that without an end.

Works on a connection, within the caller's transaction.
"""

import json
import sqlite3
from collections.abc import Sequence
from typing import Final

from auditrelay.store import Contents
from auditrelay.store.keys import KEY
from auditrelay.store.places import place
from auditrelay.store.sql.spool import LOG

DIGEST: Final = 8
"""How many bytes of a digest are kept."""

MOST: Final = 3
"""How many further contents of one record are reported or accepted."""

_EACH: Final = (
    "select group_concat(coalesce((select position || ' ' || hex(coalesce(digest, '')) from known "  # noqa: S608  # constants
    f"where source = ?3 and key = substr(?2, 1 + {KEY} * row.key, {KEY})), '')) "
    "from json_each(?1) as row"
)


def contents(
    db: sqlite3.Connection, owner: int, keys: Sequence[bytes | None]
) -> list[Contents | None]:
    """Return what is known of the contents of each of *keys*; None for those that are not known."""
    if not keys:
        return []
    joined = b"".join([key or bytes(KEY) for key in keys])
    (found,) = db.execute(_EACH, (json.dumps([0] * len(keys)), joined, owner)).fetchone()
    return [_parse(text) if text else None for text in found.split(",")]


def write(db: sqlite3.Connection, owner: int, key: bytes, digest: bytes, *, accept: bool) -> None:
    """Enter *digest* as that of the newest content, or *accept* it in place of the first one."""
    (before,) = db.execute(
        "select coalesce(digest, x'') from known where source = ? and key = ?", (owner, key)
    ).fetchone()
    whole = len(before) // DIGEST * DIGEST
    digests, accepted = before[:whole], before[whole:]
    if not digests:
        after = digest[:DIGEST]
    elif accept:
        after = digests[:-DIGEST] + digest[:DIGEST] + bytes([sum(accepted) + 1])
    else:
        after = digest[:DIGEST] + digests + accepted
    db.execute("update known set digest = ? where source = ? and key = ?", (after, owner, key))


def _parse(text: str) -> Contents:
    position, _, digits = text.partition(" ")
    digest = bytes.fromhex(digits)
    count = len(digest) // DIGEST
    digests = tuple(digest[DIGEST * n : DIGEST * (n + 1)].hex() for n in range(count))
    accepted = sum(digest[DIGEST * count :])
    return Contents(digests, place(LOG, int(position)), MOST - max(count - 1, 0) - accepted)
