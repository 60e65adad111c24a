"""
The identity of a description: what uids are made of, and so never changes once it was used.

An event that was forwarded under another uid would be forwarded again. Everything else in a
description, such as its paths and its table of actions, may improve at any time.
"""

import json
from collections.abc import Iterator
from typing import Any, Final

from auditrelay.descriptions import holes
from auditrelay.descriptions.model import DescriptionFile, Feed, feed_of
from auditrelay.descriptions.places import Path
from auditrelay.descriptions.tables import Problem

_KEYS: Final = ("id", "id_parts", "no_id", "without", "organisation", "split")
"""Keys of records that the uid depends on."""


def scope_settings(feed: Feed) -> list[str]:
    """Return the names of the settings that ids of *feed* are unique in."""
    marked = [name for name, setting in feed.settings.items() if setting.scope]
    if marked or feed.records.organisation is not None:
        return marked
    return list(dict.fromkeys(holes.names(holes.split_address(feed.request.base_url)[0])))


def identity(file: DescriptionFile) -> dict[str, Any]:
    """Return the identity of *file* as JSON; without feeds the name of the only one is empty."""
    names: list[str | None] = [*file.feeds] or [None]
    return {
        "vendor": file.vendor,
        "feeds": {name or "": identity_of(feed_of(file, name)) for name in names},
    }


def identity_of(feed: Feed) -> dict[str, Any]:
    """Return how records of *feed* are known, as JSON."""
    found: dict[str, Any] = {"scope": scope_settings(feed)}
    for key in _KEYS:
        value = getattr(feed.records, key)
        if isinstance(value, Path):
            found[key] = str(value)
        elif value:
            found[key] = True if value is True else [str(each) for each in value]
    return found


def differences(file: DescriptionFile, shipped: DescriptionFile) -> Iterator[Problem]:
    """Yield what of *file* would give the events of the description *shipped* other uids."""
    ours, theirs = identity(file), identity(shipped)
    why = f"as in {shipped.vendor}, or known events would get new ids and be forwarded again"
    if ours["vendor"] != theirs["vendor"]:
        yield ("vendor",), f'must be "{theirs["vendor"]}", {why}'
    if bool(file.feeds) != bool(shipped.feeds):
        yield ("feeds",), f"must be {'there' if shipped.feeds else 'left out'}, {why}"
        return
    for name, keys in theirs["feeds"].items():
        if name not in ours["feeds"]:
            continue  # it may have fewer, and more
        for key, value in {"scope": [], **dict.fromkeys(_KEYS), **keys}.items():
            if ours["feeds"][name].get(key) == value:
                continue
            wanted = "left out" if value is None else json.dumps(value)
            if key == "scope":
                yield ("settings",), f"what ids are unique in must be {wanted}, {why}"
            else:
                table = ("feeds", name) if file.feeds and file.feeds[name].records else ()
                yield (*table, "records", key), f"must be {wanted}, {why}"
