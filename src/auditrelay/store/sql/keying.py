"""
The key of the evidence: begun, replaced, given up. Works within the caller's transaction.

All tags are set again by the key that is in force from then on; they are over digests, so no page
is read for that.
"""

from typing import Final

from auditrelay.evidence import facts
from auditrelay.evidence.heads import Keys, key_id
from auditrelay.store.sql import branches, meta, sinks, tags
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.facts import INSTANCE, insert

KEY: Final = "key"
"""The name of the public key that is in force."""


def begin(db: Connection, before: Keys | None, now: int) -> None:
    """Compare the key that *db* has with the one in force; *before* is the one that it replaces."""
    keys = db.keys
    known = meta.find_bytes(db, KEY)
    public = None if keys is None else keys.public
    if public == known:
        _report_wrong(db, now)
        return
    vouching = before if before is not None and before.public == known else None
    if vouching is not None:
        db.keys = vouching
        _report_wrong(db, now)
        db.keys = keys
    insert(
        db,
        INSTANCE,
        [
            facts.key(
                public=public or b"",
                before=None if known is None else key_id(known),
                signature=None if vouching is None or public is None else vouching.vouch(public),
            )
        ],
        now,
    )
    tags.put_all(db)
    meta.put_bytes(db, KEY, public)


def _report_wrong(db: Connection, now: int) -> None:
    """Keep that rows were changed or put in, if any were; sinks go back to what was sealed."""
    for (name,) in db.execute("select name from sink").fetchall():
        sinks.trust(db, name, now)
    wrong = tags.all_wrong(db)
    if not wrong and not tags.are_open_whole(db):
        branches.set_broken(db, tags.OPEN_WRONG, now)
    if wrong:
        table, name = wrong[0]
        more = f", and {len(wrong) - 1} more rows" if len(wrong) > 1 else ""
        what = f"a row that we did not write: {table} {name!s}{more}"
        branches.set_broken(db, what, now)
