"""
Check tables against their models, and explain each problem so that an operator can fix it.

Each problem is one sentence: the path of the key and the variable it came from, what is wrong with
it, what is allowed, and the name that was probably meant. Pydantic's own messages name Python
types and repeat the value, which may be a secret.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from auditrelay.config.model import AnySettings, Described
from auditrelay.config.names import NAME, canonical
from auditrelay.errors import ConfigError
from auditrelay.settings import PeerSettings
from auditrelay.settings.reserved import ALERTS
from auditrelay.settings.secrets import Resolved, Unresolved
from auditrelay.settings.wording import KeyPath, dotted, explained, one_line, shown, suggestion
from auditrelay.telemetry.scrubber import SHORT, STARS

_Model = TypeVar("_Model", bound=BaseModel)


class Checker:
    """Turns tables into settings, and adds what is wrong with them to *problems*."""

    def __init__(
        self,
        variables: Mapping[tuple[str, ...], str],
        problems: list[str],
        folder: Path = Path(),  # it is immutable
    ) -> None:
        """Take paths in the tables as relative to *folder*."""
        self._variables = variables
        self._problems = problems
        self._folder = folder
        self._unresolved: set[KeyPath] = set()

    def add(self, path: KeyPath, sentence: str) -> None:
        """Add a problem with the key at *path*; name the variable if the key came from one."""
        variable = next(
            (
                self._variables[given]
                for length in range(len(path), 0, -1)
                if (given := tuple(map(str, path[:length]))) in self._variables
            ),
            None,
        )
        name = dotted(path) + (f" (from {variable})" if variable else "")
        text = one_line(f"{name}: {sentence}")
        if text not in self._problems:
            self._problems.append(text)

    def resolve_references(self, value: Any, environ: Mapping[str, str], path: KeyPath = ()) -> Any:
        """Return *value* with the references in all its texts resolved, and all texts UTF-8."""
        if isinstance(value, Mapping):
            return {
                key: self.resolve_references(item, environ, (*path, key))
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [
                self.resolve_references(item, environ, (*path, at)) for at, item in enumerate(value)
            ]
        if not isinstance(value, str):
            return value
        try:
            text = Resolved(value, environ) if "${" in value else value
            text.encode("utf-8")  # it goes into requests, events and the state
        except UnicodeEncodeError:  # of a variable; a file of the configuration is UTF-8
            self.add(path, "is not text in UTF-8")
        except Unresolved as error:
            self.add(path, str(error))
        else:
            return text
        # A placeholder: problems that only follow from it are not reported.
        self._unresolved.add(path)
        return "unresolved"

    def model(self, model: type[_Model], table: Mapping[str, Any], path: KeyPath) -> _Model | None:
        """Return *table* as a *model*, or None if something is wrong with it."""
        try:
            return model(**table)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                self._explain(detail, model, table, path)
            return None

    def components(
        self, kind: str, raw: Mapping[str, Any], known: Mapping[str, type[AnySettings]]
    ) -> dict[str, AnySettings]:
        """Return the settings of each of the sources or sinks."""
        found: dict[str, AnySettings] = {}
        tables = raw.get(kind, {})
        if not isinstance(tables, Mapping):
            return found  # reported by the check of the whole file
        names: dict[str, str] = {}
        for name, table in tables.items():
            if not NAME.fullmatch(name) or "__" in name:
                self.add(
                    (kind, name),
                    "a name consists of letters, digits and single - _ . between them, at most 64",
                )
            if kind == "sources" and name == ALERTS:
                self.add((kind, name), "is the name of auditrelay's own alerts: choose another")
            twin = names.setdefault(canonical(name), name)
            if twin != name:
                self.add(
                    (kind, name), f"has the same name as {twin} in the environment: rename one"
                )
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
        known: Mapping[str, type[AnySettings]],
        tables: Mapping[str, Any],
    ) -> AnySettings | None:
        path = (kind, name, "type")
        given = table.get("type")
        if path in self._unresolved:
            return None
        if given is None:
            others = [other for other in tables if other != name and "type" in tables[other]]
            self.add(path, f"is missing{suggestion(name, others)} ({_known(known)})")
            return None
        if not isinstance(given, str):
            self.add(path, f"must be a text ({_known(known)})")
            return None
        if given not in _types(known):
            near = suggestion(given, _types(known))
            self.add(path, f"unknown type {shown(given)}{near} ({_known(known)})")
            return None
        model = self._model_of(kind, name, given, known, table)
        return None if model is None else self.model(model, table, (kind, name))

    def _model_of(
        self,
        kind: str,
        name: str,
        given: str,
        known: Mapping[str, type[AnySettings]],
        table: Mapping[str, Any],
    ) -> type[AnySettings] | None:
        """Return the settings of type *given*; None if its description has problems."""
        if not isinstance(known, Described):
            return known[given]
        if (kind, name, "description") in self._unresolved:
            return None
        try:
            return cast("type[AnySettings]", known.of(given, table, self._folder))
        except ConfigError as error:
            self._problems += [each for each in error.problems if each not in self._problems]
        except ValueError as error:
            self.add((kind, name, "description"), str(error))
        return None

    def _explain(
        self, detail: ErrorDetails, model: type[BaseModel], table: Mapping[str, Any], path: KeyPath
    ) -> None:
        inner, sentence = explained(detail, model, table)
        if any((*path, *inner[:length]) in self._unresolved for length in range(len(inner) + 1)):
            return
        for text, instead in _confidential(model, table):
            sentence = sentence.replace(text, instead)
        self.add((*path, *inner), sentence)


def _types(known: Mapping[str, type[PeerSettings]]) -> list[str]:
    """Return the names of all types, those that are described in files too."""
    return [*known, *(known.described if isinstance(known, Described) else ())]


def _known(known: Mapping[str, type[PeerSettings]]) -> str:
    """Return the known types for a sentence, without all names of descriptions."""
    named = f"known: {', '.join(known)}"
    if not isinstance(known, Described):
        return named
    count = len(known.shipped)
    return f"{named}, {known.OWN}" + (
        f" and {count} that `auditrelay description list` shows" if count else ""
    )


def _confidential(model: type[BaseModel], table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each text of *table* that no sentence may contain, and its replacement."""
    for key, value in table.items():
        if not isinstance(value, str) or len(value) < SHORT:
            continue
        field = model.model_fields.get(key)
        if isinstance(value, Resolved):
            yield str(value), value.template
        elif field is None or "Secret" in str(field.annotation):
            yield value, STARS
