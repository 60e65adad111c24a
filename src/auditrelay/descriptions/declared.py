"""The settings and secrets that a description declares, as fields of settings."""

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, Field, WithJsonSchema

from auditrelay.descriptions.model import SecretSetting, Setting


def setting_field(setting: Setting, problem: Callable[[str], str | None]) -> Any:
    """Return the field of *setting*; *problem* says what is wrong with a value where it stands."""
    described: dict[str, Any] = {"type": "string", "description": setting.about}
    described["examples"] = [setting.example]
    if setting.choices is not None:
        described["enum"] = list(setting.choices)
    elif setting.pattern is not None:
        described["pattern"] = rf"^(?:{setting.pattern})$|\$\{{"

    def check(value: str) -> str:
        found = problem(value)
        if found:
            raise ValueError(found)
        return value

    kind = Annotated[str, AfterValidator(check), WithJsonSchema(described)]
    return kind, ... if setting.default is None else setting.default


def secret_field(secret: SecretSetting, kind: Any) -> Any:
    """Return the field of *secret*, which is of *kind*; one with a default may be left out."""
    about = Field(description=secret.about)
    if secret.default is None:
        return Annotated[kind, about], ...
    return Annotated[kind | None, about], None


def value_problem(value: str, setting: Setting) -> str | None:
    """Return what is wrong with *value* for *setting*, wherever it stands, or None."""
    if not value and setting.default != "":
        return "is empty: set a value" + ("" if setting.default is None else ", or remove the key")
    if setting.choices is not None and value not in setting.choices:
        return f"must be one of {', '.join(map(_quoted, setting.choices))}"
    if setting.pattern is not None and value and not re.fullmatch(setting.pattern, value):
        return f"must look like {_quoted(setting.example)} and match {setting.pattern}"
    if not value.isprintable() or value != value.strip():
        return "must not contain a control character, or a space at an end"
    return None


def _quoted(text: str) -> str:
    return f'"{text}"'
