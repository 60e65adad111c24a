"""
Reads the configuration: one TOML file, the environment over it, references followed, all checked.

Every problem is found at once, and each is a sentence that begins with the whole path of its key.
A value that is or may be a secret is never part of such a sentence.
"""

import importlib
import json
import os
import re
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, models_json_schema
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

import auditrelay.sinks
import auditrelay.sources
from auditrelay.errors import ConfigError
from auditrelay.settings import (
    ALERTS,
    Duration,
    PeerSettings,
    Resolved,
    Secret,
    SinkSettings,
    Size,
    SourceSettings,
    Unresolved,
    format_duration,
)
from auditrelay.telemetry.logs import SHORT, STARS, scrubber

PREFIX = "AUDITRELAY_"
PLACES = (Path("auditrelay.toml"), Path("/etc/auditrelay/config.toml"))
"""Where a configuration is looked for when none is named."""

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?", re.ASCII)
_KUBERNETES = re.compile(r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)", re.ASCII)
"""What Kubernetes sets in every pod beside a Service that is called auditrelay."""

_Path = tuple[str | int, ...]
_Any = TypeVar("_Any", bound=PeerSettings)
_Model = TypeVar("_Model", bound=BaseModel)


# --- the file ----------------------------------------------------------------------------------


def _listen(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(
            f'{value!r} is not an address to listen on: write host:port, such as "127.0.0.1:9464"'
        )
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"{value!r}: an IPv6 address stands in brackets, [::1]:9464")
    return value


class Status(BaseModel):
    """Where the status page, health and metrics are served, and to whom."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    listen: Annotated[str, AfterValidator(_listen)] = "127.0.0.1:9464"
    token: Secret | None = None
    """What whoever looks has to know; without one, nothing."""

    @field_validator("token")
    @classmethod
    def _cannot_be_guessed(cls, token: Secret | None) -> Secret | None:
        if token is not None and len(token.reveal()) < 16:
            raise ValueError("must have at least 16 characters: a shorter one can be guessed")
        return token

    @property
    def host(self) -> str:
        """The address to bind."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port to bind; 0 lets the system choose."""
        return int(self.listen.rpartition(":")[2])


class Log(BaseModel):
    """What is logged, and in which form."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class Spool(BaseModel):
    """How much, and for how long, the store keeps."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_bytes: Size = 2 * 2**30
    retention: Duration = timedelta(days=7)
    remember: Duration = Field(default=timedelta(days=400), ge=timedelta(days=1))


class Alerts(BaseModel):
    """Whether trouble of the instance itself is told to the sinks, too."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    events: bool = True
    """Send an event when trouble begins and when it ends."""


class _Whole(BaseSettings):
    """The whole file, with the sources and sinks still as they were written."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    state_dir: Path | None = None
    store: str | None = None
    status: Status = Status()
    log: Log = Log()
    spool: Spool = Spool()
    alerts: Alerts = Alerts()
    sources: dict[str, dict[str, Any]] = {}
    sinks: dict[str, dict[str, Any]] = {}

    @field_validator("store")
    @classmethod
    def _only_sqlite(cls, store: str | None) -> str | None:
        if store is not None:
            raise ValueError(
                "a shared store is not supported by this version: leave the key out, and "
                "SQLite in state_dir is used"
            )
        return store

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take only what it is given: `load` follows references between reading and checking."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


