"""``auditrelay check``: validate the configuration, and query the store, sources and sinks."""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, NamedTuple

import typer
from rich.text import Text

from auditrelay.cli.odd_times import odd_times
from auditrelay.cli.options import Options
from auditrelay.cli.tables import console, table
from auditrelay.clock import Clock
from auditrelay.config.model import Config
from auditrelay.deliver.send import send_fit
from auditrelay.errors import ConfigError, Refused, RelayError, Retryable
from auditrelay.events import AuditEvent
from auditrelay.events.normalize import Normalizer
from auditrelay.events.notices import test_event
from auditrelay.events.page import Page
from auditrelay.settings.secrets import SecretAddress
from auditrelay.sinks import Item, Sink, Verdict
from auditrelay.sources import FileSource, Source
from auditrelay.supervisor.sinks import make_sink
from auditrelay.supervisor.sources import make_file_source, make_source
from auditrelay.telemetry import humanize
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrub
from auditrelay.window import Interval, micros


def check(
    context: typer.Context,
    *,
    offline: Annotated[
        bool, typer.Option("--offline", help="Only validate the configuration; make no requests.")
    ] = False,
    thorough: Annotated[
        bool,
        typer.Option(
            "--thorough",
            help="Prove all of a description that can be proved, with about twelve requests.",
        ),
    ] = False,
    send_test_event: Annotated[
        bool,
        typer.Option(
            "--send-test-event",
            help="Send one marked event to every sink, and print the search that finds it.",
        ),
    ] = False,
) -> None:
    """Validate the configuration, then query every source and sink, harmlessly."""
    for name, given in (("--send-test-event", send_test_event), ("--thorough", thorough)):
        if offline and given:
            raise ConfigError(f"--offline and {name} exclude each other")
    options = Options.of(context)
    # Requests that are made again are shown: it takes long.
    config = options.load(default_level="warning", warn=False)
    config.require_work()
    rows = (
        _offline(config)
        if offline
        else asyncio.run(check_all(config, options.clock, test=send_test_event, thorough=thorough))
    )
    show(rows)
    for warning in config.warnings:
        typer.echo(f"warning: {warning}")
    if any(row.result == "failed" for row in rows):
        raise typer.Exit(1)


_POSTGRESQL: Final = "postgresql"


class Row(NamedTuple):
    """
    The result for one source or sink, or for the shared store.

    *queries* are searches for the test event that was sent to it, and *notes* what could not be
    proved of it. They are printed below the table, which would break the lines that an operator
    copies.
    """

    name: str
    type: str
    result: str
    message: str
    queries: Sequence[str] = ()
    notes: Sequence[str] = ()


class _Said(NamedTuple):
    """What a check says of a source or sink that is well; see :class:`Row`."""

    message: str
    queries: Sequence[str] = ()
    notes: Sequence[str] = ()


def show(rows: Sequence[Row]) -> None:
    """Print *rows* as a table, and below it what would break its lines."""
    shown = table("name", "type", others=("result", "message"))
    for row in rows:
        shown.add_row(Text(row.name), row.type, row.result, Text(row.message))
    console().print(shown)
    for row in rows:
        if row.queries:
            typer.echo(f"\nThe test event in {row.name}, after some seconds:")
        for query in row.queries:
            typer.echo(f"  {query}")
    for row in rows:
        if row.notes:
            typer.echo(f"\nNotes on {row.name}:")
        for note in row.notes:
            typer.echo(f"  {note}")


def _offline(config: Config) -> list[Row]:
    members: dict[str, Any] = {**config.sources, **config.sinks}
    store = [] if config.store is None else [Row("store", _POSTGRESQL, "valid", "not queried")]
    return store + [_offline_row(name, settings) for name, settings in members.items()]


def _offline_row(name: str, settings: Any) -> Row:
    result = "valid" if settings.enabled else "disabled"
    receiver = getattr(settings, "RECEIVER", None)
    if receiver is None:
        return Row(name, settings.type, result, "not queried")
    # Only a sink that is described needs it.
    from auditrelay.cli.description.receivers import meanings, wrong_examples  # noqa: PLC0415

    notes = [f"answer {each}" for each in meanings(receiver)]
    if wrong := list(wrong_examples(receiver)):
        notes += wrong
        said = "an example of its description is taken for something else"
        return Row(name, settings.type, "failed", said, notes=notes)
    return Row(name, settings.type, result, "not queried", notes=notes)


async def check_all(
    config: Config, clock: Clock, *, test: bool = False, thorough: bool = False
) -> list[Row]:
    """
    Check the shared store, if there is one, and every source and sink.

    With *test*, each sink gets a test event.

    *thorough*: of a described source everything is proved that can be.
    """
    metrics, now = Metrics(sources=config.sources, sinks=config.sinks), clock.now()

    normalizers: dict[str, Normalizer] = {}

    def source(name: str, settings: Any) -> Any:
        made = make_source(name, settings, metrics, clock, config.state_dir)
        normalizers[name] = made.normalizer
        return made.source

    def file_source(name: str, settings: Any) -> Any:
        return make_file_source(name, settings, metrics, clock).source

    def sink(name: str, settings: Any) -> Any:
        return make_sink(name, settings, metrics, clock)

    def sink_check(name: str) -> Callable[[Any], Awaitable[_Said]]:
        if test and not config.sources_of(name):
            return _check_idle_sink
        event = _test_event(config, name, now) if test and config.sinks[name].enabled else None
        return lambda built: _check_sink(built, event, now)

    def source_check(name: str) -> Callable[[Any], Awaitable[_Said]]:
        settings = config.sources[name]
        if getattr(settings, "FEED", None) is not None:
            return lambda built: _check_described(
                built, settings, normalizers[name], now, config if thorough else None
            )
        return lambda built: _check_source(built, normalizers[name], now)

    checks = [] if config.store is None else [_store_row(config.store, clock)]
    checks += [
        _row(name, settings, source, source_check(name))
        if settings.export_directory is None
        else _row(name, settings, file_source, _check_files)
        for name, settings in config.sources.items()
    ]
    checks += [
        _row(name, settings, sink, sink_check(name)) for name, settings in config.sinks.items()
    ]
    return list(await asyncio.gather(*checks))


