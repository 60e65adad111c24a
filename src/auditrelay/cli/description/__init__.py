"""``auditrelay description``: the audit-log APIs and receivers that are described in files."""

import asyncio
import json
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from auditrelay.cli.completion import names
from auditrelay.cli.json_text import printable
from auditrelay.cli.options import Options
from auditrelay.descriptions import FOLDER, RECEIVERS, shipped, shipped_receivers
from auditrelay.descriptions.load import Description, named, read
from auditrelay.descriptions.receiver.load import Receiver, is_receiver
from auditrelay.descriptions.receiver.load import named as named_receiver
from auditrelay.descriptions.receiver.load import read as read_receiver
from auditrelay.descriptions.schema import json_schema, receiver_schema
from auditrelay.descriptions.settings import DescribedSettings
from auditrelay.errors import ConfigError
from auditrelay.settings.toml import Unreadable, read_toml
from auditrelay.settings.wording import suggestion
from auditrelay.telemetry.logs import setup
from auditrelay.telemetry.scrubber import scrub

_WORDS = 5
"""Values of one place that are printed."""

description = typer.Typer(
    help="The audit-log APIs and receivers that are described in files.", no_args_is_help=True
)


Which = Annotated[
    str,
    typer.Argument(
        metavar="NAME|FILE",
        help="The path of a file, or one that comes with auditrelay: "
        f"{', '.join((*shipped(), *shipped_receivers()))}.",
        autocompletion=names(lambda: (*shipped(), *shipped_receivers())),
    ),
]


