"""
Check tables against their models, and explain each problem so that an operator can fix it.

Each problem is one sentence: the path of the key and the variable it came from, what is wrong with
it, what is allowed, and the name that was probably meant. Pydantic's own messages name Python
types and repeat the value, which may be a secret.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from auditrelay.config.model import AnySettings
from auditrelay.config.names import NAME, canonical, suggestion
from auditrelay.settings.reserved import ALERTS
from auditrelay.settings.secrets import Resolved, Unresolved
from auditrelay.telemetry.scrubber import SHORT, STARS

_Path = tuple[str | int, ...]
_Model = TypeVar("_Model", bound=BaseModel)


def _dotted(path: Iterable[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


class Checker:
    """Turns tables into settings, and adds what is wrong with them to *problems*."""

    def __init__(self, variables: Mapping[tuple[str, ...], str], problems: list[str]) -> None:
        self._variables = variables
        self._problems = problems
        self._unresolved: set[_Path] = set()

    def add(self, path: _Path, sentence: str) -> None:
        """Add a problem with the key at *path*; name the variable if the key came from one."""
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

    def resolve_references(self, value: Any, environ: Mapping[str, str], path: _Path = ()) -> Any:
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

    def model(self, model: type[_Model], table: Mapping[str, Any], path: _Path) -> _Model | None:
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
            self.add(path, f"is missing{suggestion(name, others)} (known: {', '.join(known)})")
            return None
        if not isinstance(given, str):
            self.add(path, f"must be a text (known: {', '.join(known)})")
            return None
        if given not in known:
            near = suggestion(given, known)
            self.add(path, f"unknown type {_shown(given)}{near} (known: {', '.join(known)})")
            return None
        return self.model(known[given], table, (kind, name))

    def _explain(
        self, detail: ErrorDetails, model: type[BaseModel], table: Mapping[str, Any], path: _Path
    ) -> None:
        inner, value, inside = _locate(detail["loc"], model, table)
        if any((*path, *inner[:length]) in self._unresolved for length in range(len(inner) + 1)):
            return
        sentence = _sentence(detail, value, inside)
        key, colon, rest = sentence.partition(": ")
        if detail["type"] == "value_error" and colon and key.partition("[")[0] in _keys(inside):
            inner, sentence = (*inner, key), rest  # the check of a whole model named one key
        for shown, instead in _confidential(model, table):
            sentence = sentence.replace(shown, instead)
        self.add((*path, *inner), sentence)


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


def _keys(model: type[BaseModel] | None) -> Iterable[str]:
    return model.model_fields if model else ()


def _locate(
    loc: _Path, model: type[BaseModel], value: Any
) -> tuple[_Path, Any, type[BaseModel] | None]:
    """
    Return the path as the operator wrote it, the value there, and the model of the table it is in.

    Pydantic's path *loc* also names the members of unions, which are not in the file.
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
    """Return *value* for a sentence: as written, without resolving references, and cut."""
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
    """Return a sentence with what is wrong, what was given, and what is allowed."""
    kind = detail["type"]
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":  # without its value, which may be a secret
        return f"unknown key{suggestion(str(detail['loc'][-1]), _keys(inside))}"
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    if kind == "string_type" and isinstance(value, int | float):
        return f'must be a text: write it in quotes, "{str(value).lower()}"'
    if value == "":
        return "is empty: set a value, or remove the key if it has a default"
    # A table or list in the wrong place is not repeated: it may contain a secret.
    given = f", not {_shown(value)}" if isinstance(value, str | int | float) else ""
    return f"must {_rule(detail)}{given}"


def _rule(detail: ErrorDetails) -> str:
    """Return the rest of a sentence after "must", by the type of pydantic's error."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _WANTED:
        return f"be {_WANTED[kind]}"
    if kind in _LIMITS:
        key, words = _LIMITS[kind]
        # A limit is a number, a text such as "30 days", or the repr of timedelta(0).
        limit = str(context[key])
        return f"{words} {'0s' if limit == repr(timedelta(0)) else limit}"
    if kind == "literal_error":
        return f"be {context['expected']}".replace("'", '"')
    return f"be valid ({detail['msg']})"
