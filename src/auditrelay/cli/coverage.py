"""``auditrelay coverage``: which spans of each source were read, by what and when, and gaps."""

import json
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from auditrelay.cli.options import Options
from auditrelay.cli.remote import run_command
from auditrelay.cli.times import parse_time
from auditrelay.clock import Clock
from auditrelay.config.model import Config
from auditrelay.errors import ConfigError
from auditrelay.evidence.facts import chain
from auditrelay.evidence.heads import WORD, Head
from auditrelay.service.desk import Reopen, Reopened
from auditrelay.service.state import is_there, tip_of, view_of
from auditrelay.settings.values import parse_duration
from auditrelay.store import Coverage, Fact, Span
from auditrelay.store.sql.check_report import nothing, with_unknown
from auditrelay.store.sql.given_heads import with_age
from auditrelay.window import Interval, holes, iso, micros, moment

_WIDTH = 60
"""Characters of the timeline."""


def coverage(
    context: typer.Context,
    source: Annotated[str | None, typer.Argument(help="Only this source.")] = None,
    *,
    since: Annotated[
        str | None, typer.Option("--from", metavar="T", help="Only from this time on.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", metavar="T", help="Only up to this time.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Compare the evidence with itself and with the state.")
    ] = False,
    head: Annotated[
        list[str] | None,
        typer.Option(
            "--head",
            metavar="WORD|FILE",
            help="With --check: a head from outside, or a file with heads; repeatable.",
        ),
    ] = None,
    max_age: Annotated[
        str | None,
        typer.Option(metavar="D", help="With --check: how old the newest head may be, such as 3h."),
    ] = None,
    reopen: Annotated[
        bool, typer.Option("--reopen", help="Take the gaps back that are declared in the range.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Confirm --reopen.")] = False,
) -> None:
    """Show which spans of event time were read, with how many events, and every gap."""
    options = Options.of(context)
    config = options.load(default_level="warning")
    if reopen:
        if source is None or since is None or until is None or as_json or check:
            raise ConfigError("--reopen needs SOURCE, --from and --to, and goes with --yes alone")
        _reopen(config, options.clock, source, since, until, yes=yes)
        return
    if yes:
        raise ConfigError("--yes confirms --reopen: add that, or leave it out")
    if check:
        if since or until:
            raise ConfigError("--check is of the whole state: leave --from and --to out")
        given, most = _heads(head or ()), _age(max_age)
        _check(config, options.clock, given, most, source=source, as_json=as_json)
        return
    if head or max_age:
        raise ConfigError("--head and --max-age go with --check")
    wanted = _wanted(since, until, options.clock.now())
    found = _of(config, source)
    if as_json:
        shown = [_json(name, each, wanted, _axis(config, name)) for name, each in found.items()]
        typer.echo(json.dumps(shown if source is None else shown[0], indent=2))
        return
    for name, each in found.items():
        _print(name, each, wanted, _axis(config, name))


def _of(config: Config, source: str | None) -> dict[str, Coverage | None]:
    """Return the coverage of *source*, which must be configured or known, or of all."""
    every = _read(config)
    if source is None:
        return every
    _must_be_one_of(source, every, config)
    return {source: every[source]}


def _must_be_one_of(source: str, names: Collection[str], config: Config) -> None:
    if source not in names:
        known = ", ".join(config.sources) or "none"
        raise ConfigError(f"there is no source {source!r}; there are: {known}")


def _reopen(
    config: Config, clock: Clock, source: str, since: str, until: str, *, yes: bool
) -> None:
    now = clock.now()
    request = Reopen(
        source=source,
        start=parse_time("--from", since, now),
        end=parse_time("--to", until, now),
        yes=yes,
    )
    reopened, undelivered = run_command(config, clock, request, Reopened)
    for gap in reopened.gaps:
        typer.echo(f"{source}: taken back: {iso(gap.start)} .. {iso(gap.end)} ({gap.reason})")
    typer.echo("The next poll asks for it again; gap_filled reports what was read.")
    if reopened.expired is not None:
        typer.echo(
            f"The vendor keeps nothing from before {iso(reopened.expired)}: that is declared as a "
            "gap again."
        )
    for each in undelivered or ():
        typer.echo(f"auditrelay: not delivered yet: {each}", err=True)


def _wanted(since: str | None, until: str | None, now: datetime) -> Interval | None:
    if since is None and until is None:
        return None
    start = datetime.min.replace(tzinfo=UTC) if since is None else parse_time("--from", since, now)
    end = datetime.max.replace(tzinfo=UTC) if until is None else parse_time("--to", until, now)
    if start >= end:
        raise ConfigError("--to must be later than --from")
    return Interval(start, end)


