"""
Check tables against their models, and say what is wrong so that an operator can correct it.

Each problem is one sentence: the path of the key and the variable it came from, what is wrong with
it, what is allowed, and the name that was probably meant. Pydantic's own messages name types of
Python and repeat the value, which may be a secret.
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
        self, kind: str, raw: Mapping[str, Any], known: Mapping[str, type[AnySettings]]
    ) -> dict[str, AnySettings]:
        """Return the settings of each of the sources or sinks."""
        found: dict[str, AnySettings] = {}
        tables = raw.get(kind, {})
        if not isinstance(tables, Mapping):
            return found  # said by the check of the whole
        names: dict[str, str] = {}
        for name, table in tables.items():
            if not NAME.fullmatch(name) or "__" in name:
                self.problem(
                    (kind, name),
                    "a name is made of letters, digits and single - _ . between them, at most 64",
                )
            if kind == "sources" and name == ALERTS:
                self.problem((kind, name), "is the name of auditrelay's own alerts: choose another")
            twin = names.setdefault(canonical(name), name)
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
        known: Mapping[str, type[AnySettings]],
        tables: Mapping[str, Any],
    ) -> AnySettings | None:
        path = (kind, name, "type")
        given = table.get("type")
        if path in self._unresolved:
            return None
        if given is None:
            others = [other for other in tables if other != name and "type" in tables[other]]
            self.problem(path, f"is missing{suggestion(name, others)} (known: {', '.join(known)})")
            return None
        if not isinstance(given, str):
            self.problem(path, f"must be a text (known: {', '.join(known)})")
            return None
        if given not in known:
            near = suggestion(given, known)
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
        return f"unknown key{suggestion(str(detail['loc'][-1]), _keys(inside))}"
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
