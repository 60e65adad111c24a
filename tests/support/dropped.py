"""A source that reads files, for the tests of what cannot be asked of one."""

from collections.abc import AsyncGenerator

from auditrelay.sources import Parcel


class Dropped:
    """A folder in which nothing lies; it is a fault to read it."""

    scope = ""

    def parcels(self, *_: object) -> AsyncGenerator[Parcel, None]:
        raise AssertionError("nobody was to read the files")

    async def check(self) -> str:
        return ""

    async def close(self) -> None: ...