def _read(config: Config) -> dict[str, Coverage | None]:
    if not is_there(config):
        return dict.fromkeys(config.sources)
    with view_of(config, tags=True) as view:
        names = dict.fromkeys((*config.sources, *(state.name for state in view.sources())))
        return {name: view.coverage(name) for name in names}


def _overlapping(spans: Sequence[Span], wanted: Interval | None) -> list[Span]:
    return [
        span
        for span in spans
        if wanted is None or (span.interval.start < wanted.end and span.interval.end > wanted.start)
    ]


def _axis(config: Config, source: str) -> str:
    """Return which time the spans of *source* are of; one that is not configured has its own."""
    settings = config.sources.get(source)
    return "event" if settings is None else settings.axis


def _json(name: str, known: Coverage | None, wanted: Interval | None, axis: str) -> dict[str, Any]:
    spans = _overlapping(known.spans, wanted) if known else []
    return {
        "source": name,
        "axis": axis,
        "spans": [
            {
                "start": iso(span.interval.start),
                "end": iso(span.interval.end),
                "state": "covered" if span.gap is None else "gap",
                "reason": span.gap,
                "events": span.events,
                "digest": _digest(span, known.facts if known else ()),
            }
            for span in spans
        ],
        "deleted_at_source": known.deleted_at_source if known else 0,
        "late": [
            {"via": each.via, "within_seconds": each.seconds, "events": each.events}
            for each in (known.lateness if known else ())
        ],
        "journal": [
            _json_fact(each)
            for each in (known.facts if known else ())
            if wanted is None or _is_in(each, wanted)
        ],
        "head": known.head if known else None,
    }


def _json_fact(fact: Fact) -> dict[str, Any]:
    """Return a fact with its time; what it tells of a span of time is in words for all facts."""
    body = dict(fact.body)
    start, end = body.pop("start", None), body.pop("end", None)
    for name in ("raws", "stored"):  # what an auditor needs is in an export of the evidence
        body.pop(name, None)
    return {
        "recorded": _iso_micros(fact.at),
        "entry": fact.entry,
        "what": body.pop("fact"),
        "start": None if start is None else _iso_micros(start),
        "end": None if end is None else _iso_micros(end),
        "reason": body.pop("reason", None),
        "via": body.pop("via", None),
        "events": body.pop("events", None),
        "digest": body.pop("uids", None),
        **body,
    }


def _is_in(fact: Fact, wanted: Interval) -> bool:
    """Return whether a fact is of *wanted* time, or of no time."""
    start, end = fact.body.get("start"), fact.body.get("end")
    return (
        start is None or end is None or (start < micros(wanted.end) and end > micros(wanted.start))
    )


def _digest(span: Span, facts: Sequence[Fact]) -> str:
    """Return the chain over the digests of what was read within *span*, in order of time."""
    start, end = micros(span.interval.start), micros(span.interval.end)
    read = sorted(
        (body["start"], body["uids"])
        for body in (each.body for each in facts)
        if body["fact"] == "covered" and start <= body["start"] < end and "uids" in body
    )
    return chain(bytes.fromhex(uids) for _, uids in read).hex()


def _age(text: str | None) -> timedelta | None:
    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise ConfigError(f"--max-age: {error}") from error


def _heads(given: Sequence[str]) -> list[tuple[str, Head]]:
    """Return the heads *given*, words or files of them, each with where it was found."""
    found: list[tuple[str, Head]] = []
    for each in given:
        if each.startswith("arh1."):
            words, where = [each], "--head"
        else:
            try:
                words = WORD.findall(Path(each).read_text("utf-8", "replace"))
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise ConfigError(f"--head {each}: cannot be read: {reason}") from error
            where = each
            if not words:
                raise ConfigError(f"--head {each}: there is no head (arh1.…) in the file")
        try:
            found += [(where, Head.parse(word)) for word in dict.fromkeys(words)]
        except ValueError as error:
            raise ConfigError(f"--head: {error}") from error
    return found


