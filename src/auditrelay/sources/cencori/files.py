"""Cencori's export files, put into a folder."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from datetime import datetime
from typing import Any, TypeVar

from auditrelay.errors import Refused, Rejected
from auditrelay.files import open_file
from auditrelay.sources import ExportFile, ExportPage
from auditrelay.sources.cencori.buffer import Unreadable
from auditrelay.sources.cencori.export import read_pages, sniff
from auditrelay.sources.cencori.export_span import parse_file_name
from auditrelay.sources.cencori.folder import FolderScanner, FoundFile
from auditrelay.sources.cencori.settings import Settings
from auditrelay.telemetry.scrubber import scrub
from auditrelay.window import moment

T = TypeVar("T")


class ExportFolder:
    """The exports in a folder."""

    def __init__(self, settings: Settings) -> None:
        assert settings.directory is not None  # noqa: S101  # the settings require it
        self._directory = settings.directory
        self._slug = settings.organization_slug
        self._settle = settings.settle
        self._scanner = FolderScanner(settings.directory)
        self._rejected: dict[bytes, tuple[str, str]] = {}
        """The message and reason of each rejected file, by the digest of its content."""

    @property
    def scope(self) -> str:
        """The organisation, for rows that do not name theirs."""
        return self._slug or ""

    async def files(
        self, known: Callable[[bytes], Awaitable[bool]], now: datetime
    ) -> AsyncGenerator[ExportFile]:
        """Yield every new file that is complete, see :class:`auditrelay.sources.FileSource`."""
        try:
            files = await _in_thread(self._scanner.find_complete, now)
        except OSError as error:
            raise self._refused(error) from error
        for file in sorted(files, key=_oldest_first):
            problem: OSError | None = None
            try:
                key = await _in_thread(self._scanner.digest, file)
            except FileNotFoundError:  # removed meanwhile
                continue
            except OSError as error:
                key, problem = file.stand_in_digest(), error
            if key is None or await known(key):
                continue
            yield ExportFile(
                key=key,
                name=file.name,
                owner=file.owner,
                pages=self._pages(file, key, now, problem),
            )

    async def check(self) -> str:
        """Return how many exports there are, and which files cannot be read. Raises Refused."""
        try:
            files = await _in_thread(self._scanner.scan)
            open_to_all = await _in_thread(self._scanner.writable_by_others)
        except OSError as error:
            raise self._refused(error) from error
        problems = []
        for file in sorted(files, key=_oldest_first):
            try:
                await _in_thread(self._sniff, file)
            except Unreadable as error:
                problems.append(f"{file.name}: {error}")
            except OSError as error:
                problems.append(f"{file.name}: {error.strerror}")
        count = len(files) - len(problems)
        words = f"{count} export{'' if count == 1 else 's'} in {self._directory}"
        if problems:
            words += f", and {len(problems)} that cannot be read: {'; '.join(problems[:3])}"
            words += "; ..." if len(problems) > 3 else ""
        if open_to_all:
            words += (
                "; other users of this machine can put exports there, and so claim that time was "
                f"read: chmod o-w {self._directory}"
            )
        return words

    async def close(self) -> None:
        """Do nothing: no file stays open."""

    def _refused(self, error: OSError) -> Refused:
        return Refused(
            f"the directory {self._directory} cannot be read: {error.strerror}; create it, or let "
            "the user that auditrelay runs as read it"
        )

    def _sniff(self, file: FoundFile) -> None:
        self._check_name(file)
        with open_file(file.path, follow=False) as opened:
            sniff(opened, file.name)

    def _check_name(self, file: FoundFile) -> None:
        parsed = parse_file_name(file.name)
        if parsed is not None and self._slug is not None and parsed.slug != self._slug:
            raise Unreadable(
                f"an export of the organisation {parsed.slug!r}, not of {self._slug!r}",
                reason="wrong_organization",
            )

    async def _pages(
        self, file: FoundFile, key: bytes, now: datetime, problem: OSError | None
    ) -> AsyncGenerator[ExportPage]:
        if key in self._rejected:
            message, reason = self._rejected[key]  # not read again as long as it does not change
            raise Rejected(message, reason=reason)
        try:
            if problem is not None:
                raise problem
            self._check_name(file)
            reading = self._read(file, key, now)
            try:
                while (page := await _in_thread(next, reading, None)) is not None:
                    yield page
            finally:
                reading.close()
        except Unreadable as error:
            message = f"{self._directory}/{file.name}: {scrub(str(error))}"
            self._rejected[key] = message, error.reason
            raise Rejected(message, reason=error.reason) from error
        except OSError as error:
            message = f"{self._directory}/{file.name}: {error.strerror}"
            raise Rejected(message, reason="file_not_read") from error

    def _read(self, file: FoundFile, key: bytes, now: datetime) -> Generator[ExportPage]:
        parsed = parse_file_name(file.name)
        with open_file(file.path, follow=False) as opened:
            yield from read_pages(opened, file.name, key, parsed, settle=self._settle, now=now)


def _oldest_first(file: FoundFile) -> tuple[datetime, float, str]:
    """Return the sort key of files: the day of the export, else the time of the last change."""
    parsed = parse_file_name(file.name)
    written = moment(int(file.changed * 1_000_000))
    return (written if parsed is None else parsed.day), file.changed, file.name


async def _in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """
    Return the result of *work*, called in a thread.

    On cancellation, wait for the thread first: a file cannot be closed while it is read.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # mark as retrieved, or asyncio logs that it never was
        raise
