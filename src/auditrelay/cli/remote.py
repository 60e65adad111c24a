"""Have something done by the running instance, or without one by this process itself."""

import asyncio
import contextlib
import signal
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from auditrelay.collect.progress import Tell
from auditrelay.errors import ConfigError, Locked, RelayError

if TYPE_CHECKING:  # see given
    from auditrelay.config import Config


def operate(config: "Config", request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """
    Return the result of *request*, wherever it was done; *tell* is told of the progress.

    Raises RelayError; one that says how to go on after Ctrl-C or SIGTERM.
    """
    return asyncio.run(_operate(config, request, tell))


async def _operate(config: "Config", request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    working = asyncio.ensure_future(_somewhere(config, request, tell))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, working.cancel)
    try:
        return await working
    except asyncio.CancelledError:
        raise RelayError(
            "stopped; what was done is kept, and the same command goes on from there"
        ) from None


async def _somewhere(config: "Config", request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    from auditrelay.service.app import ATTEMPTS_ONCE, App  # noqa: PLC0415  # see given
    from auditrelay.service.control_socket import ask  # noqa: PLC0415  # see given

    async with contextlib.AsyncExitStack() as stack:
        try:
            app = await stack.enter_async_context(App.open(config, attempts=ATTEMPTS_ONCE))
        except Locked:
            return await ask(config.state_dir, request, tell)
        try:
            return await app.alone(request, tell)
        except BaseExceptionGroup as group:
            relay, bugs = group.split(RelayError)
            if bugs is not None or relay is None:
                raise
            raise _first(relay) from group


def _first(group: BaseExceptionGroup[RelayError]) -> RelayError:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


def moment(option: str, text: str, now: datetime) -> datetime:
    """
    Return the time that *text* names: with an offset, a bare date (UTC), or a duration ago.

    Raises ConfigError that names the *option*.
    """
    from auditrelay.settings import parse_duration  # noqa: PLC0415  # see given

    with contextlib.suppress(ValueError):
        return now - parse_duration(text)
    with contextlib.suppress(ValueError):
        day = date.fromisoformat(text)
        return datetime(day.year, day.month, day.day, tzinfo=UTC)
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is not None:
            return at.astimezone(UTC)
    except (ValueError, OverflowError):  # in the year 1 there are times that UTC has no words for
        raise ConfigError(
            f"{option}: {text!r} is not a time: write 2026-03-01T00:00:00Z, 2026-03-01, or how "
            "long ago, such as 36h"
        ) from None
    raise ConfigError(f"{option}: {text!r} has no offset: write {text}Z for UTC")
