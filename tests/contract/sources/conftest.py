"""A double of each vendor, and a source that reads it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from tests.support.clock import FakeClock
from tests.support.described import SEEDS, feed
from tests.support.extent import extent

from auditrelay.collect import walk as walks
from auditrelay.descriptions.settings import settings_class
from auditrelay.errors import RelayError
from auditrelay.events import AuditEvent
from auditrelay.events.careful import Twins
from auditrelay.events.normalize import IdentifiedPage, Normalizer, vendor_named
from auditrelay.events.normalize import available as vendors_understood
from auditrelay.sandbox import Vendor, vendors
from auditrelay.sandbox.history import Span
from auditrelay.settings import SourceSettings
from auditrelay.sources import Page, Source
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval, micros


@dataclass
class Rig:
    """
    A double of the vendor *kind*, and sources that read it; the *window* has settled.

    *described*: the sources are not those of the vendor's module but of its description.
    """

    kind: str
    double: Vendor
    window: Interval
    clock: FakeClock
    sources: list[Source] = field(default_factory=list)
    described: bool = False

    def settings(self, **changes: Any) -> SourceSettings:
        """Return the settings, with *changes*, of a source that reads the double in small pages."""
        table = {**self.double.settings(), "page_size": self.page, "timeout": "5s", **changes}
        settings: SourceSettings = self._class.model_validate(self._given(table))
        return settings

    def _given(self, table: dict[str, Any]) -> dict[str, Any]:
        """Return *table* without what is None, and with what only the description asks for."""
        more = {"jitsudo": ("host", "jitsudo.example"), "slaunch": ("tenant", "acme")}
        if self.described and self.kind in more:
            key, value = more[self.kind]
            table = {key: value, **table}
        return {key: value for key, value in table.items() if value is not None}

    @property
    def _class(self) -> type[SourceSettings]:
        if self.described:
            return _described(self.kind)
        found: type[SourceSettings] = import_module(f"auditrelay.sources.{self.kind}").Settings
        return found

    def build(self, **changes: Any) -> Source:
        """Return a source with those settings."""
        module = import_module(f"auditrelay.sources.{'described' if self.described else self.kind}")
        source: Source = module.build("it", self.settings(**changes), Metrics(), self.clock)
        self.sources.append(source)
        return source

    def normalizer(self, source: Source) -> Normalizer:
        """Return the normalizer of the records of *source*."""
        given: Any = self._class.model_validate(self._given(self.double.settings()))
        return Normalizer(
            vendor=vendor_named(self.kind),
            source="it",
            api_host="h",
            scope=source.scope,
            redact="default",
            tags={},
            **given.record_paths,
        )

    @property
    def name(self) -> str:
        """Its name among ``KINDS``."""
        return f"described-{self.kind}" if self.described else self.kind

    @property
    def page(self) -> int:
        """Records on a page: few, so that a test needs few records for several pages."""
        return max(4, self.double.MIN_PAGE_SIZE)

    @property
    def id_field(self) -> str:
        """The documented field of a record's id."""
        return vendors_understood()[self.kind].ID

    @property
    def time_field(self) -> str:
        """The documented field of a record's time."""
        return vendors_understood()[self.kind].TIME

    def fill(self, count: int) -> None:
        """Add *count* records in the window, evenly spaced in whole milliseconds."""
        step = self.window.length / max(1, count)
        step -= timedelta(microseconds=step.microseconds % 1000)
        for number in range(count):
            self.double.add(self.window.start + number * step)

    def made(self, window: Interval | None = None) -> list[bytes]:
        """Return the records of *window* that are visible now, oldest first."""
        window = window or self.window
        span = Span(micros(window.start), micros(window.end), upper_inclusive=False)
        return [entry.text for entry in self.double.history.select(span, self.double.clock())]

    async def pages(self, source: Source | None = None) -> list[Page]:
        """Walk the window once; return every page."""
        return [page async for page in (source or self.build()).walk(self.window)]

    async def events(self, source: Source | None = None) -> list[AuditEvent]:
        """Walk the window until it is complete, as a poll does; return each event once."""
        source = source or self.build()
        normalize = self.normalizer(source)
        found: dict[str, AuditEvent] = {}
        async for identified, _, _ in walks.walk(
            source,
            self.window,
            lambda records, twins=None: normalize.identify(records, 0, twins),
        ):
            found |= {event.uid: event for event in identified.page()}
        return list(found.values())

    async def shown(self, source: Source | None = None) -> list[bytes]:
        """
        Walk the window until it is complete; return each record of it once, oldest first.

        A source may show some that are just outside; they are left out.
        """
        source = source or self.build()
        normalize = self.normalizer(source)
        found: set[bytes] = set()

        def seen(records: list[bytes], twins: Twins | None = None) -> IdentifiedPage:
            found.update(records)
            return normalize.identify(records, 0, twins)

        ends = [
            outcome is not None async for _, _, outcome in walks.walk(source, self.window, seen)
        ]
        assert ends == [False] * (len(ends) - 1) + [True]
        return [record for record in self.made() if record in found]

    async def whole_or_error(self, source: Source | None = None) -> RelayError | None:
        """Walk the window; return the error if it breaks. Otherwise all records must be shown."""
        try:
            shown = await self.shown(source)
        except RelayError as error:
            return error
        assert shown == self.made()
        return None


@cache
def _described(kind: str) -> type[SourceSettings]:
    return settings_class(feed(DESCRIPTIONS[kind].read_text()), kind)


DESCRIPTIONS = {
    path.stem: path for path in (*SEEDS.glob("*.toml"), *Path(__file__).parent.glob("*.toml"))
}
"""Of vendors that have a module and a double, too."""

KINDS = [
    *vendors.available(),
    *(f"described-{kind}" for kind in extent(["cekura", "slaunch"], sorted(DESCRIPTIONS))),
]
"""
Two descriptions, of counted pages and of a cursor without a bound, unless all is tried.

What a described source does in every shape is proved by ``contract/described``.
"""


@pytest.fixture(params=KINDS)
async def rig(request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[Rig]:
    """A rig whose time is two hours after a window of a day."""
    now = clock.now()
    window = Interval(now - timedelta(hours=26), now - timedelta(hours=2))
    kind = request.param.removeprefix("described-")
    async with vendors.available()[kind](clock=clock.seconds) as double:
        made = Rig(kind, double, window, clock, described=kind != request.param)
        yield made
        for source in made.sources:
            await source.close()
