"""Two stores that are dealt the same calls: each answer of one is that of the other."""

from collections.abc import Awaitable
from typing import Any, Final

from auditrelay.store.sql.evidence_log import EvidenceLog
from auditrelay.store.sql.known_contents import KnownContents

_PARTS: Final = (EvidenceLog, KnownContents)


class Both:
    """
    What *first* and *second* are, stores or parts of them, as long as they are alike.

    A call returns, or raises, what it does on the first; an AssertionError says where they differ.
    """

    def __init__(self, first: Any, second: Any) -> None:
        self._each = first, second

    def __getattr__(self, name: str) -> Any:
        """Return what both have under *name*; a call goes to both, one after the other."""
        found = [getattr(each, name) for each in self._each]
        if isinstance(found[0], _PARTS):
            return Both(*found)
        if not callable(found[0]):
            assert found[0] == found[1], name
            return found[0]

        async def call(*values: Any, **named: Any) -> Any:
            answers = [await _answer(each(*values, **named)) for each in found]
            alike(name, *answers)
            if isinstance(answers[0], Exception):
                raise answers[0]
            return answers[0]

        return call


async def _answer(work: Awaitable[Any]) -> Any:
    try:
        return await work
    except Exception as error:  # noqa: BLE001  # it is compared
        return error


def alike(what: str, first: object, second: object) -> None:
    """Fail unless *first* and *second*, which are *what* two engines answer, are equal."""
    if isinstance(first, Exception) or isinstance(second, Exception):
        first, second = repr(first), repr(second)
    assert first == second, f"{what}:\n{first}\n{second}"
