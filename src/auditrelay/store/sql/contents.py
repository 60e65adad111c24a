"""
The contents that known records were shown with: the column ``digest`` beside each known uid.

It holds the first eight bytes of the digest of each content that was forwarded, the newest first:
the last one is that of the event itself. One byte more, if it is there, counts the contents that
were accepted in place of the last one. A record that was shown with another content MOST times is
not compared any more, so that none costs that without an end.

Works on a connection, within the caller's transaction.
"""

from collections.abc import Sequence
from functools import cache
from typing import Final

from auditrelay.store import Contents
from auditrelay.store.keys import KEY
from auditrelay.store.places import place
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.dialect import Dialect
from auditrelay.store.sql.spool import LOG

DIGEST: Final = 8
"""How many bytes of a digest are kept."""

MOST: Final = 3
"""How many further contents of one record are reported or accepted."""


def contents(db: Connection, owner: int, keys: Sequence[bytes | None]) -> list[Contents | None]:
    """Return what is known of the contents of each of *keys*; None for those that are not known."""
    if not keys:
        return []
    joined = b"".join([key or bytes(KEY) for key in keys])
    (found,) = db.execute(
        _each(db.dialect),
        {"rows": db.dialect.count(len(keys)), "keys": joined, "source": owner},
    ).fetchone()
    return [_parse(text) if text else None for text in found.split(",")]


@cache
def _each(dialect: Dialect) -> str:
    digits = dialect.hex.format(f"coalesce(digest, {dialect.empty.format(0)})")
    one = (
        f"coalesce((select position || ' ' || {digits} from known "  # noqa: S608  # constants
        f"where source = :source and key = substr(:keys, 1 + {KEY} * row.key, {KEY})), '')"
    )
    return f"select {dialect.texts.format(one, 'row.key')} from {dialect.rows}"  # noqa: S608  # constants


def write(db: Connection, owner: int, key: bytes, digest: bytes, *, accept: bool) -> None:
    """Enter *digest* as that of the newest content, or *accept* it in place of the first one."""
    (found,) = db.execute(
        "select digest from known where source = ? and key = ?", (owner, key)
    ).fetchone()
    before = found or b""
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
