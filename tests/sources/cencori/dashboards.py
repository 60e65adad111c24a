"""Settings of the dashboard's source, and what a walk over it has shown."""

import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from auditrelay.sandbox.vendors.cencori import Cencori
from auditrelay.sandbox.vendors.cencori.session import COOKIE
from auditrelay.sources import Page, cencori
from auditrelay.sources.cencori import dashboard

Walk = Callable[..., Awaitable[list[Page]]]


Connect = Callable[..., dashboard.Source]


HOUR = timedelta(hours=1)


MINUTE = timedelta(minutes=1)


SECOND = timedelta(seconds=1)


MICROSECOND = timedelta(microseconds=1)


DAY = timedelta(days=1)


SIZE = 6
"""Rows of a page, so that a few make several pages."""


GIVEN = f"{COOKIE}=base64-abc"


def make_settings(**changes: Any) -> cencori.Settings:
    given = {
        "type": "cencori",
        "mode": "dashboard",
        "organization_slug": "acme-labs",
        "cookie": GIVEN,
        **changes,
    }
    return cencori.Settings.model_validate({k: v for k, v in given.items() if v is not None})


def ids(pages: list[Page]) -> list[str]:
    return [json.loads(record)["id"] for page in pages for record in page.records]


def lists(vendor: Cencori) -> list[dict[str, str]]:
    """Return the queries for pages of the list; the first of each walk checks the plan."""
    return [seen.query for seen in vendor.seen if "category" not in seen.query]
