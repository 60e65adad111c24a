"""
The fact about a page that was put into the spool, and the keys of pages of our own events.

The keys of our own events, and of records that were put aside and sent after all, are not known at
their places: what is known is compared with what a source shows. An auditor compares them with a
SIEM all the same. So they are kept by the page, and outlive the spool: as long as known uids do.

Works on a connection, within the caller's transaction.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from auditrelay.events.page import Page
from auditrelay.evidence import facts
from auditrelay.store.keys import KEY, known_keys
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.spool import Placed

NOTICE: Final = "notice"
"""How an event of our own comes into the spool, in the fact that tells of its page."""

REPLAY: Final = "replay"
"""The same for a record that was put aside, and that an operator has sent after all."""


def accepted(
    via: str, placed: Placed, page: Page, keys: Sequence[bytes], *, late: int = 0
) -> facts.Body:
    """Return the fact about a *page* of new events with these *keys*."""
    return facts.accepted(
        via=via,
        first=placed.first,
        count=len(page),
        late=late,
        uids=facts.digest(keys),
        raws=sha256("".join(page.raw_sha256).encode()).digest(),
        stored=placed.stored,
    )


def own(
    db: Connection, via: str, owner: int, placed: Placed, page: Page, *, now: int
) -> facts.Body:
    """Keep the keys of *page*, a NOTICE or REPLAY of the source *owner*; return its fact."""
    keys = known_keys(page)
    row = placed.first, owner, now, b"".join(keys)
    db.execute("insert into own_page values (?, ?, ?, ?)", row)
    return accepted(via, placed, page, keys)


def own_keys(db: Connection, first: int) -> list[bytes]:
    """Return the keys that are kept of the page at *first*; none if they are forgotten."""
    row = db.execute("select keys from own_page where first = ?", (first,)).fetchone()
    joined = b"" if row is None else row[0]
    return [joined[at : at + KEY] for at in range(0, len(joined), KEY)]


def forget_own(db: Connection, before: int) -> None:
    """Forget the keys of pages that were recorded earlier than *before*."""
    db.execute("delete from own_page where recorded < ?", (before,))
