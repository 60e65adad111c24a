"""Supervised sources: what topology and commands use in place of a source and its normalizer."""

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from auditrelay import sources
from auditrelay.clock import Clock
from auditrelay.errors import PeerBug
from auditrelay.events.careful import Twins
from auditrelay.events.normalize import IdentifiedPage, Normalizer, vendor_named
from auditrelay.events.page import Page as EventPage
from auditrelay.events.vendors import Vendor
from auditrelay.settings import SourceSettings
from auditrelay.sources import ExportFile, ExportPage, FileSource, Page, Shown, Shows, Source
from auditrelay.supervisor import Supervisor
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval


class SupervisedSource:
    """A :class:`Source` whose bugs are PeerBugs."""

    def __init__(self, source: Source, supervise: Supervisor) -> None:
        self._source = source
        self._supervise = supervise

    @property
    def scope(self) -> str:
        """See :class:`Source`."""
        with self._supervise("scope"):
            return self._source.scope

    def walk(
        self, window: Interval, *, background: bool = False, finely: bool = False
    ) -> AsyncGenerator[Page, None]:
        """See :class:`Source`."""
        return self._supervise.each(
            "walk", lambda: self._source.walk(window, background=background, finely=finely)
        )

    async def close(self) -> None:
        """See :class:`Source`; a bug in it is only logged."""
        with contextlib.suppress(PeerBug), self._supervise("close"):
            await self._source.close()


class SupervisedShows(SupervisedSource):
    """A :class:`SupervisedSource` of which the replies can be looked at."""

    def __init__(self, source: Source, supervise: Supervisor, shows: Shows) -> None:
        super().__init__(source, supervise)
        self._shows = shows

    def shown(self, span: Interval, size: int) -> AsyncGenerator[Shown, None]:
        """See :class:`Shows`."""
        return self._supervise.each("shown", lambda: self._shows.shown(span, size))


class SupervisedFileSource:
    """A :class:`FileSource` whose bugs are PeerBugs."""

    def __init__(self, source: FileSource, supervise: Supervisor) -> None:
        self._source = source
        self._supervise = supervise

    @property
    def scope(self) -> str:
        """See :class:`FileSource`."""
        with self._supervise("scope"):
            return self._source.scope

    async def files(
        self, known: Callable[[bytes], Awaitable[bool]], now: datetime
    ) -> AsyncGenerator[ExportFile, None]:
        """See :class:`FileSource`."""
        known = self._supervise.unsupervised(known)
        files = self._supervise.each("files", lambda: self._source.files(known, now))
        async with contextlib.aclosing(files):
            async for file in files:
                yield replace(file, pages=self._pages(file))

    def _pages(self, file: ExportFile) -> AsyncGenerator[ExportPage, None]:
        return self._supervise.each("pages", lambda: file.pages)

    async def check(self) -> str:
        """See :class:`FileSource`."""
        with self._supervise("check"):
            return await self._source.check()

    async def close(self) -> None:
        """See :class:`FileSource`; a bug in it is only logged."""
        with contextlib.suppress(PeerBug), self._supervise("close"):
            await self._source.close()


class SupervisedNormalizer(Normalizer):
    """A :class:`Normalizer` whose bugs are PeerBugs; made with its source."""

    supervise: Supervisor

    def identify(
        self, records: Sequence[bytes], fetched: int, twins: Twins | None = None
    ) -> IdentifiedPage:
        """See :class:`Normalizer`."""
        with self.supervise("identify"):
            return super().identify(records, fetched, twins)

    def read(self, page: IdentifiedPage, rows: Sequence[int]) -> EventPage:
        """See :class:`Normalizer`."""
        with self.supervise("read"):
            return super().read(page, rows)


class Supervised(NamedTuple):
    """A source, and what turns its records into events."""

    source: Source
    normalizer: Normalizer


class SupervisedFiles(NamedTuple):
    """A source that reads files, and what turns its records into events."""

    source: FileSource
    normalizer: Normalizer


def make_source(
    name: str, settings: SourceSettings, metrics: Metrics, clock: Clock, state_dir: Path
) -> Supervised:
    """Return what :func:`sources.make` makes, supervised. Raises ConfigError, and PeerBug."""
    supervise = Supervisor(name, metrics)
    with supervise("make"):
        source = sources.make(name, settings, metrics, clock, state_dir)
    supervised = (
        SupervisedShows(source, supervise, source)
        if isinstance(source, Shows)
        else SupervisedSource(source, supervise)
    )
    return Supervised(supervised, _normalizer(name, settings, supervised.scope, supervise))


def make_file_source(
    name: str, settings: SourceSettings, metrics: Metrics, clock: Clock
) -> SupervisedFiles:
    """Return what :func:`sources.make_file_source` makes, as :func:`make_source` does."""
    supervise = Supervisor(name, metrics)
    with supervise("make"):
        source = sources.make_file_source(name, settings, metrics, clock)
    supervised = SupervisedFileSource(source, supervise)
    return SupervisedFiles(supervised, _normalizer(name, settings, supervised.scope, supervise))


def _normalizer(
    name: str, settings: SourceSettings, scope: str, supervise: Supervisor
) -> Normalizer:
    with supervise("make"):
        normalizer = SupervisedNormalizer.of(name, settings, vendor=_vendor(settings), scope=scope)
    normalizer.supervise = supervise
    return normalizer


def _vendor(settings: SourceSettings) -> Vendor:
    """Return the vendor of a source with *settings*."""
    feed = getattr(settings, "FEED", None)
    if feed is None:
        return vendor_named(settings.type)
    # Only a source whose vendor is described needs what compiles a description.
    from auditrelay.descriptions.vendor import vendor_of  # noqa: PLC0415

    return vendor_of(feed)