@dataclass(frozen=True, slots=True)
class Config:
    """
    A configuration without a mistake.

    *path* is the file, or None if everything came from the environment. *warnings* are sentences
    about what works and should be mended all the same.
    """

    path: Path | None
    state_dir: Path
    status: Status
    log: Log
    spool: Spool
    alerts: Alerts
    sources: Mapping[str, SourceSettings]
    sinks: Mapping[str, SinkSettings]
    warnings: tuple[str, ...] = ()

    def feeds(self, sink: str) -> tuple[str, ...]:
        """Return the names of the sources that *sink* receives."""
        globs = self.sinks[sink].sources
        return tuple(
            name for name in self.sources if any(fnmatchcase(name, glob) for glob in globs)
        )

    def secrets(self) -> Iterator[Secret]:
        """Yield every secret of the status port and of every source and sink, for the scrubber."""
        for settings in (self.status, *self.sources.values(), *self.sinks.values()):
            for _path, secret in _secrets(settings):
                yield secret

    def require_work(self) -> None:
        """Raise ConfigError unless there is a source to poll and a sink to deliver to."""
        problems = [
            f"{kind}: there is none that is enabled; without one there is nothing to do"
            for kind, components in (("sources", self.sources), ("sinks", self.sinks))
            if not any(settings.enabled for settings in components.values())
        ]
        if problems:
            raise ConfigError(*problems)


class Components(Mapping[str, type[_Any]], Generic[_Any]):
    """
    The settings of each member of *package*, by type: the name of its module.

    A module is imported when its settings are asked for, so a type that is not in use costs
    nothing.
    """

    def __init__(self, package: Any) -> None:
        self._package: str = package.__name__
        self._names: list[str] = package.available()

    def __getitem__(self, name: str) -> type[_Any]:
        if name not in self._names:
            raise KeyError(name)
        settings: type[_Any] = importlib.import_module(f"{self._package}.{name}").Settings
        return settings

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


SOURCES: Mapping[str, type[SourceSettings]] = Components(auditrelay.sources)
SINKS: Mapping[str, type[SinkSettings]] = Components(auditrelay.sinks)