async def _store_row(secret: SecretAddress, clock: Clock) -> Row:
    # Only a shared store needs psycopg.
    from auditrelay.store.postgres.address import Address  # noqa: PLC0415
    from auditrelay.store.postgres.check import check  # noqa: PLC0415

    try:
        found = await asyncio.to_thread(check, Address(secret), clock)
    except RelayError as error:
        return Row("store", _POSTGRESQL, "failed", scrub(str(error)))
    risks = [scrub(risk) for risk in found.risks]
    if found.refusals:
        return Row("store", _POSTGRESQL, "failed", scrub("; ".join(found.refusals)), notes=risks)
    return Row("store", _POSTGRESQL, "ok", found.about, notes=risks)


async def _row(
    name: str,
    settings: Any,
    build: Callable[[str, Any], Any],
    check: Callable[[Any], Awaitable[_Said]],
) -> Row:
    if not settings.enabled:
        return Row(name, settings.type, "disabled", "")
    try:
        async with contextlib.AsyncExitStack() as stack:
            peer = build(name, settings)
            stack.push_async_callback(peer.close)
            said = await check(peer)
            notes = [scrub(note) for note in said.notes]
            return Row(name, settings.type, "ok", scrub(said.message), said.queries, notes)
    except RelayError as error:
        return Row(name, settings.type, "failed", scrub(str(error)))


async def _check_files(source: FileSource) -> _Said:
    return _Said(await source.check())


async def _check_source(source: Source, normalize: Normalizer, now: datetime) -> _Said:
    async with contextlib.aclosing(source.walk(Interval(now - timedelta(hours=1), now))) as pages:
        async for page in pages:
            count = len(page.records) if page.total is None else page.total
            least = "at least " if page.total is None and not page.last else ""
            message = f"answers; {least}{humanize.count(count, 'event')} in the last hour"
            if page.partial is not None:
                message += f"; some events are hidden by the plan ({page.partial})"
            if odd := odd_times(normalize(page.records, micros(now))):
                message += f"; {odd}"
            return _Said(message)
    return _Said("answers")


async def _check_described(
    source: Any, settings: Any, normalize: Normalizer, now: datetime, thorough: Config | None
) -> _Said:
    """Prove the description of *source*: with *thorough*, the whole configuration, all of it."""
    # Only a source that is described needs it.
    from auditrelay.cli.probes import probe, unread_feeds  # noqa: PLC0415

    try:
        found = await probe(source, settings, normalize, now, thorough=thorough is not None)
    except Refused as error:
        if error.status not in (401, 403, 404) or not settings.FEED.needs:
            raise
        needs = " ".join(settings.FEED.needs)
        raise Refused(f"{error}. Needed: {needs}", status=error.status) from error
    notes = list(found.notes)
    if thorough is not None:
        of_vendor = [
            other for other in thorough.sources.values() if other.vendor == settings.vendor
        ]
        read = {feed.name for other in of_vendor if (feed := getattr(other, "FEED", None))}
        notes += unread_feeds(settings, read)
    return _Said(found.message, notes=notes)


async def _check_sink(sink: Sink, test: AuditEvent | None, now: datetime) -> _Said:
    message = await sink.check()
    if test is None:
        return _Said(message)

    page = Page.of([test])
    rendered = sink.render(page, micros(now), marks={"test": True})
    verdict = await send_fit(sink, Item.of_page([0], page, rendered, sink.limits))
    refusal = next(_refusals(verdict), None)
    if refusal is not None:
        raise Retryable(f"it did not take the test event: {refusal}", reason="test_event")
    took = "took the test event"
    if verdict.ack_id is not None:
        took += ", which it acknowledges later: search for it to be sure"
    return _Said("; ".join((message, took, *verdict.warnings)), sink.query(test.uid))


async def _check_idle_sink(sink: Sink) -> _Said:
    return _Said(f"{await sink.check()}; it receives no source, so it was sent no test event")


def _refusals(verdict: Verdict) -> Iterator[str]:
    """Yield why the one event of *verdict* was not taken; nothing if it was."""
    for rejection in verdict.rejected:
        yield f"{rejection.message} ({rejection.reason})"
    if verdict.retry:
        yield str(verdict.retry_reason or "temporarily refused")


def _test_event(config: Config, sink: str, now: datetime) -> AuditEvent:
    """Return a test event that goes to the same index as the events of a source of *sink*."""
    names = config.sources_of(sink)
    name = next((name for name in names if config.sources[name].enabled), names[0])
    settings = config.sources[name]
    return test_event(
        source=name,
        vendor=settings.vendor,
        product=settings.product,
        nonce=secrets.token_hex(16),
        now=now,
        tags=settings.tags,
    )
