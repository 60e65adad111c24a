"""
All rules of a description that one table alone cannot tell: problems, and notes.

``request_rules``, ``auth_rules`` and ``event_rules`` have those of their tables.
"""

from collections.abc import Iterator
from datetime import date, timedelta
from functools import cache
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from auditrelay.descriptions import holes
from auditrelay.descriptions.auth_rules import (
    auth_problems,
    basic_settings,
    refusal_problems,
    secret_names,
)
from auditrelay.descriptions.draft import Draft, Part
from auditrelay.descriptions.event_rules import event_notes, event_problems
from auditrelay.descriptions.model import TABLES
from auditrelay.descriptions.request_rules import request_problems, uses
from auditrelay.descriptions.setting_rules import declared_problems, is_name
from auditrelay.descriptions.settings import name_problem
from auditrelay.descriptions.tables import Problem
from auditrelay.settings import SourceSettings
from auditrelay.settings.values import format_duration
from auditrelay.settings.wording import explained_value, suggestion


def problems(draft: Draft) -> Iterator[Problem]:
    """
    Yield what is wrong with a description; what is true of two feeds may come twice.

    What is used nowhere is not reported here: it often only follows from another problem.
    """
    yield from _top(draft)
    yield from declared_problems(draft, name_problem)
    yield from auth_problems(draft)
    yield from refusal_problems(draft)
    for part in draft.parts():
        yield from _missing(draft, part)
        yield from request_problems(draft, part)
        yield from event_problems(part)
        yield from _defaults(part)
        yield from _scope(draft, part)


def notes(draft: Draft, today: date) -> Iterator[Problem]:
    """
    Yield what works, and was hardly meant.

    What *today* is says our clock alone: before NTP has set it, it may be years behind.
    """
    if draft.file.checked > today + timedelta(days=1):
        yield ("checked",), f"{draft.file.checked} is in the future"
    for key in TABLES if draft.file.feeds else ():
        own = [getattr(feed, key) is not None for feed in draft.file.feeds.values()]
        if getattr(draft.file, key) is not None and all(own):
            yield (key,), "has no use: every feed has a table of its own"
    for part in draft.parts():
        yield from event_notes(part)
        time = part.time
        if time is None:
            continue
        both = time.text is not None or (time.start is not None and time.end is not None)
        if time.order == "newest_first" and both and time.format != "date":
            yield (
                (*part.at["time"], "order"),
                "saves no request here: both bounds of a window are asked for",
            )
        if time.order == "none" and time.start is not None and time.end is None:
            yield (
                (*part.at["time"], "order"),
                (
                    "without an upper bound each window reads all from its start to now: say which "
                    "order the vendor promises, if it promises one"
                ),
            )


def unused(draft: Draft) -> Iterator[Problem]:
    """Yield each setting and secret that nothing uses in a description without problems."""
    used = {
        name
        for part in draft.parts()
        for use in uses(draft, part)
        for name in holes.names(use.text)
    }
    used.update(basic_settings(draft))
    for name, setting in draft.file.settings.items():
        if name not in used and not setting.scope:
            yield ("settings", name), "is used nowhere: remove it, or write it as a hole, {name}"
    keys = {name for _, name in secret_names(draft)}
    for name in draft.file.secrets:
        if name not in keys:
            yield ("secrets", name), "is used nowhere: remove it, or name it in [auth]"


def _top(draft: Draft) -> Iterator[Problem]:
    file = draft.file
    for number, address in enumerate(file.docs):
        if not address.startswith("https://"):
            yield ("docs", number), "must begin with https://"
    for name in file.feeds:
        if not is_name(name):
            yield ("feeds", name), "is not a name: write small letters, digits and single _"
    if file.default_feed is not None and not any(
        ("feeds", *path[1:2]) == ("feeds", file.default_feed)
        for path in (*(("feeds", name) for name in file.feeds), *draft.broken)
    ):
        hint = suggestion(file.default_feed, file.feeds)
        yield ("default_feed",), f'there is no feed "{file.default_feed}"{hint}'


# --- settings and secrets ----------------------------------------------------


def _scope(draft: Draft, part: Part) -> Iterator[Problem]:
    if part.records is None or part.request is None or not draft.has("settings"):
        return
    if any(path[0] == "settings" for path in draft.broken):
        return
    in_host = holes.names(holes.split_address(part.request.base_url)[0])
    marked = any(setting.scope for setting in draft.file.settings.values())
    if not (marked or in_host or part.records.organisation):
        yield (
            part.at["records"],
            (
                "nothing tells two organisations apart: mark a setting with scope = true, or name "
                "records.organisation"
            ),
        )


# --- feeds -------------------------------------------------------------------


def _missing(draft: Draft, part: Part) -> Iterator[Problem]:
    for key in ("request", "time", "pages", "records", "event"):
        at = part.at[key]
        if getattr(part, key) is None and at not in draft.broken:
            yield at, "is missing"


@cache
def _range_of(key: str) -> TypeAdapter[Any]:
    """Return what checks the key *key* that every source has."""
    field = SourceSettings.model_fields[key]
    kind: Any = Annotated[field.annotation, *field.metadata]
    return TypeAdapter(kind)


def _out_of_range(key: str, value: Any) -> str | None:
    try:
        _range_of(key).validate_python(value)
    except ValidationError as error:
        return explained_value(error.errors(include_url=False)[0], value)
    return None


def _defaults(part: Part) -> Iterator[Problem]:
    at = part.at["defaults"]
    for key, value in part.defaults.given().items():
        sentence = _out_of_range(key, value)
        if sentence is not None:
            yield (*at, key), sentence
    defaults = part.defaults
    usual = SourceSettings.model_fields
    overlap = defaults.overlap or usual["overlap"].default
    longest = part.time.longest if part.time is not None else None
    window = defaults.max_window or min(
        each for each in (longest, usual["max_window"].default) if each is not None
    )
    if overlap >= window:
        key, where = ("overlap", at) if defaults.overlap else ("max_window", at)
        if not defaults.overlap and not defaults.max_window:
            key, where = "longest", part.at["time"]
        yield (
            (*where, key),
            (
                f"windows of {format_duration(window)} must be longer than their overlap, "
                f"{format_duration(overlap)}"
            ),
        )
    if defaults.retention is not None and defaults.retention < overlap:
        yield (
            (*at, "retention"),
            f"must not be shorter than overlap, {format_duration(overlap)}",
        )
