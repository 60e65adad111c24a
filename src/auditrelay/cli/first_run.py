"""
``auditrelay init --interactive``: ask for a configuration, type by type, and try it.

Plain questions, a line each, so that it works over ssh and on any terminal. What is asked are the
keys that the example of a type sets; those that it has commented out can be given as well. No
secret is shown, nor written into the configuration: it goes into a file of its own beside it, or is
read from where a reference says, or from the environment. Nothing is written before everything was
asked, and what was written is removed if the rest of it cannot be.
"""

import asyncio
import getpass
import json
import os
import re
import sys
import tempfile
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import typer

from auditrelay.cli.check import check_all, show
from auditrelay.cli.sample import newest
from auditrelay.clock import Clock
from auditrelay.config import load
from auditrelay.config.model import Config
from auditrelay.errors import ConfigError, RelayError
from auditrelay.events.notices import test_event
from auditrelay.events.page import Page
from auditrelay.supervisor.sinks import make_sink
from auditrelay.telemetry.logs import setup
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrub
from auditrelay.window import micros

_REFERENCE: Final = re.compile(r"\$\{(env|file|credential):([^}]+)\}")
"""In an example it says that a key is secret. It may be given for a secret, too."""
_DEFAULT: Final = re.compile(r"# ([a-z_]+) = (.+?)(?:  # no default)?")
"""A key that is commented out, with its default: only who wants it is asked for it."""
_NAME: Final = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")

Example = Callable[[str], str]
"""Returns the example of a type, or of the only one that begins so; raises ConfigError."""


@dataclass
class Kind:
    """Sources, or sinks: the *word*, the types that there are, and their examples."""

    word: str
    types: Sequence[str]
    example: Example


@dataclass
class _Answers:
    """What was answered: tables by path, secrets by file, and the variables that are to be set."""

    folder: Path
    tables: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    files: dict[Path, str] = field(default_factory=dict)
    variables: list[str] = field(default_factory=list)

    def text(self, head: str) -> str:
        """Return the configuration."""
        parts = [head]
        for (word, name), table in self.tables.items():
            lines = [f"{key} = {_toml(value)}" for key, value in table.items()]
            parts.append("\n".join(["", f"[{word}s.{json.dumps(name)}]", *lines, ""]))
        return "".join(parts)


