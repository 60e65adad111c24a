"""
Sentences about what is wrong with a table: in the operator's words, with the key as it is written.

Pydantic's own messages name Python types and repeat the value, which may be a secret.
"""

import difflib
import json
from collections.abc import Iterable, Mapping
from datetime import timedelta
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from auditrelay.settings.secrets import Resolved

KeyPath = tuple[str | int, ...]
"""The keys, and numbers of elements, that lead to a value."""


def dotted(path: Iterable[str | int]) -> str:
    """Return *path* as it is shown: ``sinks.s.sources[1]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def one_line(text: str) -> str:
    """Return *text* with what a terminal would not print escaped: line ends, and what steers it."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" with the name of *known* closest to *name*, or an empty text."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def explained(
    detail: ErrorDetails, model: type[BaseModel], table: Mapping[str, Any]
) -> tuple[KeyPath, str]:
    """Return which key of *table*, no *model* because of *detail*, is wrong, and a sentence."""
    path, value, inside, kind = _locate(detail["loc"], model, table)
    sentence = _sentence(detail, value, inside)
    if detail["type"] == "missing" and get_origin(kind) is Literal and len(get_args(kind)) > 1:
        sentence += f": write {' or '.join(map(shown, get_args(kind)))}"
    key, colon, rest = sentence.partition(": ")
    if detail["type"] == "value_error" and colon and key.partition("[")[0] in _keys(inside):
        path, sentence = (*path, key), rest  # the check of a whole model named one key
    elif detail["type"].startswith("union_tag_"):
        path = (*path, detail["ctx"]["discriminator"].strip("'"))
    return path, sentence


def _keys(model: type[BaseModel] | None) -> Iterable[str]:
    fields = model.model_fields if model else {}
    return [field.alias or name for name, field in fields.items()]


def explained_value(detail: ErrorDetails, value: object) -> str:
    """Return a sentence about *value*, which is wrong by itself because of *detail*."""
    return _sentence(detail, value, None)


def _locate(
    loc: KeyPath, model: type[BaseModel], value: Any
) -> tuple[KeyPath, Any, type[BaseModel] | None, Any]:
    """
    Return the path as the operator wrote it, the value there, the model of its table, and its kind.

    The model is the model of the value itself if that is a table, else of the one that it is in.

    Pydantic's path *loc* also names the members of unions, which are not in the file.
    """
    path: list[str | int] = []
    kind: Any = model
    members = _models(kind)
    inside: type[BaseModel] | None = None
    for at, part in enumerate(loc):
        if len(members) > 1:
            members = [each for each in members if part in _tags(each)]
            kind = members[0] if members else None
            continue
        is_key = isinstance(value, Mapping) and part in value
        if is_key or (isinstance(value, list) and isinstance(part, int)):
            value = value[part]
        elif isinstance(value, Mapping) and at == len(loc) - 1:
            value = None  # missing
        else:
            continue
        path.append(part)
        inside = members[0] if members else None
        kind = _kind_of(kind, part)
        members = _models(kind)
    return tuple(path), value, members[0] if len(members) == 1 else inside, kind


def _models(kind: Any) -> list[type[BaseModel]]:
    """Return the models that a table of this *kind* may be of."""
    if isinstance(kind, type):
        return [kind] if issubclass(kind, BaseModel) else []
    if get_origin(kind) in (Union, UnionType, Annotated):
        return [model for each in get_args(kind) for model in _models(each)]
    return []


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    """Return the values of the field that tells the members of a union from each other."""
    return next((get_args(field.annotation) for field in model.model_fields.values()), ())


def _kind_of(kind: Any, part: str | int) -> Any:
    """Return the kind of what is at *part* in a value of this *kind*."""
    if models := _models(kind):
        fields = models[0].model_fields
        named = {field.alias or name: field.annotation for name, field in fields.items()}
        return named.get(str(part))
    for each in (kind, *get_args(kind)):
        if get_origin(each) in (dict, list, tuple):
            return get_args(each)[1 if get_origin(each) is dict else 0]
    return None


def shown(value: object) -> str:
    """Return *value* for a sentence: as written, without resolving references, and cut."""
    if isinstance(value, Resolved):
        value = value.template
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:59] + "…"


_WANTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "date_from_datetime_inexact": "a date, such as 2026-03-01",
    "date_from_datetime_parsing": "a date, such as 2026-03-01",
    "date_parsing": "a date, such as 2026-03-01",
    "date_type": "a date, such as 2026-03-01",
    "dict_type": "a table",
    "tuple_type": "a list",
    "model_attributes_type": "a table",
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
    if kind in ("missing", "union_tag_not_found"):
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
    given = ", not a list" if isinstance(value, list) else ""
    if isinstance(value, str | int | float):
        given = f", not {shown(value)}"
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
    if kind == "union_tag_invalid":
        *tags, last = context["expected_tags"].replace("'", '"').split(", ")
        return f"be {', '.join(tags)} or {last}, not {shown(context['tag'])}"
    if kind == "literal_error":
        return f"be {context['expected']}".replace("'", '"')
    return f"be valid ({detail['msg']})"
