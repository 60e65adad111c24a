"""
The keys from environment variables: ``AUDITRELAY_SPOOL__MAX_BYTES`` is spool.max_bytes.

This module decides which variables are ours and which key each one sets: a misspelt variable must
be an error, and a source may have a name that no variable can spell. pydantic-settings turns them
into nested tables, in the module ``variables``.
"""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from auditrelay.config.model import Alerts, ConfigFile, Evidence, Log, Spool, Status
from auditrelay.config.names import PREFIX, canonical
from auditrelay.settings.wording import suggestion

_KUBERNETES = re.compile(r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)", re.ASCII)
"""The variables that Kubernetes sets in every pod if a Service is called auditrelay."""


def is_ours(name: str) -> bool:
    """Return whether the variable *name* can be a key of ours, and is not set by Kubernetes."""
    rest = name.upper().removeprefix(PREFIX)
    return (
        name.upper().startswith(PREFIX)
        and rest != "CONFIG"
        and ("__" in rest or not _KUBERNETES.fullmatch(rest))
    )


def read_variables(
    environ: Mapping[str, str], table: Mapping[str, Any]
) -> tuple[dict[tuple[str, ...], str], list[str]]:
    """Return the variable for each path that has one, spelled as in *table*, and all problems."""
    variables: dict[tuple[str, ...], str] = {}
    problems = []
    for name in sorted(filter(is_ours, environ)):
        path = _spelled(name[len(PREFIX) :].lower().split("__"), table)
        if path[0] not in ConfigFile.model_fields or "" in path:
            known = [PREFIX + key.upper() for key in ConfigFile.model_fields]
            for table_name, model in _MODELS.items():
                known += [f"{PREFIX}{table_name}__{key.upper()}" for key in model.model_fields]
            problems.append(f"{name}: unknown variable{suggestion(name.upper(), known)}")
        else:
            variables[path] = name
    problems.extend(
        f"{name} and {variables[path[:length]]} are both set; set only one of them"
        for path, name in variables.items()
        for length in range(_TABLES.get(path[0], 1) + 1, len(path))
        if path[:length] in variables
    )
    return variables, problems


def _spelled(parts: list[str], table: Mapping[str, Any]) -> tuple[str, ...]:
    """Return *parts* of a variable's name as a path, with the keys spelled as in *table*."""
    path = []
    for part in parts:
        key = next((key for key in table if canonical(key) == part), part)
        path.append(key)
        below = table.get(key)
        table = below if isinstance(below, Mapping) else {}
    return tuple(path)


_MODELS: Mapping[str, type[BaseModel]] = {
    "LOG": Log,
    "STATUS": Status,
    "SPOOL": Spool,
    "ALERTS": Alerts,
    "EVIDENCE": Evidence,
}
"""The tables whose keys are suggested for a variable that is misspelt."""

_TABLES = {"sources": 2, "sinks": 2}
"""How many levels deep a variable may be a whole table as JSON; 1 for all other keys."""


def nested(environ: Mapping[str, str], variables: Mapping[tuple[str, ...], str]) -> dict[str, Any]:
    """Return the *variables*, each by its path, as nested tables of texts."""
    if not variables:
        return {}
    # Only here: pydantic-settings takes 1.5 MB and 20 ms of the start.
    from auditrelay.config.variables import Variables  # noqa: PLC0415

    return Variables(environ, variables)()


def overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return *below* overridden by *above*, table by table."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        if isinstance(value, Mapping) and isinstance(under, Mapping):
            merged[key] = overlay(under, value)
        else:
            merged[key] = value
    return merged