def require_terminal() -> None:
    """Raise ConfigError unless there is a terminal to ask on."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError(
            "--interactive asks questions, and there is no terminal; leave it out, and name what "
            "is wanted: auditrelay init --source TYPE --sink TYPE"
        )


def ask_and_write(path: Path, kinds: Sequence[Kind], head: str, clock: Clock) -> None:
    """
    Ask for a source and a sink or more, write the configuration to *path*, and try it.

    Raises ConfigError, and typer.Exit if the check fails.
    """
    if path.exists():
        raise ConfigError(f"{path}: exists already; not overwritten")
    if not os.access(path.resolve().parent, os.W_OK | os.X_OK):
        raise ConfigError(f"{path}: cannot be written: there is no such folder that you may write")
    answers = _Answers(path.resolve().parent / "credentials")
    typer.echo("Answer line by line; Enter takes what is in brackets. Ctrl-C ends it: nothing is")
    typer.echo("written before the last question.\n")
    try:
        for kind in kinds:
            while _ask_table(kind, answers):
                pass
    except EOFError:
        raise ConfigError("the input has ended before all was asked; nothing was written") from None
    _write(path, answers, head)
    typer.echo(f"\nWrote {path}" + "".join(f"\nWrote {file}" for file in answers.files))
    if answers.variables:
        names = ", ".join(answers.variables)
        typer.echo(f"Not tried: these variables are not set here: {names}. Set them, then run:")
        typer.echo(f"  auditrelay -c {path} check")
        return
    _try(path, clock)


def _ask_table(kind: Kind, answers: _Answers) -> bool:
    """Ask for one more source or sink; return False if no more is wanted."""
    some = any(word == kind.word for word, _ in answers.tables)
    chosen = _ask_type(kind, some=some)
    if chosen is None:
        return False
    example = kind.example(chosen)
    ((name, given),) = tomllib.loads(example)[f"{kind.word}s"].items()
    while True:
        wanted = _ask_name(kind, name, answers)
        table = _ask_keys(example, given, wanted, answers)
        answers.tables[kind.word, wanted] = table
        problems = list(_problems(answers, kind.word, wanted))
        if not problems:
            return True
        typer.echo("\n".join(["That does not fit:", *(f"  {each}" for each in problems)]))
        _forget(answers, kind.word, wanted)


def _ask_type(kind: Kind, *, some: bool) -> str | None:
    question = f"{'Another' if some else 'Type of'} {kind.word} (? lists the types"
    question += ", Enter: no more): " if some else "): "
    while True:
        answer = input(question).strip()
        if answer == "?":
            typer.echo(
                textwrap.fill(
                    ", ".join(kind.types), 76, initial_indent="  ", subsequent_indent="  "
                )
            )
        elif answer:
            try:
                given = tomllib.loads(kind.example(answer))[f"{kind.word}s"]
            except ConfigError as error:
                typer.echo(f"  {error}")
                continue
            return str(next(iter(given.values()))["type"])
        elif some:
            return None


def _ask_name(kind: Kind, example: str, answers: _Answers) -> str:
    while True:
        name = input(f"Its name in metrics, logs and events [{example}]: ").strip() or example
        if _NAME.fullmatch(name) is None:
            typer.echo("  letters and digits, with single - _ . between them")
        elif any(name == other for _, other in answers.tables):
            typer.echo(f"  there is one of this name already; a {kind.word} needs its own")
        elif any(answers.folder.glob(f"{name}.*")):
            typer.echo(f"  {answers.folder} has secrets of this name already; take another one")
        else:
            return name


def _ask_keys(
    example: str, given: Mapping[str, Any], name: str, answers: _Answers
) -> dict[str, Any]:
    """Ask for each key that is set in the *example*, with its comment, and for others by name."""
    table: dict[str, Any] = {}
    comments = _comments(example)
    others = _others(example)
    left = iter(given.items())
    while (item := next(left, None) or _ask_other(others)) is not None:
        key, value = item
        if key in ("type", "feed"):
            table[key] = value
            continue
        for line in comments.get(key, ()):
            typer.echo(f"  {line}")
        reference = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if reference is not None:
            variable = reference[2] if reference[1] == "env" else key.upper()
            table[key] = _ask_secret(f"{name}.{key}", key, variable, answers)
        elif isinstance(value, str):
            table[key] = _ask_text(key, value)
        elif isinstance(value, list) and value:
            table[key] = [each.strip() for each in _ask_text(key, value[0]).split(",")]
        else:
            table[key] = _ask_value(key, value)
    return table


def _ask_other(others: dict[str, Any]) -> tuple[str, Any] | None:
    """Ask for one of the keys that are not needed, and take it out of *others*."""
    while others:
        answer = input("Another key of it (? lists them, Enter: none): ").strip()
        if not answer:
            break
        if answer in others:
            return answer, others.pop(answer)
        typer.echo(
            textwrap.fill(", ".join(others), 76, initial_indent="  ", subsequent_indent="  ")
        )
    return None


def _ask_text(key: str, example: str) -> str:
    while True:
        if answer := input(f"{key} (such as {example}): ").strip():
            return answer


def _ask_value(key: str, example: object) -> Any:  # whatever TOML has
    """Ask for what is no text, and is written as in TOML."""
    while True:
        answer = input(f"{key} (such as {_toml(example)}): ").strip()
        try:
            return tomllib.loads(f"{key} = {answer}")[key]
        except (tomllib.TOMLDecodeError, KeyError):
            typer.echo("  that is not as TOML has it; a text stands in quotes")


def _toml(value: object) -> str:
    """Return *value* as TOML writes it, in a line."""
    if isinstance(value, dict):
        pairs = ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)


def _others(example: str) -> dict[str, Any]:
    """Return the keys that are commented out, with what stands there."""
    found = filter(None, map(_DEFAULT.fullmatch, example.splitlines()))
    return {each[1]: tomllib.loads(f"value = {each[2]}")["value"] for each in found}


def _ask_secret(file: str, key: str, variable: str, answers: _Answers) -> str:
    prompt = f"{key} (not shown; or ${{file:/path}}; Enter: it is in the variable {variable}): "
    secret = getpass.getpass(prompt).strip()
    if referred := _REFERENCE.fullmatch(secret):
        if referred[1] == "env":
            _note_variable(referred[2], answers)
        return secret
    if secret:
        path = answers.folder / file
        answers.files[path] = secret
        return f"${{file:{path}}}"
    _note_variable(variable, answers)
    return f"${{env:{variable}}}"


def _note_variable(name: str, answers: _Answers) -> None:
    """Note that the variable *name* is to be set, unless it is."""
    if name not in os.environ and name not in answers.variables:
        answers.variables.append(name)


def _comments(example: str) -> dict[str, list[str]]:
    """Return the lines of comment above each key that is set."""
    found: dict[str, list[str]] = {}
    above: list[str] = []
    for line in example.splitlines():
        if line.startswith("# ") and not _DEFAULT.match(line):
            above.append(line.removeprefix("# "))
            continue
        if line and not line.startswith("["):
            found[line.removeprefix("# ").partition(" ")[0]] = above
        above = []
    return found


def _problems(answers: _Answers, word: str, name: str) -> Iterator[str]:
    """Yield what is wrong with the table *name*; no secret is written for that."""
    environ = {**os.environ, **dict.fromkeys(answers.variables, "not-known-yet")}
    text = answers.text("")
    for number, (path, secret) in enumerate(answers.files.items()):
        environ[f"SECRET_{number}"] = secret
        text = text.replace(f"${{file:{path}}}", f"${{env:SECRET_{number}}}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "auditrelay.toml")
        file.touch(mode=0o600)
        file.write_text(text, "utf-8")
        try:
            load(file, environ)
        except ConfigError as error:
            yield from (each for each in error.problems if each.startswith(f"{word}s.{name}"))


def _forget(answers: _Answers, word: str, name: str) -> None:
    table = answers.tables.pop((word, name))
    for path in [path for path in answers.files if f"${{file:{path}}}" in table.values()]:
        del answers.files[path]


def _write(path: Path, answers: _Answers, head: str) -> None:
    """Write the secrets, then the configuration; all of it, or nothing."""
    written: list[Path] = []
    made = False
    try:
        if answers.files and not answers.folder.exists():
            answers.folder.mkdir(mode=0o700)
            made = True
        for file, secret in answers.files.items():
            _create(file, f"{secret}\n", written)
        _create(path, answers.text(head), written)
    except BaseException as error:
        for file in written:
            file.unlink(missing_ok=True)
        if made:
            answers.folder.rmdir()
        if isinstance(error, OSError):
            raise ConfigError(f"{error.filename}: {error.strerror}; nothing was written") from error
        raise


def _create(path: Path, text: str, written: list[Path]) -> None:
    # One step, as for the starter: no other process can create it, or read it with another mode.
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    written.append(path)
    with os.fdopen(file, "w", encoding="utf-8") as stream:
        stream.write(text)


def _try(path: Path, clock: Clock) -> None:
    """Check the configuration at *path*, and show an event as each sink gets it."""
    config = load(path, os.environ)
    setup("error", config.log.format)
    typer.echo("\nauditrelay check:")
    rows = asyncio.run(check_all(config, clock))
    show(rows)
    failed = [row.name for row in rows if row.result == "failed"]
    asyncio.run(_show_samples(config, clock, failed))
    if failed:
        typer.echo(f"\nFix what failed in {path}, then run: auditrelay -c {path} check")
        raise typer.Exit(1)
    typer.echo(f"\nAll well. Start it: auditrelay -c {path} run")


async def _show_samples(config: Config, clock: Clock, failed: Sequence[str]) -> None:
    source, settings = next(iter(config.sources.items()))
    now, page = clock.now(), Page.of([])
    if source not in failed:
        try:
            page = Page.of(await newest(config, clock, source, 1))
        except RelayError as error:
            typer.echo(f"no sample of {source}: {scrub(str(error))}")
    what = f"The newest event of {source}"
    if not page:
        event = test_event(
            source=source,
            vendor=settings.vendor,
            product=settings.product,
            nonce="sample",
            now=now,
            tags=settings.tags,
        )
        what, page = "There is none to show, so this is a made-up event", Page.of([event])
    for name, sink_settings in config.sinks.items():
        sink = make_sink(name, sink_settings, Metrics(sinks=[name]), clock)
        try:
            (rendered,) = sink.render(page, micros(now))
        finally:
            await sink.close()
        typer.echo(f"\n{what}, as {name} gets it:")
        typer.echo(rendered.text.decode("utf-8", "replace"))
