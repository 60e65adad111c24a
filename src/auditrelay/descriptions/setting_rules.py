"""What is wrong with the settings and secrets that a description declares."""

import re
from collections.abc import Callable, Iterator
from typing import Final

from auditrelay.descriptions.declared import value_problem
from auditrelay.descriptions.draft import Declaring
from auditrelay.descriptions.model import Setting
from auditrelay.descriptions.tables import Problem

_NAME: Final = re.compile(r"[a-z](?:_?[a-z0-9])*")
_LONGEST_NAME: Final = 63
_LONGEST_PATTERN: Final = 200
_LOOKAROUND: Final = re.compile(r"\(\?<?[=!]")


def is_name(name: str) -> bool:
    """Return whether *name* can be the name of a setting, a secret or a feed."""
    return len(name) <= _LONGEST_NAME and _NAME.fullmatch(name) is not None


def declared_problems(
    draft: Declaring, name_problem: Callable[[str], str | None]
) -> Iterator[Problem]:
    """Yield what is wrong with what *draft* declares; *name_problem* knows the names in use."""
    for kind, names in (("settings", draft.settings), ("secrets", draft.secrets)):
        for name in sorted(names):
            if not is_name(name):
                yield (kind, name), "is not a name: write small letters, digits and single _"
            elif problem := name_problem(name):
                yield (kind, name), problem
            elif kind == "secrets" and name in draft.settings:
                yield (kind, name), "is the name of a setting, too; choose another"
    for name, setting in draft.file.settings.items():
        for key, sentence in _setting(setting):
            yield ("settings", name, key), sentence
    for name, secret in draft.file.secrets.items():
        if secret.default:
            yield (
                ("secrets", name, "default"),
                'must be "", for a secret that some accounts do not have',
            )


def _setting(setting: Setting) -> Iterator[tuple[str, str]]:
    if setting.pattern is not None:
        problem = _pattern_problem(setting.pattern)
        if problem is not None:
            yield "pattern", problem
            return
    if setting.choices is not None:
        if setting.pattern is not None:
            yield "pattern", "excludes choices: leave one of them out"
        if not setting.choices:
            yield "choices", "must have at least one text"
    for key, value in (("example", setting.example), ("default", setting.default)):
        if value is not None and (problem := value_problem(value, setting)):
            if key == "example" and setting.pattern is not None:
                problem = "does not match the pattern"
            yield key, problem


def _pattern_problem(pattern: str) -> str | None:
    if len(pattern) > _LONGEST_PATTERN:
        return f"is longer than {_LONGEST_PATTERN} characters"
    if _LOOKAROUND.search(pattern):
        return "must not look ahead or behind, (?=...) and the like"
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"is not a regular expression: {error}"
    return None
