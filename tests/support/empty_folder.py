"""A source that reads files, for tests of what needs an API that can be asked for windows."""

from collections.abc import AsyncGenerator

from auditrelay.sources import ExportFile


class EmptyFolder:
    """A folder without files; reading them is an error."""

    scope = ""

    def files(self, *_: object) -> AsyncGenerator[ExportFile, None]:
        raise AssertionError("the files were read")

    async def check(self) -> str:
        return ""

    async def close(self) -> None: ...
