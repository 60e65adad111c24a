"""Vendors that are described: made of the text of a description, without its file's rules."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from auditrelay.descriptions.model import DescriptionFile, Feed, feed_of
from auditrelay.descriptions.settings import DescribedSettings, settings_class
from auditrelay.descriptions.vendor import vendor_of
from auditrelay.events.normalize import Normalizer
from auditrelay.events.vendors import Vendor

SEEDS = Path(__file__).parents[1] / "descriptions" / "seeds"
"""Descriptions of vendors of which there are modules, too."""

HEAD = """
vendor = "acme"
product = "Acme"
docs = ["https://acme.example/docs"]
checked = 2026-11-26
evidence = "documentation"
auth = { kind = "header", secret = "token" }
secrets = { token = { about = "A token." } }
settings = { account = { about = "An account.", example = "a", scope = true } }
request = { base_url = "https://acme.example", path = "/logs" }
time = { start = "query:from", end = "query:to" }
pages = { kind = "none" }
"""
"""What a description needs that says nothing about records."""

RECORDS = '[records]\nat = "items"\nid = "id"\ntime = "at"\n'


def feed(text: str, name: str | None = None) -> Feed:
    """Return the feed *name* of the description *text*."""
    return feed_of(DescriptionFile(**tomllib.loads(text)), name)


def class_of(feed: Feed) -> type[DescribedSettings]:
    """Return the class of the settings of *feed*, which takes long to make: once for equal ones."""
    key = repr(feed)
    if key not in _classes:
        _classes[key] = settings_class(feed, feed.vendor)
    return _classes[key]


_classes: dict[str, type[DescribedSettings]] = {}


@cache
def seed(vendor: str) -> Vendor:
    """Return what the description of *vendor* makes of it: the same for all tests."""
    return vendor_of(feed((SEEDS / f"{vendor}.toml").read_text()))


def described(text: str) -> Vendor:
    """Return the vendor of *text*: the tables of records, events and actions."""
    return vendor_of(feed(HEAD + (text if "[records]" in text else RECORDS + text)))


def normalizer(vendor: Vendor, **changes: Any) -> Normalizer:
    """Return a normalizer for *vendor* with realistic settings."""
    settings: dict[str, Any] = {
        "source": "it",
        "api_host": "acme.example",
        "scope": "configured",
        "redact": "default",
        "tags": {"team": "voice"},
    }
    return Normalizer(vendor=vendor, **(settings | changes))
