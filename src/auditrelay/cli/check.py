"""``auditrelay check``: whether the configuration is right, and everybody answers."""

import asyncio
import contextlib
import importlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auditrelay.cli.given import Given
from auditrelay.errors import RelayError

if TYPE_CHECKING:  # see given
    from auditrelay.config import Config


def check(
    context: typer.Context,
    *,
    offline: Annotated[
        bool, typer.Option("--offline", help="Only read the configuration; ask nobody.")
    ] = False,
) -> None:
    """Validate the configuration, then make one harmless request to every source and sink."""
    given: Given = context.obj
    config = given.load(default_level="error")
    config.require_work()
    rows = _offline(config) if offline else asyncio.run(_ask_all(config))
    from rich.console import Console  # noqa: PLC0415  # see given
    from rich.table import Table  # noqa: PLC0415  # see given
    from rich.text import Text  # noqa: PLC0415  # see given

    table = Table("name", "type", "result", "what it says")
    for name, kind, result, words in rows:
        table.add_row(Text(name), kind, result, Text(words))
    Console().print(table)
    for warning in config.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if any(result == "failed" for _, _, result, _ in rows):
        raise typer.Exit(1)


Row = tuple[str, str, str, str]


def _offline(config: "Config") -> list[Row]:
    members: dict[str, Any] = {**config.sources, **config.sinks}
    return [
        (name, settings.type, "valid" if settings.enabled else "disabled", "not asked")
        for name, settings in members.items()
    ]


async def _ask_all(config: "Config") -> list[Row]:
    from auditrelay.sources import make  # noqa: PLC0415  # see given
    from auditrelay.telemetry import Metrics  # noqa: PLC0415  # see given

    metrics = Metrics(sources=config.sources, sinks=config.sinks)

    def source(name: str, settings: Any) -> Any:
        return make(name, settings, metrics, config.state_dir)

    def sink(name: str, settings: Any) -> Any:
        module = importlib.import_module(f"auditrelay.sinks.{settings.type}")
        return module.build(name, settings, metrics)

    asking = [
        _ask(name, settings, source, _ask_source) for name, settings in config.sources.items()
    ]
    asking += [_ask(name, settings, sink, _ask_sink) for name, settings in config.sinks.items()]
    return list(await asyncio.gather(*asking))


async def _ask(
    name: str,
    settings: Any,
    build: Callable[[str, Any], Any],
    ask: Callable[[Any], Awaitable[str]],
) -> Row:
    from auditrelay.telemetry import scrub  # noqa: PLC0415  # see given

    if not settings.enabled:
        return name, settings.type, "disabled", ""
    try:
        async with contextlib.aclosing(_Closing(build(name, settings))) as peer:
            return name, settings.type, "ok", await ask(peer.it)
    except RelayError as error:
        return name, settings.type, "failed", scrub(str(error))


class _Closing:
    def __init__(self, it: Any) -> None:
        self.it = it

    async def aclose(self) -> None:
        await self.it.close()


async def _ask_source(source: Any) -> str:
    from auditrelay.sources import Drop  # noqa: PLC0415  # see given
    from auditrelay.window import Interval  # noqa: PLC0415  # see given

    if isinstance(source, Drop):
        return await source.check()
    now = datetime.now(UTC)
    async with contextlib.aclosing(source.walk(Interval(now - timedelta(hours=1), now))) as pages:
        async for page in pages:
            count = len(page.records) if page.total is None else page.total
            return f"answers; {count} events in the last hour"
    return "answers"


async def _ask_sink(sink: Any) -> str:
    words: str = await sink.check()
    return words