def _check(
    config: Config,
    clock: Clock,
    given: list[tuple[str, Head]],
    most: timedelta | None,
    *,
    source: str | None,
    as_json: bool,
) -> None:
    """
    Compare the evidence with itself, the state, its tip and heads; exit 1 unless all fits.

    It is of the whole state: there is one log. But nothing may be known of a configured *source*
    (None: of any that is enabled), of which no entry could miss anything.
    """
    # Before the state is: a seal in between writes the tip last.
    tip = tip_of(config)
    head = tip.read()
    if head is not None:
        given = [(tip.name, head), *given]
    wanted = [name for name, each in config.sources.items() if each.enabled]
    wanted = wanted if source is None else [source]
    if is_there(config):
        with view_of(config, tags=True) as view:
            known = {state.name for state in view.sources()}
            if source is not None:
                _must_be_one_of(source, {*config.sources, *known}, config)
            checked = with_unknown(
                view.check(given), [name for name in wanted if name not in known]
            )
    else:
        lost = "" if head is None else f", and its tip tells of {head.size} entries"
        checked = nothing(f"there is no state in {config.state_dir}{lost}")
    if most is not None:
        checked = with_age(checked, clock.now(), most)
    if as_json:
        typer.echo(json.dumps(checked.as_json(), indent=2))
    else:
        for each in checked.findings:
            where = "" if each.where is None else f"{each.where}: "
            entry = "" if each.entry is None else f" (entry {each.entry})"
            level = "BAD " if each.level == "bad" else "note"
            typer.echo(f"{level} {each.code}: {where}{each.what}{entry}\n     do: {each.do}")
        if checked.whole:
            typer.echo(f"intact: {checked.entries} entries, the newest head is {checked.head}")
    if not checked.whole:
        raise typer.Exit(1)


def _print(name: str, known: Coverage | None, wanted: Interval | None, axis: str) -> None:
    spans = _overlapping(known.spans, wanted) if known else []
    if known is None or not spans:
        typer.echo(f"{name}: nothing was read yet\n")
        return
    start = (
        spans[0].interval.start if wanted is None else max(wanted.start, spans[0].interval.start)
    )
    end = spans[-1].interval.end if wanted is None else min(wanted.end, spans[-1].interval.end)
    events = sum(span.events for span in spans)
    recorded = "recorded from " if axis == "recorded" else ""
    typer.echo(f"{name}: {recorded}{_short(start)} to {_short(end)}, {events:,} events")
    typer.echo(f"  {_timeline(spans, start, end)}")
    typer.echo("  # read   ! gap   . not read yet")
    for run_start, run_end, gap, count in _runs(spans):
        state = "read" if gap is None else f"NOT READ ({gap})"
        typer.echo(f"  {_short(run_start)}  {_short(run_end)}  {count:>12,} events  {state}")
    late = sum(each.events for each in known.lateness)
    if late:
        typer.echo(f"  {late:,} of them were found late")
    if known.deleted_at_source:
        typer.echo(f"  {known.deleted_at_source:,} forwarded events were deleted at the source")
    for day, via, what, start_at, end_at in _reads_outside_polls(known):
        done = "filled" if what == "filled" else "read"
        typer.echo(
            f"  {day} {via} {done} {_iso_micros(start_at)[:16]} to {_iso_micros(end_at)[:16]}"
        )
    typer.echo("")


def _reads_outside_polls(known: Coverage) -> list[tuple[str, str, str, int, int]]:
    """Return what was read outside of polls: day, via, what and span; adjacent ones are joined."""
    done: list[tuple[str, str, str, int, int]] = []
    filled: list[tuple[int, int]] = []
    for each in known.facts:
        match each.body:
            case {"fact": "filled", "start": start, "end": end}:
                filled.append((start, end))
            case {"fact": "covered", "via": via, "start": start, "end": end} if via != "poll":
                what = "filled" if any(a < end and b > start for a, b in filled) else "covered"
                done.append((_iso_micros(each.at)[:10], via, what, start, end))
            case {"fact": "covered"}:
                pass
    joined: list[tuple[str, str, str, int, int]] = []
    for *key, start, end in sorted(done):
        if joined and list(joined[-1][:3]) == key and joined[-1][4] >= start:
            joined[-1] = (*joined[-1][:4], max(end, joined[-1][4]))
        else:
            joined.append((key[0], key[1], key[2], start, end))
    return joined


def _runs(spans: Sequence[Span]) -> list[tuple[datetime, datetime, str | None, int]]:
    """Return the spans, with adjacent ones of the same state joined."""
    runs: list[tuple[datetime, datetime, str | None, int]] = []
    for span in spans:
        if runs and runs[-1][1] == span.interval.start and runs[-1][2] == span.gap:
            start, _, gap, events = runs.pop()
            runs.append((start, span.interval.end, gap, events + span.events))
        else:
            runs.append((span.interval.start, span.interval.end, span.gap, span.events))
    return runs


def _timeline(spans: Sequence[Span], start: datetime, end: datetime) -> str:
    """Return a character for each part of the time: the worst state within it."""
    cell = max((end - start) / _WIDTH, timedelta(microseconds=1))
    line = ""
    for number in range(_WIDTH):
        part = Interval(start + number * cell, start + (number + 1) * cell)
        touching = _overlapping(spans, part)
        if any(span.gap for span in touching):
            line += "!"
        elif any(holes(Interval(part.start, min(part.end, end)), [s.interval for s in touching])):
            line += "."
        else:
            line += "#"
    return line


def _short(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _iso_micros(at: int) -> str:
    return iso(moment(at))
