"""
Load the configuration: a TOML file, overridden by the environment, references resolved, checked.

All problems are reported at once, each as a sentence that begins with the whole path of its key.
No such sentence contains a value that is or may be a secret.

``environment`` reads the variables, ``problems`` checks and explains, ``model`` is the result,
``schema`` describes the file for editors. docs/decisions/0019 says what pydantic-settings does.
"""

import contextlib
import os
import re
import socket
import stat
from collections.abc import Iterator, Mapping
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditrelay.config.environment import is_ours, nested, overlay, read_variables
from auditrelay.config.model import SINKS, SOURCES, Config, ConfigFile, secrets_in
from auditrelay.config.names import PREFIX
from auditrelay.config.problems import Checker
from auditrelay.errors import ConfigError
from auditrelay.settings import PeerSettings, SinkSettings, SourceSettings
from auditrelay.settings.secrets import Secret
from auditrelay.settings.toml import Unreadable, read_toml
from auditrelay.settings.values import format_duration
from auditrelay.settings.wording import suggestion
from auditrelay.store.postgres.address import require_psycopg
from auditrelay.telemetry.scrubber import SHORT, scrubber

if TYPE_CHECKING:
    from pydantic import BaseModel

DEFAULT_PATHS = (Path("auditrelay.toml"), Path("/etc/auditrelay/config.toml"))
"""The configuration files to try, in this order, when none is named."""


def load(
    path: Path | None,
    environ: Mapping[str, str] = os.environ,
    *,
    sources: Mapping[str, type[SourceSettings]] = SOURCES,
    sinks: Mapping[str, type[SinkSettings]] = SINKS,
) -> Config:
    """
    Return the configuration in *path*, or in a default path, overridden by *environ*.

    *sources* and *sinks* are the settings by type. The log's scrubber learns every secret. Raises
    ConfigError with every problem.
    """
    path = _find(path, environ)
    try:
        table = {} if path is None else read_toml(path, may_be_pipe=True)[0]
    except Unreadable as error:
        raise ConfigError(str(error)) from error
    variables, problems = read_variables(environ, table)
    raw = overlay(table, nested(environ, variables))
    check = Checker(variables, problems, path.parent if path else Path())
    raw = check.resolve_references(raw, environ)

    whole = check.model(ConfigFile, raw, ())
    found_sources = check.components("sources", raw, sources)
    found_sinks = check.components("sinks", raw, sinks)
    state_dir = whole.state_dir if whole else None
    if whole and state_dir is None:
        state_dir = _state_dir(environ)
        if state_dir is None:
            problems.append("state_dir: is missing, and $HOME is not set for its default")
    if state_dir is not None and not _is_text(str(state_dir)):
        problems.append(f"state_dir: {str(state_dir)!r} is not text in UTF-8")
    if whole and whole.store is not None:
        try:
            require_psycopg()
        except ConfigError as error:
            problems.extend(error.problems)
    if not problems and whole and state_dir:
        config = Config(
            path=path,
            state_dir=state_dir.expanduser().absolute(),
            status=whole.status,
            log=whole.log,
            spool=whole.spool,
            alerts=whole.alerts,
            evidence=whole.evidence,
            store=whole.store,
            replica=whole.replica or _host_name(),
            sources=found_sources,
            sinks=found_sinks,
            warnings=(
                *_warnings(path, table, whole, found_sources, found_sinks, environ=environ),
                *_unmatched_patterns(found_sources, found_sinks),
                *_notes("sources", found_sources),
                *_notes("sinks", found_sinks),
            ),
        )
        problems.extend(_cross_checks(config, environ))
        if not problems:
            scrubber.learn(*config.secrets())
            return config
    raise ConfigError(*problems)