@description.command("list")
def list_(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the descriptions that come with auditrelay, and what each needs."""
    rows: list[dict[str, Any]] = [
        {
            "type": name,
            "product": file.product,
            "feeds": list(file.feeds),
            "needs": list(file.needs),
            "evidence": file.evidence,
            "checked": file.checked.isoformat(),
        }
        for name in shipped()
        if (file := named(name).file)
    ]
    rows += [
        {
            "type": name,
            "product": receiver.product,
            "needs": list(receiver.needs),
            "evidence": receiver.evidence,
            "checked": receiver.checked.isoformat(),
            "receiver": True,
        }
        for name in shipped_receivers()
        if (receiver := named_receiver(name).file)
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    width = Console().width
    for row in rows:
        seen = f"by {row['evidence']}, checked {row['checked']}"
        kind = "receiver, " if row.get("receiver") else ""
        typer.echo(f"{row['type']}: {row['product']} ({kind}{seen})")
        feeds = [f"feeds: {', '.join(row['feeds'])}"] if row.get("feeds") else []
        for text in (*feeds, *row["needs"]):
            typer.echo(textwrap.fill(text, width, initial_indent="  ", subsequent_indent="    "))


@description.command()
def show(
    which: Which,
    *,
    as_toml: Annotated[
        bool, typer.Option("--toml", help="Print the file itself, to begin one of your own with.")
    ] = False,
) -> None:
    """Show what a description asks or sends, needs and leaves out, its settings and defaults."""
    found = _found(which)
    if as_toml:
        typer.echo(found.path.read_text("utf-8-sig"), nl=False)
        return
    if isinstance(found, Receiver):
        from auditrelay.cli.description import receivers  # noqa: PLC0415  # only for this

        for line in receivers.summary(found, Console().width):
            typer.echo(line)
        return
    from auditrelay.cli.description.summary import summary  # noqa: PLC0415  # only for this

    for line in summary(found, Console().width):
        typer.echo(line)


@description.command("test")
def replay_examples(
    context: typer.Context,
    which: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE|FOLDER",
            help="The name of one that comes with auditrelay, a file, or a folder with one file.",
            autocompletion=names(lambda: (*shipped(), *shipped_receivers())),
        ),
    ],
    *,
    update: Annotated[
        bool, typer.Option("--update", help="Write each events.json again; then read what changed.")
    ] = False,
) -> None:
    """
    Replay the examples of a description against a vendor on loopback; makes no other request.

    Of a receiver's, show what its examples and other answers are taken for.
    """
    # Only this command needs the engine and the sandbox.
    from auditrelay.cli.description.conversations import conversations, examples_of  # noqa: PLC0415
    from auditrelay.cli.description.globs import overlaps  # noqa: PLC0415
    from auditrelay.cli.description.replay import replay, updated  # noqa: PLC0415

    setup(Options.of(context).level("error"), "auto")
    found = _found(which)
    if isinstance(found, Receiver):
        _test_receiver(found)
        return
    for note in (*found.notes, *(f"{found.path.name}: {each}" for each in overlaps(found))):
        typer.echo(f"note: {note}")
    examples = conversations(found.path)
    if not examples:
        raise ConfigError(_no_examples(found, examples_of(found.path)))
    failed = 0
    for conversation in examples:
        done = replay(found, conversation)
        if update:
            done = updated(done)
        failed += bool(done.problems)
        typer.echo(f"{conversation.name}: {done.line}")
        for problem in done.problems:
            typer.echo(textwrap.indent(problem, "  "))
    if failed:
        typer.echo(f"{failed} of {len(examples)} examples differ", err=True)
        raise typer.Exit(1)


@description.command()
def record(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(help="The name of a described source in the configuration.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder for the example; nothing is replaced.")
    ],
) -> None:
    """Make an example from a live source: without secrets and identities."""
    # Only this command needs the engine.
    from auditrelay.cli.description.recording import record as recorded  # noqa: PLC0415
    from auditrelay.cli.description.recording import write  # noqa: PLC0415

    options = Options.of(context)
    config = options.load(default_level="warning")
    settings = config.sources.get(source)
    if settings is None:
        known = ", ".join(config.sources) or "none"
        raise ConfigError(f"there is no source {source!r} in the configuration; there are: {known}")
    if not isinstance(settings, DescribedSettings):
        raise ConfigError(f"{source} is of type {settings.type}, which no file describes")
    made = asyncio.run(recorded(source, settings, options.clock))
    typer.echo(f"{source}: {made.findings.message}")
    for note in made.findings.notes:
        typer.echo(f"  note: {scrub(note)}")
    files = write(made, out)
    typer.echo("\nWhat is left in the replies; read it before you give it to anybody:")
    for place, words in made.kept.items():
        shown = ", ".join(words[:_WORDS]) + (", ..." if len(words) > _WORDS else "")
        typer.echo(printable(f"  {place or '(the reply)'}: {shown}"))
    typer.echo(f"\nWrote {len(files)} files into {files[0].parent}. Beside a description, in the")
    typer.echo("folder examples, `auditrelay description test --update` writes their events.")


@description.command()
def schema(
    *,
    receiver: Annotated[
        bool, typer.Option("--receiver", help="That of a receiver's description.")
    ] = False,
) -> None:
    """Print the JSON Schema of a description file."""
    typer.echo(json.dumps(receiver_schema() if receiver else json_schema(), indent=2))


def _test_receiver(found: Receiver) -> None:
    """Print what answers are taken for. Raises Exit(1) if an example is taken for another thing."""
    from auditrelay.cli.description import receivers  # noqa: PLC0415  # only for this

    for note in found.notes:
        typer.echo(f"note: {note}")
    for line in receivers.meanings(found.file):
        typer.echo(line)
    wrong = list(receivers.wrong_examples(found.file))
    for line in wrong:
        typer.echo(f"{found.path}: {line}", err=True)
    if wrong:
        raise typer.Exit(1)


def _found(which: str) -> Description | Receiver:
    """Return the description that *which* names. Raises ConfigError."""
    if which in shipped():
        return named(which)
    if which in shipped_receivers():
        return named_receiver(which)
    path = Path(which)
    if path.is_dir():
        files = sorted(path.glob("*.toml"))
        if len(files) != 1:
            how_many = f"{len(files)} files *.toml" if files else "no file *.toml"
            raise ConfigError(f"{path}: has {how_many}: name the file of one description")
        path = files[0]
    elif not path.exists():
        known = (*shipped(), *shipped_receivers())
        hint = suggestion(which, known) or "; `auditrelay description list` shows the names"
        raise ConfigError(f"{which}: is neither a shipped description nor a file{hint}")
    try:
        if path.resolve().parent == FOLDER.resolve():
            return named(path.stem)
        if path.resolve().parent == RECEIVERS.resolve():
            return named_receiver(path.stem)
        if is_receiver(read_toml(path)[0]):
            return read_receiver(path)
        return read(path)
    except Unreadable as error:
        raise ConfigError(str(error)) from error


def _no_examples(found: Description, folder: Path) -> str:
    if found.path.parent == FOLDER and not folder.is_dir():
        return (
            f"{found.path.stem}: its examples are in the source tree of auditrelay "
            "(tests/descriptions/examples), not in the package: run this there"
        )
    return (
        f"{found.path}: nothing is wrong with it, and there is no example to replay: make folders "
        f"with an about.toml in {folder} (`auditrelay description record` makes them of a source)"
    )
