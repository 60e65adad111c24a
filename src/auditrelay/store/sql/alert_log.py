"""The alerts: events in the spool, and which of them are raised now, for the next keeper."""

from collections.abc import Callable, Sequence

from auditrelay.events.page import Page
from auditrelay.settings.reserved import ALERTS
from auditrelay.store import Proof, Raised
from auditrelay.store.keys import known_keys
from auditrelay.store.sql import intake
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.engine import Engine
from auditrelay.store.sql.sources import own_id
from auditrelay.store.sql.spool import Spool
from auditrelay.store.sql.spooling import Spooling
from auditrelay.store.sql.uids import Uids


class AlertLog:
    """
    See ``service.store.AlertLog``.

    What is raised is kept in a shared store only: an instance alone raises again after a start.
    """

    def __init__(
        self,
        engine: Engine,
        spooling: Spooling,
        spool: Spool,
        uids: Uids,
        *,
        now: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._spooling = spooling
        self._spool = spool
        self._uids = uids
        self._now = now

    async def raised(self) -> list[Raised]:
        """Return the alerts that an earlier keeper has raised, and none has cleared since."""
        if not self._engine.shared:
            return []
        return await self._engine.read(_raised)

    async def change(
        self, events: Page | None, raised: Sequence[Raised], cleared: Sequence[Raised]
    ) -> None:
        """Spool the *events* of alerts, if any, and keep what is *raised* and *cleared*."""
        now = self._now()

        def keep(db: Connection) -> None:
            if self._engine.shared:
                _change(db, raised, cleared)

        if events is None:
            await self._engine.write(keep)
            return
        self._engine.room.require()

        def spool(db: Connection) -> None:
            intake.add(
                db,
                self._spool,
                self._uids,
                ALERTS,
                events,
                owner=own_id(db, now),
                keys=known_keys(events),
                are_new=False,
                proof=Proof(),
                notice=None,
                bad=(),
                now=now,
                via="alerts",
            )
            keep(db)

        await self._spooling.append(spool)


def _raised(db: Connection) -> list[Raised]:
    return [
        Raised(*row)
        for row in db.execute("select code, about, what, todo from raised order by code, about")
    ]


def _change(db: Connection, raised: Sequence[Raised], cleared: Sequence[Raised]) -> None:
    db.executemany(
        "delete from raised where code = ? and about = ?",
        [(each.code, each.about) for each in cleared],
    )
    db.executemany(
        "insert into raised (code, about, what, todo) values (?, ?, ?, ?) on conflict do nothing",
        [(each.code, each.about, each.what, each.todo) for each in raised],
    )
