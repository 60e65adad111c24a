"""
Branches: a state that was rolled back, copied or damaged goes on in a log with a name of its own.

So two histories never have the same name, and a head of the old log that lies beyond the branch
says by itself that something is missing. The entries before it stay as they are, and so every head
over them goes on fitting. Works on a connection, within the caller's transaction.
"""

import contextlib
import secrets
from typing import Final

from auditrelay.errors import EvidenceBroken
from auditrelay.evidence import facts
from auditrelay.evidence.heads import Head
from auditrelay.evidence.tree import Frontier, leaf
from auditrelay.evidence.tree import root as root_over
from auditrelay.store.sealing import Branch
from auditrelay.store.sql import meta
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.facts import INSTANCE, insert

LOG: Final = "log"
"""The name under which the name of the log is kept."""

FRONTIER: Final = "frontier"
"""The name of the frontier of the tree over all entries."""

NO_TIP: Final = "no tip: restored, copied or moved"
_BROKEN: Final = "broken"
"""The name of when and why the evidence was found to be broken."""

OLDER: Final = "the state is older than its tip"


def begin_log(db: Connection) -> None:
    """Begin the log of the evidence of this state, with a name of its own, and without entries."""
    meta.put_text(db, LOG, secrets.token_hex(16))
    meta.put_bytes(db, FRONTIER, Frontier().dump())


def log_of(db: Connection) -> str:
    """Return the name of the log."""
    return meta.find_text(db, LOG) or ""


def frontier_of(db: Connection) -> Frontier:
    """Return the stored frontier of the log; raise EvidenceBroken if it is none."""
    data = meta.find_bytes(db, FRONTIER)
    try:
        return Frontier.load(data or b"")
    except (ValueError, TypeError) as error:
        raise EvidenceBroken(f"the frontier of the log is damaged: {error}") from error


def begin(db: Connection, tip: Head | None, now: int, *, is_new: bool) -> Branch | None:
    """
    Compare the state with the *tip* beside it; if it does not fit, go on in a new log.

    Of a state that *is_new* no process has begun to serve it: heads of its log cannot have left.
    Returns the branch, None if the log goes on.
    """
    log, frontier = log_of(db), frontier_of(db)
    known = tip is not None and _has_left(db, tip)
    if tip is not None and known and tip.log == log:
        return None
    if is_new and (tip is None or not tip.size):
        _rename(db)  # it may be a copy, such as one in an image: two instances are not of one log
        return None
    if tip is not None and tip.size and not frontier.size:
        log = tip.log  # the one whose heads have left
    # A tip of the log before this one is a tip that stayed where the state has come back to.
    why, is_alert = (NO_TIP, False) if tip is None or known else (OLDER, True)
    return _continue(db, log, frontier, why, now, is_alert=is_alert, tip=tip)


def after_damage(db: Connection, now: int) -> Branch:
    """
    Go on in a new log whose entries are those that are there, though a head tells others.

    Raises EvidenceBroken if entries are missing: nothing can take their numbers.
    """
    frontier, wrong, fits = Frontier(), None, 0
    heads = dict(db.execute("select size, root from head").fetchall())
    for n, line in db.stream("select n, text from entry order by n"):
        if n != frontier.size:
            raise EvidenceBroken(f"entry {frontier.size} is missing: the log cannot be continued")
        frontier.append(leaf(line.encode()))
        if (root := heads.get(frontier.size)) is not None:
            if root == frontier.root():
                fits = frontier.size
            elif wrong is None:
                wrong = fits
    if heads and max(heads) > frontier.size:
        raise EvidenceBroken(f"entry {frontier.size} is missing: the log cannot be continued")
    log = log_of(db)
    which = "" if wrong is None else f": an entry from {wrong} on is not what a head tells"
    meta.put_bytes(db, FRONTIER, frontier.dump())
    return _continue(db, log, frontier, f"damaged{which}", now, is_alert=True, tip=None)


def _continue(
    db: Connection,
    log: str,
    frontier: Frontier,
    why: str,
    now: int,
    *,
    is_alert: bool,
    tip: Head | None,
) -> Branch:
    root = frontier.root()
    if is_alert:
        set_broken(db, why, now)
    body = facts.continued(log=log, size=frontier.size, root=root, why=why)
    insert(db, INSTANCE, [body], now)
    return Branch(_rename(db), log, frontier.size, why, is_alert=is_alert, tip=tip)


def broken(db: Connection) -> tuple[str | None, int | None]:
    """Return what is missing or was changed, and when that was noticed; until it is explained."""
    text = meta.find_text(db, _BROKEN)
    if text is None:
        return None, None
    since, _, why = text.partition(" ")
    return why, int(since)


def set_broken(db: Connection, why: str, now: int) -> None:
    """Keep, until an operator explains it, that something is missing or was changed."""
    if meta.find_text(db, _BROKEN) is None:
        meta.put_text(db, _BROKEN, f"{now} {why}")


def explain(db: Connection, reason: str, by: int | None, now: int) -> None:
    """Tell that the operator *by* knows why the state is not what it was: *reason*."""
    insert(db, INSTANCE, [facts.restored(reason=reason, by=by)], now)
    meta.put_text(db, _BROKEN, None)


def _rename(db: Connection) -> str:
    log = secrets.token_hex(16)
    meta.put_text(db, LOG, log)
    return log


def _has_left(db: Connection, tip: Head) -> bool:
    """Return whether what the *tip* says is of this state: a head, or where its log has begun."""
    row = db.execute("select word from head where size = ?", (tip.size,)).fetchone()
    if row is not None:
        with contextlib.suppress(ValueError):  # a word that is no head proves nothing; see the seal
            head = Head.parse(row[0])
            if (head.log, head.root) == (tip.log, tip.root):
                return True
    # No head was made where a log begins. The tip is that until the first seal, and stays so if a
    # kill comes between the first seal and the tip of it.
    return tip.log == log_of(db) and _root_of(db, tip.size) == tip.root


def _root_of(db: Connection, size: int) -> bytes | None:
    """Return the root over the first *size* entries; None if there are not so many."""
    rows = db.stream("select text from entry where n < ? order by n", (size,))
    leaves = [leaf(line.encode()) for (line,) in rows]
    return root_over(leaves) if len(leaves) == size else None