def _find(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    if path is not None:
        return path
    named = environ.get(f"{PREFIX}CONFIG")
    if named:
        return Path(named)
    for default in DEFAULT_PATHS:
        if default.exists():
            return default
    if any(is_ours(name) for name in environ):
        return None
    raise ConfigError(
        f"no configuration: neither {' nor '.join(map(str, DEFAULT_PATHS))} exists; write one with "
        f"`auditrelay init`, name one with -c or ${PREFIX}CONFIG, or set {PREFIX}... variables"
    )


def _state_dir(environ: Mapping[str, str]) -> Path | None:
    given = environ.get("STATE_DIRECTORY", "").partition(":")[0]  # systemd may list several
    if given:
        return Path(given)
    base = environ.get("XDG_STATE_HOME", "")
    if base.startswith("/"):  # the XDG specification ignores relative paths
        return Path(base, "auditrelay")
    home = environ.get("HOME")
    return Path(home, ".local/state/auditrelay") if home else None


def _host_name() -> str:
    """Return the name of this host, as far as it can be the name of a replica."""
    name = re.sub("[^A-Za-z0-9._-]", "-", socket.gethostname())[:64].strip("._-")
    return name or "replica"


def _is_text(text: str) -> bool:
    """Return whether *text*, from a variable of the system, was UTF-8 there."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _cross_checks(config: Config, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the problems between tables that are each correct on their own."""
    yield from _keys_in_state(config, environ)
    yield from _not_shared(config)
    for name, wanted in _unmatched(config.sources, config.sinks):
        if not _is_pattern(wanted):
            hint = suggestion(wanted, config.sources)
            yield f'sinks.{name}.sources: "{wanted}" is not a source{hint}'
    by_key: dict[str, str] = {}
    for name, source in config.sources.items():
        first = by_key.setdefault(source.vendor_key, name)
        if source.identity != config.sources[first].identity:
            yield (
                f"sources.{name}: its records are known by other ids than those of sources.{first},"
                f' which is of the same vendor, "{source.vendor_key}": give one of the '
                "descriptions another vendor"
            )
        reach = max(source.resweep, default=timedelta(0)) + source.max_window
        if config.spool.remember < reach:
            yield (
                f"spool.remember: must be at least {format_duration(reach)} for sources.{name}: "
                "the longest resweep reaches that far back (with max_window), and an event whose "
                "uid is no longer remembered would be forwarded again"
            )


def _not_shared(config: Config) -> Iterator[str]:
    """Yield what does not work with the shared store, or what needs one and there is none."""
    for kind, tables in (("sources", config.sources), ("sinks", config.sinks)):
        for name, settings in tables.items():
            if config.store is None and settings.replicas != ["*"]:
                yield (
                    f"{kind}.{name}.replicas: there are no replicas without a shared store; set "
                    "store, or leave it out"
                )
    for name, sink in config.sinks.items():
        if config.store is None and sink.parts > 1:
            yield (
                f"sinks.{name}.parts: one process delivers everything without a shared store; set "
                "store, or leave it out"
            )
    for name, source in config.sources.items():
        if config.store is not None and source.enabled and source.not_shared is not None:
            yield f"sources.{name}.{source.not_shared}"


def _keys_in_state(config: Config, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield each key of the evidence that lies beside what it protects."""
    state = config.state_dir.resolve()
    for key, secret in secrets_in(config.evidence):
        for reference in secret.references:
            kind, _, name = reference.removeprefix("${").removesuffix("}").partition(":")
            folder = environ.get("CREDENTIALS_DIRECTORY", "") if kind == "credential" else ""
            file = Path(folder, name)
            if kind in ("file", "credential") and file.resolve().is_relative_to(state):
                yield (
                    f"evidence.{key}: {file} is in the state directory: who can change the "
                    "state must not have the key to it; keep it elsewhere"
                )


def _unmatched(
    sources: Mapping[str, SourceSettings], sinks: Mapping[str, SinkSettings]
) -> Iterator[tuple[str, str]]:
    """Yield each sink with each name or pattern in its ``sources`` that matches no source."""
    for name, sink in sinks.items():
        for wanted in sink.sources:
            if sources and not any(fnmatchcase(source, wanted) for source in sources):
                yield name, wanted


def _unmatched_patterns(
    sources: Mapping[str, SourceSettings], sinks: Mapping[str, SinkSettings]
) -> Iterator[str]:
    """Yield a warning for each pattern that matches no source: the source may be added later."""
    for name, wanted in _unmatched(sources, sinks):
        if _is_pattern(wanted):
            yield f'sinks.{name}.sources: "{wanted}" matches no source yet'


def _notes(kind: str, components: Mapping[str, PeerSettings]) -> Iterator[str]:
    for name, settings in components.items():
        yield from (f"{kind}.{name}.{note}" for note in settings.notes)


def _is_pattern(wanted: str) -> bool:
    """Return whether *wanted* is a pattern, not the name of one source."""
    return any(character in wanted for character in "*?[")


def _warnings(
    path: Path | None,
    table: Mapping[str, Any],
    whole: ConfigFile,
    sources: Mapping[str, SourceSettings],
    sinks: Mapping[str, SinkSettings],
    *,
    environ: Mapping[str, str],
) -> Iterator[str]:
    tables: list[tuple[str, BaseModel, Mapping[str, Any]]] = [
        ("", whole, table),
        ("status", whole.status, table.get("status", {})),
        ("evidence", whole.evidence, table.get("evidence", {})),
    ]
    for kind, components in (("sources", sources), ("sinks", sinks)):
        for name, settings in components.items():
            tables.append((f"{kind}.{name}", settings, table.get(kind, {}).get(name, {})))
    literal = []
    for section, model, written in tables:
        for key, secret in secrets_in(model):
            path_of = f"{section}.{key}" if section else key
            if secret.literal and secret.hidden and secret.reveal() == _written_at(written, key):
                literal.append(path_of)
            for file, doing in _open_to_all(secret, environ):
                yield (f"{path_of}: every user of this machine can {doing} {file}: chmod 600")
            if any(len(each) < SHORT for each in secret.hidden):
                yield (
                    f"{path_of}: a secret of fewer than {SHORT} characters is "
                    "hidden in logs only as a whole word"
                )
        if isinstance(model, PeerSettings) and model.allow_insecure_http:
            yield f"{section}: allow_insecure_http sends credentials in clear text"
    if literal and path and path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        yield (
            f"{path}: other users of this machine can read its secrets ({', '.join(literal)}): "
            "chmod 600, or refer to them with ${env:}, ${file:} or ${credential:}"
        )


def _written_at(written: Mapping[str, Any], key: str) -> object:
    """Return what the file has at *key*, which may be that of a table and one in it."""
    outer, _, inner = key.partition(".")
    value = written.get(outer)
    return value.get(inner) if inner and isinstance(value, Mapping) else value


def _open_to_all(secret: Secret, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """
    Yield each file that *secret* is read from and other users can read or write, and which.

    In a pod of Kubernetes no other user sees its volumes, and the files of some drivers, which are
    root's, can only be read because everybody may.
    """
    alone = "KUBERNETES_SERVICE_HOST" in environ
    for reference in secret.references:
        kind, _, path = reference.removeprefix("${").removesuffix("}").partition(":")
        if kind != "file":
            continue  # a credential has the mode that systemd gives it
        with contextlib.suppress(OSError):  # gone again: reading it again reports that
            mode = Path(path).stat().st_mode
            if mode & stat.S_IWOTH:
                yield path, "write"
            elif mode & stat.S_IROTH and not alone:
                yield path, "read"
