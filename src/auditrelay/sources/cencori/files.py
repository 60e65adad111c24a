"""Cencori's export files, put into a folder."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from datetime import datetime
from typing import Any

from auditrelay.errors import Refused, Rejected
from auditrelay.sources import BadRow, Parcel, ParcelPage
from auditrelay.sources.cencori.dashboard import T
from auditrelay.sources.cencori.export import Page as ExportPage
from auditrelay.sources.cencori.export import glance, pages
from auditrelay.sources.cencori.export_span import named
from auditrelay.sources.cencori.feed import Unreadable
from auditrelay.sources.cencori.folder import Folder, Found, open_file
from auditrelay.sources.cencori.settings import Settings
from auditrelay.telemetry.scrubber import scrub
from auditrelay.window import moment


class Drop:
    """The exports that lie in a folder."""

    def __init__(self, settings: Settings) -> None:
        assert settings.directory is not None  # noqa: S101  # the settings see to it
        self._directory = settings.directory
        self._slug = settings.organization_slug
        self._settle = settings.settle
        self._folder = Folder(settings.directory)
        self._rejected: dict[bytes, tuple[str, str]] = {}
        """The files that are of no use, by their content, and why."""

    @property
    def scope(self) -> str:
        """The organisation, for rows that do not name theirs."""
        return self._slug or ""

    async def parcels(
        self, known: Callable[[bytes], Awaitable[bool]], now: datetime
    ) -> AsyncGenerator[Parcel]:
        """Yield every new file that is complete, see :class:`auditrelay.sources.Drop`."""
        try:
            files = await in_thread(self._folder.complete, now)
        except OSError as error:
            raise self._closed(error) from error
        for file in sorted(files, key=age_of):
            problem: OSError | None = None
            try:
                key = await in_thread(self._folder.digest, file)
            except FileNotFoundError:  # taken away since
                continue
            except OSError as error:
                key, problem = file.mark(), error
            if key is None or await known(key):
                continue
            yield Parcel(
                key=key,
                name=file.name,
                pages=self._pages(file, key, now, problem),
            )

    async def check(self) -> str:
        """Say how many files lie there, and which of them cannot be read. Raises Refused."""
        try:
            files = await in_thread(self._folder.look)
        except OSError as error:
            raise self._closed(error) from error
        problems = []
        for file in sorted(files, key=age_of):
            try:
                await in_thread(self._glance, file)
            except Unreadable as error:
                problems.append(f"{file.name}: {error}")
            except OSError as error:
                problems.append(f"{file.name}: {error.strerror}")
        count = len(files) - len(problems)
        words = f"{count} export{'' if count == 1 else 's'} in {self._directory}"
        if problems:
            words += f", and {len(problems)} that cannot be read: {'; '.join(problems[:3])}"
        return words if len(problems) <= 3 else f"{words}; ..."

    async def close(self) -> None:
        """Do nothing: no file stays open."""

    def _closed(self, error: OSError) -> Refused:
        return Refused(
            f"the directory {self._directory} cannot be read: {error.strerror}; make it, or let "
            "the user that auditrelay runs as read it"
        )

    def _glance(self, file: Found) -> None:
        self._check_name(file)
        with open_file(file.path) as opened:
            glance(opened, file.name)

    def _check_name(self, file: Found) -> None:
        says = named(file.name)
        if says is not None and self._slug is not None and says.slug != self._slug:
            raise Unreadable(
                f"an export of the organisation {says.slug!r}, not of {self._slug!r}",
                reason="wrong_organization",
            )

    async def _pages(
        self, file: Found, key: bytes, now: datetime, problem: OSError | None
    ) -> AsyncGenerator[ParcelPage]:
        if key in self._rejected:
            message, reason = self._rejected[key]  # not read again while it stays as it is
            raise Rejected(message, reason=reason)
        try:
            if problem is not None:
                raise problem
            self._check_name(file)
            reading = self._read(file, key, now)
            try:
                while (page := await in_thread(next, reading, None)) is not None:
                    yield ParcelPage(
                        page.records,
                        last=page.claims is not None,
                        bad=tuple([BadRow(bad.text, bad.line, bad.why) for bad in page.bad]),
                        covers=page.claims.covers if page.claims else (),
                        gaps=page.claims.gaps if page.claims else (),
                    )
            finally:
                reading.close()
        except Unreadable as error:
            message = f"{file.path}: {scrub(str(error))}"
            self._rejected[key] = message, error.reason
            raise Rejected(message, reason=error.reason) from error
        except OSError as error:
            raise Rejected(f"{file.path}: {error.strerror}", reason="file_not_read") from error

    def _read(self, file: Found, key: bytes, now: datetime) -> Generator[ExportPage, None, None]:
        with open_file(file.path) as opened:
            yield from pages(opened, file.name, key, named(file.name), settle=self._settle, now=now)


def age_of(file: Found) -> tuple[datetime, float, str]:
    """Return what files are in order by: the day of the export, as far as it is known."""
    says = named(file.name)
    written = moment(int(file.changed * 1_000_000))
    return (written if says is None else says.day), file.changed, file.name


async def in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """
    Return what *work* returns, done in a thread.

    When cancelled, it waits for the thread first: a file cannot be closed while it is read.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # looked at, so that nobody complains that it was not
        raise
