"""``auditrelay sample``: the newest events of a source as a sink would get them, or its pages."""

import asyncio
import contextlib
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated

import msgspec
import orjson
import typer

from auditrelay.cli.json_text import json_text
from auditrelay.cli.odd_times import odd_times
from auditrelay.cli.options import Options
from auditrelay.cli.pages import print_pages, window_of
from auditrelay.clock import Clock
from auditrelay.config.model import Config
from auditrelay.errors import ConfigError, Rejected
from auditrelay.events import AuditEvent
from auditrelay.events.forms import FORMS
from auditrelay.events.normalize import Normalizer
from auditrelay.settings import SourceSettings
from auditrelay.supervisor.sources import make_file_source, make_source
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval, micros


class Form(StrEnum):
    """The form in which an event is printed."""

    raw = "raw"
    event = "event"
    ecs = "ecs"
    cim = "cim"
    datadog = "datadog"
    ocsf = "ocsf"
    asim = "asim"


def sample(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="The name of a source in the configuration.")],
    *,
    form: Annotated[Form, typer.Option("--as", help="The form to print.")] = Form.event,
    count: Annotated[int, typer.Option(min=1, max=1000, help="How many events.")] = 3,
    pages: Annotated[
        bool,
        typer.Option(
            "--pages", help="Print a line for each page of a window, and why its walk breaks."
        ),
    ] = False,
    since: Annotated[
        str | None,
        typer.Option("--from", metavar="T", help="2026-03-01T00:00:00Z, 2026-03-01, or 36h."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", metavar="T", help="Default: now minus settle.")
    ] = None,
) -> None:
    """Fetch the newest few events and print them; stores and sends nothing."""
    _check_options(context, pages=pages, since=since, until=until)
    options = Options.of(context)
    config = options.load(default_level="warning")
    if source not in config.sources:
        known = ", ".join(config.sources) or "none"
        raise ConfigError(f"there is no source {source!r} in the configuration; there are: {known}")
    if pages:
        assert since is not None  # noqa: S101  # see _check_options
        if not asyncio.run(_show_pages(config, options.clock, source, since, until)):
            raise typer.Exit(1)
        return
    events = asyncio.run(newest(config, options.clock, source, count))
    for event in events:
        typer.echo(_print(event, form))
    if odd := odd_times(events):
        typer.echo(odd, err=True)
    if not events:
        typer.echo(f"{source} shows no event in the last 30 days.", err=True)


def _check_options(
    context: typer.Context, *, pages: bool, since: str | None, until: str | None
) -> None:
    """Raise ConfigError for options that do not go together."""
    if not pages:
        if since is not None or until is not None:
            raise ConfigError("--from and --to are the window of --pages: add --pages")
        return
    if since is None:
        raise ConfigError("--pages needs the start of the window: add --from T")
    for parameter, option in (("form", "--as"), ("count", "--count")):
        source = context.get_parameter_source(parameter)
        if source is not None and source.name == "COMMANDLINE":
            raise ConfigError(f"--pages prints no events: leave out {option}")


async def _show_pages(
    config: Config, clock: Clock, name: str, since: str, until: str | None
) -> bool:
    """Print the pages of the window; return whether every walk read its part."""
    settings = config.sources[name]
    window = window_of(since, until, settings, clock.now())
    if settings.export_directory is not None:
        raise ConfigError(
            f"{name} reads files and cannot be asked for a window: it has no pages; leave out "
            "--pages"
        )
    metrics = Metrics(sources=[name])
    source, normalizer = make_source(name, settings, metrics, clock, config.state_dir)
    try:
        fetched = micros(clock.now())
        return await print_pages(
            name,
            source,
            window,
            settings,
            lambda records, *twins: normalizer.identify(records, fetched, *twins),
        )
    finally:
        await source.close()


class _Newest:
    """The newest events that were shown so far, *count* of them at most."""

    def __init__(self, count: int, normalize: Normalizer, now: datetime) -> None:
        self._count = count
        self._normalize = normalize
        self._fetched = micros(now)
        self._events: dict[str, AuditEvent] = {}

    def admit(self, records: list[bytes]) -> None:
        for event in self._normalize(records, self._fetched):
            self._events[event.uid] = event
        for old in self.newest_first()[self._count :]:
            del self._events[old.uid]

    @property
    def enough(self) -> bool:
        return len(self._events) >= self._count

    def newest_first(self) -> list[AuditEvent]:
        return sorted(self._events.values(), key=lambda one: one.at, reverse=True)


async def newest(config: Config, clock: Clock, name: str, count: int) -> list[AuditEvent]:
    """Return the newest *count* events that the source *name* shows. Raises RelayError."""
    settings = config.sources[name]
    if settings.export_directory is not None:
        return await _newest_in_files(name, settings, clock, count)
    metrics = Metrics(sources=[name])
    source, normalizer = make_source(name, settings, metrics, clock, config.state_dir)
    now = clock.now()
    found = _Newest(count, normalizer, now)
    try:
        # Not every API returns the newest first: try ever longer windows instead.
        for back in (timedelta(hours=1), timedelta(days=1), timedelta(days=7), timedelta(days=30)):
            window = Interval(now - min(back, settings.max_window), now)
            async with contextlib.aclosing(source.walk(window)) as pages:
                async for page in pages:
                    found.admit(page.records)
                    if page.last:
                        break
            if found.enough:
                break
    finally:
        await source.close()
    return found.newest_first()


async def _newest_in_files(
    name: str, settings: SourceSettings, clock: Clock, count: int
) -> list[AuditEvent]:
    """Read the newest readable files first, until there are enough events."""
    source, normalizer = make_file_source(name, settings, Metrics(sources=[name]), clock)
    now = clock.now()
    found = _Newest(count, normalizer, now)
    try:
        async with contextlib.aclosing(source.files(_none_is_known, now)) as files:
            newest_first = [file async for file in files][::-1]
        for file in newest_first:
            async with contextlib.aclosing(file.pages) as pages:
                try:
                    async for page in pages:
                        found.admit(page.records)
                        if found.enough:
                            return found.newest_first()
                except Rejected as error:
                    typer.echo(str(error), err=True)
    finally:
        await source.close()
    return found.newest_first()


async def _none_is_known(_key: bytes) -> bool:
    return False


def _print(event: AuditEvent, form: Form) -> str:
    if form is Form.raw:
        document = orjson.loads(bytes(event.raw))
    elif form is Form.event:
        document = {
            name: orjson.Fragment(bytes(value)) if isinstance(value, msgspec.Raw) else value
            for name, value in msgspec.structs.asdict(event).items()
        }
        document = orjson.loads(orjson.dumps(document, default=msgspec.structs.asdict))
    else:
        document = orjson.loads(orjson.dumps(FORMS[form.value](event)))
    return json_text(document)
