"""``auditrelay evidence``: heads, exports and proofs for an auditor, and his check of them."""

import base64
import json
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from auditrelay.cli.options import Options
from auditrelay.cli.times import parse_time
from auditrelay.config.model import Config
from auditrelay.errors import ConfigError, RelayError
from auditrelay.window import iso, micros, moment

T = TypeVar("T")

_UID = re.compile("[0-9a-f]{40}")

_MOST_REASON = 1000
"""Characters of the reason for a restore: it is part of an entry, which has 60,000 bytes."""

evidence = typer.Typer(
    help="What an auditor checks without believing this instance.", no_args_is_help=True
)


@evidence.command()
def head(
    context: typer.Context,
    *,
    public: Annotated[
        bool, typer.Option("--public", help="Print the public key that signs heads instead.")
    ] = False,
) -> None:
    """Print the newest head: one word that fixes everything that was done before it."""
    config = Options.of(context).load(default_level="warning")
    if public:
        keys = config.evidence.keys
        if keys is None:
            raise ConfigError("evidence.key: is not set, so heads are not signed")
        typer.echo(base64.b64encode(keys.public).decode("ascii"))
        return
    from auditrelay.store.sql.evidence import newest_word  # noqa: PLC0415  # not for check

    word = _read(config, newest_word)
    if word is None:
        raise RelayError(_NOTHING)
    typer.echo(word)


@evidence.command()
def export(
    context: typer.Context,
    *,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The folder, which has no export yet.")
    ],
    uids: Annotated[
        bool, typer.Option("--uids", help="With the uid of every event, 38 bytes each.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option("--from", metavar="T", help="With --uids: only what was sealed from then on."),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--to", metavar="T", help="With --uids: only what was sealed before."),
    ] = None,
) -> None:
    """Write all entries and heads as plain lines, while the service runs or not."""
    from auditrelay.store.sql.evidence import newest_word  # noqa: PLC0415  # not for check
    from auditrelay.store.sql.export import export as write  # noqa: PLC0415  # likewise

    options = Options.of(context)
    config = options.load(default_level="warning")
    if not uids and (since is not None or until is not None):
        raise ConfigError("--from and --to choose uids: add --uids, or leave them out")
    within = _within(since, until, options.clock.now()) if uids else None
    if _read(config, newest_word) is None:
        raise RelayError(_NOTHING)
    try:
        out.mkdir(parents=True, exist_ok=True)
        made = _read(config, lambda db: write(db, out, within=within))
    except FileExistsError as error:
        raise ConfigError(
            f"--out {out}: {error.filename} exists already; not overwritten"
        ) from None
    except OSError as error:
        raise RelayError(f"--out {out}: cannot be written: {error.strerror or error}") from error
    with_uids = "" if made.uids is None else f", {made.uids} uids"
    typer.echo(f"{made.entries} entries, {made.heads} heads{with_uids}: {out}")


def _within(since: str | None, until: str | None, now: datetime) -> tuple[int, int]:
    start = 0 if since is None else micros(parse_time("--from", since, now))
    end = 1 << 62 if until is None else micros(parse_time("--to", until, now))
    if start >= end:
        raise ConfigError("--to must be later than --from")
    return start, end


@evidence.command()
def check(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR|FILE...", help="An export, an older and a newer one, or a proof.json."
        ),
    ],
    *,
    witness: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Heads from outside: what a SIEM exports, or any text."),
    ] = None,
    key: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A public key that you keep, of: evidence head --public"),
    ] = None,
    siem: Annotated[
        list[str] | None,
        typer.Option(metavar="SINK=FILE", help="The uids, and raw_sha256, that a SIEM has."),
    ] = None,
    vendor: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="What a vendor shows, of: verify --list"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check an export or a proof against heads from outside; it needs no configuration."""
    from auditrelay.evidence.auditor import program  # noqa: PLC0415  # only this command needs it

    options = {"witness": witness, "key": key, "siem": siem, "vendor": vendor}
    arguments = [f"--{name}={value}" for name, values in options.items() for value in values or ()]
    if as_json:
        arguments.append("--json")
    raise typer.Exit(program.main([*arguments, "--", *map(str, paths)]))


@evidence.command()
def prove(
    context: typer.Context,
    uid: Annotated[str, typer.Argument(help="The uid of an event: 40 hexadecimal digits.")],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The file to write.")],
) -> None:
    """Write when an event was accepted, and taken by each sink, as a file for evidence check."""
    from auditrelay.store.sql import event_proof  # noqa: PLC0415  # not for check

    config = Options.of(context).load(default_level="warning")
    wanted = uid.strip().lower()
    if not _UID.fullmatch(wanted):
        raise ConfigError(f"UID: {uid!r} is not 40 hexadecimal digits")
    proof = _read(config, lambda db: event_proof.event_proof(db, wanted))
    try:
        with out.open("x", encoding="ascii") as file:
            file.write(json.dumps(proof, separators=(",", ":")) + "\n")
    except FileExistsError:
        raise ConfigError(f"--out {out}: exists already; not overwritten") from None
    except OSError as error:
        raise RelayError(f"--out {out}: cannot be written: {error.strerror or error}") from error
    accepted = json.loads(proof["accepted"]["line"])
    at = "" if proof["at"] is None else f", {iso(moment(proof['at']))}"
    sealed = f"accepted by {iso(moment(accepted['at']))} (entry {accepted['n']})"
    parts = [f"event {wanted} of {proof['source']}{at}: {sealed}"]
    for name, each in proof["sinks"].items():
        entry = json.loads(each["line"])
        did = "refused" if event_proof.is_refused(each, wanted) else "took"
        parts.append(f"{name} {did} it by {iso(moment(entry['at']))} ({entry['n']})")
    if not proof["sinks"]:
        parts.append("no sink has taken it yet")
    typer.echo("; ".join(parts))
    typer.echo(f"Check it: auditrelay evidence check {out} --witness FILE")


@evidence.command()
def restored(
    context: typer.Context,
    *,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why, for the auditor to read.")
    ],
) -> None:
    """Tell the auditor that the state was restored from a backup, copied or moved, and why."""
    from auditrelay.cli.remote import run_command  # noqa: PLC0415  # the whole service
    from auditrelay.service.desk import Recorded, Restored  # noqa: PLC0415  # likewise

    options = Options.of(context)
    config = options.load(default_level="warning")
    text = reason.strip()
    if not 0 < len(text) <= _MOST_REASON or not text.isprintable():
        raise ConfigError(f"--reason: must be 1 to {_MOST_REASON} printable characters on one line")
    _must_be_there(config)
    _, undelivered = run_command(config, options.clock, Restored(text), Recorded)
    typer.echo("Recorded: the next entry of the evidence says who has restored the state, and why.")
    for each in undelivered or ():
        typer.echo(f"auditrelay: not delivered yet: {each}", err=True)
    if undelivered:
        raise typer.Exit(1)


_NOTHING = (
    "there is no evidence yet: nothing was sealed (the first seal is within 5 minutes of the start)"
)


def _read(config: Config, work: Callable[[Any], T]) -> T:
    """Return what *work* makes of one snapshot of the state, a connection to it."""
    from auditrelay.service.state import view_of  # noqa: PLC0415  # not for check

    _must_be_there(config)
    with view_of(config) as view:
        return view.in_snapshot(work)


def _must_be_there(config: Config) -> None:
    from auditrelay.service.state import is_there  # noqa: PLC0415  # not for check

    if not is_there(config):
        raise RelayError(f"there is no state in {config.state_dir}, so there is no evidence")