def load(
    path: Path | None,
    environ: Mapping[str, str] = os.environ,
    *,
    sources: Mapping[str, type[SourceSettings]] = SOURCES,
    sinks: Mapping[str, type[SinkSettings]] = SINKS,
) -> Config:
    """
    Return the configuration in *path*, or where one is usually found, with *environ* over it.

    *sources* and *sinks* are the settings by type. The log's scrubber learns every secret. Raises
    ConfigError with every problem.
    """
    path = _find(path, environ)
    table = {} if path is None else _read(path)
    variables, problems = _variables(environ, table)
    layers = _Environment(environ, variables)()
    raw = _over(table, layers)
    check = _Check(variables, problems)
    raw = check.follow(raw, environ)

    whole = check.model(_Whole, raw, ())
    found_sources = check.components("sources", raw, sources)
    found_sinks = check.components("sinks", raw, sinks)
    state_dir = whole.state_dir if whole else None
    if whole and state_dir is None:
        state_dir = _state_dir(environ)
        if state_dir is None:
            problems.append("state_dir: is missing, and no home folder to put it in is known")
    if not problems and whole and state_dir:
        config = Config(
            path=path,
            state_dir=state_dir.expanduser().absolute(),
            status=whole.status,
            log=whole.log,
            spool=whole.spool,
            alerts=whole.alerts,
            sources=found_sources,
            sinks=found_sinks,
            warnings=tuple(_warnings(path, table, whole.status, found_sources, found_sinks)),
        )
        problems.extend(_together(config))
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
    for place in PLACES:
        if place.exists():
            return place
    if any(_is_ours(name) for name in environ):
        return None
    raise ConfigError(
        f"no configuration: neither {' nor '.join(map(str, PLACES))} exists; write one with "
        f"`auditrelay init`, name one with -c or ${PREFIX}CONFIG, or set {PREFIX}... variables"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not text in UTF-8 (byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        # 3.11 has no attributes for it: "Invalid value (at line 3, column 5)".
        what, _, where = str(error).rpartition(" (at ")
        raise ConfigError(f"{path}: {where.rstrip(')')}: not valid TOML: {what}") from error


def _state_dir(environ: Mapping[str, str]) -> Path | None:
    given = environ.get("STATE_DIRECTORY", "").partition(":")[0]  # systemd may list several
    if given:
        return Path(given)
    base = environ.get("XDG_STATE_HOME", "")
    if base.startswith("/"):  # the specification has relative ones ignored
        return Path(base, "auditrelay")
    home = environ.get("HOME")
    return Path(home, ".local/state/auditrelay") if home else None


# --- the environment ---------------------------------------------------------------------------


def _is_ours(name: str) -> bool:
    rest = name.upper().removeprefix(PREFIX)
    return (
        name.upper().startswith(PREFIX)
        and rest != "CONFIG"
        and ("__" in rest or not _KUBERNETES.fullmatch(rest))
    )


def _canonical(name: str) -> str:
    """Return the name of a key as an environment variable can spell it."""
    return re.sub("[-.]", "_", name.lower())


def _variables(
    environ: Mapping[str, str], table: Mapping[str, Any]
) -> tuple[dict[tuple[str, ...], str], list[str]]:
    """Return the variable for each path of a key that has one, spelled as in *table*."""
    variables: dict[tuple[str, ...], str] = {}
    problems = []
    for name in sorted(filter(_is_ours, environ)):
        path = _spelled(name[len(PREFIX) :].lower().split("__"), table)
        if path[0] not in _Whole.model_fields or "" in path:
            known = [PREFIX + key.upper() for key in _Whole.model_fields]
            for table_name, model in (("LOG", Log), ("STATUS", Status), ("SPOOL", Spool)):
                known += [f"{PREFIX}{table_name}__{key.upper()}" for key in model.model_fields]
            problems.append(f"{name}: unknown variable{_meant(name.upper(), known)}")
        else:
            variables[path] = name
    problems.extend(
        f"{name} and {variables[path[:length]]} exclude each other"
        for path, name in variables.items()
        for length in range(_TABLES.get(path[0], 1) + 1, len(path))
        if path[:length] in variables
    )
    return variables, problems


def _spelled(parts: list[str], table: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the path that *parts* of a variable's name mean, as *table* spells its keys."""
    path = []
    for part in parts:
        key = next((key for key in table if _canonical(key) == part), part)
        path.append(key)
        below = table.get(key)
        table = below if isinstance(below, Mapping) else {}
    return tuple(path)


_TABLES = {"sources": 2, "sinks": 2}
"""How deep a variable may hold a whole table as JSON, where it is not one level."""


class _Environment(EnvSettingsSource):
    """The variables as nested tables of texts, which the settings then understand."""

    def __init__(
        self, environ: Mapping[str, str], variables: Mapping[tuple[str, ...], str]
    ) -> None:
        super().__init__(_Whole)
        # By path, as the file spells its names, and a table before what lies in it.
        self.env_vars = {
            PREFIX.lower() + "__".join(path): environ[variables[path]] for path in sorted(variables)
        }

    def decode_complex_value(
        self,
        _name: str,
        field: FieldInfo | None,  # noqa: ARG002  # given by name or place as pydantic-settings likes
        value: Any,
    ) -> Any:
        """Read a whole table that is given as JSON. Everything else stays as it is."""
        try:
            table = json.loads(value)
        except ValueError:
            table = None
        return table if isinstance(table, dict) else value


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return *below* with *above* laid over it, table by table."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        if isinstance(value, Mapping) and isinstance(under, Mapping):
            merged[key] = _over(under, value)
        else:
            merged[key] = value
    return merged


# --- problems ----------------------------------------------------------------------------------


def _dotted(path: Iterable[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _meant(name: str, known: Iterable[str]) -> str:
    """Return a question that names what *name* is near to, or nothing."""
    import difflib  # noqa: PLC0415  # only the unlucky pay for it

    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


class _Check:
    """Turns tables into settings and gathers what is wrong with them in *problems*."""

    def __init__(self, variables: Mapping[tuple[str, ...], str], problems: list[str]) -> None:
        self._variables = variables
        self._problems = problems
        self._unresolved: set[_Path] = set()

    def problem(self, path: _Path, sentence: str) -> None:
        """Add a problem with the key at *path*, and name the variable if it came from one."""
        variable = next(
            (
                self._variables[given]
                for length in range(len(path), 0, -1)
                if (given := tuple(map(str, path[:length]))) in self._variables
            ),
            None,
        )
        name = _dotted(path) + (f" (from {variable})" if variable else "")
        text = f"{name}: {sentence}"
        if text not in self._problems:
            self._problems.append(text)

    def follow(self, value: Any, environ: Mapping[str, str], path: _Path = ()) -> Any:
        """Return *value* with the references in all its texts followed."""
        if isinstance(value, Mapping):
            return {key: self.follow(item, environ, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.follow(item, environ, (*path, at)) for at, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        try:
            return Resolved(value, environ)
        except Unresolved as error:
            self.problem(path, str(error))
            # Stands for the value, so that what depends on it is not reported as well.
            self._unresolved.add(path)
            return "unresolved"

    def model(self, model: type[_Model], table: Mapping[str, Any], path: _Path) -> _Model | None:
        """Return *table* as a *model*, or None if something is wrong with it."""
        try:
            return model(**table)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                self._explain(detail, model, table, path)
            return None

    def components(
        self, kind: str, raw: Mapping[str, Any], known: Mapping[str, type[_Any]]
    ) -> dict[str, _Any]:
        """Return the settings of each of the sources or sinks."""
        found: dict[str, _Any] = {}
        tables = raw.get(kind, {})
        if not isinstance(tables, Mapping):
            return found  # said by the check of the whole
        names: dict[str, str] = {}
        for name, table in tables.items():
            if not _NAME.fullmatch(name) or "__" in name:
                self.problem(
                    (kind, name),
                    "a name is made of letters, digits and single - _ . between them, at most 64",
                )
            if kind == "sources" and name == ALERTS:
                self.problem((kind, name), "is the name of auditrelay's own alerts: choose another")
            twin = names.setdefault(_canonical(name), name)
            if twin != name:
                self.problem((kind, name), f"cannot be told from {twin} in the environment")
            if isinstance(table, Mapping):
                settings = self._component(kind, name, table, known, tables)
                if settings is not None:
                    found[name] = settings
        return found

    def _component(
        self,
        kind: str,
        name: str,
        table: Mapping[str, Any],
        known: Mapping[str, type[_Any]],
        tables: Mapping[str, Any],
    ) -> _Any | None:
        path = (kind, name, "type")
        given = table.get("type")
        if path in self._unresolved:
            return None
        if given is None:
            others = [other for other in tables if other != name and "type" in tables[other]]
            self.problem(path, f"is missing{_meant(name, others)} (known: {', '.join(known)})")
            return None
        if not isinstance(given, str):
            self.problem(path, f"must be a text (known: {', '.join(known)})")
            return None
        if given not in known:
            near = _meant(given, known)
            self.problem(path, f"unknown type {_shown(given)}{near} (known: {', '.join(known)})")
            return None
        return self.model(known[given], table, (kind, name))

    def _explain(
        self, detail: ErrorDetails, model: type[BaseModel], table: Mapping[str, Any], path: _Path
    ) -> None:
        inner, value, inside = _place(detail["loc"], model, table)
        if any((*path, *inner[:length]) in self._unresolved for length in range(len(inner) + 1)):
            return
        sentence = _sentence(detail, value, inside)
        key, colon, rest = sentence.partition(": ")
        if detail["type"] == "value_error" and colon and key.partition("[")[0] in _keys(inside):
            inner, sentence = (*inner, key), rest  # a model speaks of one of its keys
        for shown, instead in _confidential(model, table):
            sentence = sentence.replace(shown, instead)
        self.problem((*path, *inner), sentence)


def _confidential(model: type[BaseModel], table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each text of *table* that no sentence may hold, and what to show instead."""
    for key, value in table.items():
        if not isinstance(value, str) or len(value) < SHORT:
            continue
        field = model.model_fields.get(key)
        if isinstance(value, Resolved):
            yield str(value), value.template
        elif field is None or "Secret" in str(field.annotation):
            yield value, STARS


def _keys(model: type[BaseModel] | None) -> Iterable[str]:
    return model.model_fields if model else ()


def _place(
    loc: _Path, model: type[BaseModel], value: Any
) -> tuple[_Path, Any, type[BaseModel] | None]:
    """
    Return the path that the operator wrote, what stands there, and the model that lies around it.

    Pydantic's own path also names the members of unions, which nobody wrote.
    """
    path: list[str | int] = []
    inside: type[BaseModel] | None = model
    for at, part in enumerate(loc):
        is_key = isinstance(value, Mapping) and part in value
        if is_key or (isinstance(value, list) and isinstance(part, int)):
            value = value[part]
        elif isinstance(value, Mapping) and at == len(loc) - 1:
            value = None  # missing
        else:
            continue
        path.append(part)
        if at < len(loc) - 1 and inside is not None:
            field = inside.model_fields.get(str(part))
            below = field.annotation if field else None
            inside = below if isinstance(below, type) and issubclass(below, BaseModel) else None
    return tuple(path), value, inside


def _shown(value: object) -> str:
    """Return *value* as it may stand in a sentence: as it was written, and not for pages."""
    if isinstance(value, Resolved):
        value = value.template
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:59] + "…"


_WANTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a table",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of a reasonable size",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "a table",
    "path_type": "the path of a file",
    "string_type": "a text",
}
_LIMITS = {
    "greater_than": ("gt", "be more than"),
    "greater_than_equal": ("ge", "be at least"),
    "less_than": ("lt", "be less than"),
    "less_than_equal": ("le", "be at most"),
    "string_pattern_mismatch": ("pattern", "match"),
    "string_too_short": ("min_length", "have a length of at least"),
    "string_too_long": ("max_length", "have a length of at most"),
    "too_short": ("min_length", "have a length of at least"),
    "too_long": ("max_length", "have a length of at most"),
}


def _sentence(detail: ErrorDetails, value: object, inside: type[BaseModel] | None) -> str:
    """Say in plain words what is wrong, what was given, and what is allowed."""
    kind = detail["type"]
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":  # whatever it holds may be a secret
        return f"unknown key{_meant(str(detail['loc'][-1]), _keys(inside))}"
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    if kind == "string_type" and isinstance(value, int | float):
        return f'must be a text: write it in quotes, "{str(value).lower()}"'
    if value == "":
        return "is empty: fill it in, or leave the key out if it has a default"
    # A table or list in the wrong place is not repeated: there may be a secret in it.
    given = f", not {_shown(value)}" if isinstance(value, str | int | float) else ""
    return f"must {_rule(detail)}{given}"


def _rule(detail: ErrorDetails) -> str:
    """Return what goes on after "must", by the type of pydantic's error."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _WANTED:
        return f"be {_WANTED[kind]}"
    if kind in _LIMITS:
        key, words = _LIMITS[kind]
        # A limit is a number, a text such as "30 days", or the repr of no time at all.
        limit = str(context[key])
        return f"{words} {'0s' if limit == repr(timedelta(0)) else limit}"
    if kind == "literal_error":
        return f"be {context['expected']}".replace("'", '"')
    return f"be right ({detail['msg']})"


# --- the whole ---------------------------------------------------------------------------------


def _together(config: Config) -> Iterator[str]:
    """Yield what is wrong between parts that are right by themselves."""
    for name, sink in config.sinks.items():
        for glob in sink.sources:
            if config.sources and not any(fnmatchcase(source, glob) for source in config.sources):
                yield f'sinks.{name}.sources: "{glob}" is no source{_meant(glob, config.sources)}'
    for name, source in config.sources.items():
        reach = max(source.resweep, default=timedelta(0)) + source.max_window
        if config.spool.remember < reach:
            yield (
                f"spool.remember: must be at least {format_duration(reach)} for sources.{name}: "
                "the longest resweep looks that far back (with max_window), and an event that "
                "is forgotten would be forwarded again"
            )


def _secrets(settings: BaseModel) -> Iterator[tuple[str, Secret]]:
    for key in type(settings).model_fields:
        value = getattr(settings, key)
        if isinstance(value, Secret):
            yield key, value


def _warnings(
    path: Path | None,
    table: Mapping[str, Any],
    status: Status,
    sources: Mapping[str, SourceSettings],
    sinks: Mapping[str, SinkSettings],
) -> Iterator[str]:
    tables: list[tuple[str, BaseModel, Mapping[str, Any]]] = [
        ("status", status, table.get("status", {}))
    ]
    for kind, components in (("sources", sources), ("sinks", sinks)):
        for name, settings in components.items():
            tables.append((f"{kind}.{name}", settings, table.get(kind, {}).get(name, {})))
    literal = []
    for section, model, written in tables:
        for key, secret in _secrets(model):
            if secret.literal and secret.reveal() == written.get(key):
                literal.append(f"{section}.{key}")
            if len(secret.reveal()) < SHORT:
                yield (
                    f"{section}.{key}: a secret of fewer than {SHORT} characters is "
                    "hidden in logs only where it stands alone"
                )
        if isinstance(model, PeerSettings) and model.allow_insecure_http:
            yield f"{section}: allow_insecure_http sends credentials in plain text"
    if literal and path and path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        yield (
            f"{path}: others on this machine can read the secrets in it ({', '.join(literal)}): "
            "chmod 600, or refer to them with ${env:}, ${file:} or ${credential:}"
        )


# --- its description ---------------------------------------------------------------------------


class _Schema(GenerateJsonSchema):
    """Writes defaults as an operator would."""

    def encode_default(self, dft: Any) -> Any:
        """Write a duration as ``5m``, not in ISO 8601."""
        if isinstance(dft, timedelta):
            return format_duration(dft)
        if isinstance(dft, list):
            return [self.encode_default(item) for item in dft]
        return super().encode_default(dft)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the configuration file."""
    models: list[tuple[str, str, type[BaseModel]]] = [
        (kind, name, members[name])
        for kind, members in (("sources", SOURCES), ("sinks", SINKS))
        for name in members
    ]
    references, definitions = models_json_schema(
        [(_Whole, "validation"), *((model, "validation") for _, _, model in models)],
        schema_generator=_Schema,
    )
    defined: dict[str, Any] = definitions["$defs"]

    def take(model: type[BaseModel]) -> dict[str, Any]:
        taken: dict[str, Any] = defined.pop(references[model, "validation"]["$ref"].split("/")[-1])
        return taken

    whole = take(_Whole)
    del whole["properties"]["store"]
    for kind in ("sources", "sinks"):
        whole["properties"][kind] = {
            "type": "object",
            "additionalProperties": {
                "oneOf": [{"$ref": f"#/$defs/{of}.{name}"} for of, name, _ in models if of == kind]
            },
        }
    for kind, name, model in models:
        defined[f"{kind}.{name}"] = take(model)
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **whole,
        "title": "auditrelay",
        "description": "The configuration of auditrelay. Every key may also be a variable.",
        "$defs": defined,
    }
    return {key: _tidied(value) for key, value in schema.items()}


def _tidied(schema: Any) -> Any:
    """
    Return *schema* without what says nothing about a TOML file.

    That is: titles made of the keys, limits of durations (no words of JSON Schema), and null.
    """
    if isinstance(schema, list):
        return [_tidied(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        key: _tidied(value)
        for key, value in schema.items()
        if not (key in ("title", "gt", "ge", "lt", "le") and isinstance(value, str))
        and not (key == "default" and value is None)
    }
    choices = kept.get("anyOf", [])
    if {"type": "null"} in choices:
        choices.remove({"type": "null"})
        if len(choices) == 1:
            kept |= kept.pop("anyOf")[0]
    return kept
