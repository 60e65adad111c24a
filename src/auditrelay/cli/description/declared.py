"""The parts of a summary that descriptions of both kinds have, in lines for people."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping

from auditrelay.descriptions.model import SecretSetting, Setting


def titled(title: str, lines: Iterable[str], width: int) -> Iterator[str]:
    """Yield *title*, and *lines* below it, of *width* characters at most where that can be."""
    yield ""
    yield f"{title}:"
    for line in lines:
        yield textwrap.fill(
            line,
            max(width, 40),
            initial_indent="  ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )


def settings_lines(settings: Mapping[str, Setting]) -> Iterator[str]:
    """Yield a line about each of *settings*."""
    if not settings:
        yield "none"
    for name, setting in settings.items():
        text = f"{name}: {setting.about}"
        if setting.choices is not None:
            text += f" One of {', '.join(setting.choices)}."
        elif setting.default is None:
            text += f' Such as "{setting.example}".'
        if setting.default is not None:
            text += f' Default "{setting.default}".'
        yield text


def secrets_lines(secrets: Mapping[str, SecretSetting]) -> Iterator[str]:
    """Yield a line about each of *secrets*."""
    for name, secret in secrets.items():
        optional = "" if secret.default is None else " May be left out."
        yield f"{name}: {secret.about}{optional}"
