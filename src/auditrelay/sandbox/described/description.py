"""The file as the double reads it: its tables, the values for its holes, and made-up secrets."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from auditrelay.sandbox.described import places

Asked = list[tuple[str, Any]]
"""What a request asks, by slot and in order: ``query:limit``, ``body:cursor``."""


def feeds(file: Path) -> list[str]:
    """Return the names of the feeds that *file* describes; none if the whole is one."""
    return list(tomllib.loads(file.read_text("utf-8")).get("feeds", {}))


class Description:
    """The description in *file*, or its *feed*, with the sample reply *page* if there is one."""

    def __init__(self, file: Path, feed: str | None, page: Path | None) -> None:
        self.file = file
        described = tomllib.loads(file.read_text("utf-8"))
        feeds = described.get("feeds", {})
        self.feed: str | None = feed or described.get("default_feed") or next(iter(feeds), None)
        tables: dict[str, Any] = {**described, **feeds.get(self.feed or "", {})}
        self.vendor: str = tables["vendor"]
        self.origin = f"{self.vendor}.{self.feed}" if self.feed else self.vendor
        """The vendor and the feed, as its sample reply is called."""
        self.auth: dict[str, Any] = tables["auth"]
        self.request: dict[str, Any] = tables["request"]
        self.time: dict[str, Any] = tables.get("time", {})
        self.pages: dict[str, Any] = tables["pages"]
        self.records: dict[str, Any] = tables["records"]
        self.limits: dict[str, Any] = tables.get("limits", {})
        self.errors: dict[str, Any] = tables.get("errors", {})
        self.defaults: dict[str, Any] = tables.get("defaults", {})
        self.values: dict[str, str] = {
            name: table.get("default") or table["example"]
            for name, table in tables.get("settings", {}).items()
        }
        self.secrets: dict[str, str] = {
            name: f"sandbox-{name.replace('_', '-')}-not-a-real-secret"
            for name in tables.get("secrets", {})
        }
        self.sample: Any = json.loads(page.read_text("utf-8")) if page is not None else None

    def filled(self, text: str) -> str:
        """Return *text* with the settings in its holes."""
        return re.sub(r"\{(\w+)\}", lambda hole: self.values.get(hole[1], hole[0]), text)

    @property
    def largest(self) -> int:
        """The most records of a page: a vendor takes the size that its description asks for."""
        asked: int = self.pages.get("largest") or self.defaults.get("page_size") or 100
        return asked

    @property
    def base_path(self) -> str:
        """The path of the address that all paths begin with, without a slash at its end."""
        return re.sub(r"^https?://[^/]*", "", self.filled(self.request["base_url"])).rstrip("/")

    @property
    def first_path(self) -> str:
        """The path of the first page."""
        return self.base_path + self.filled(self.request["path"])

    @property
    def later_path(self) -> str:
        """The path of later pages."""
        return self.base_path + self.filled(self.pages.get("path", self.request["path"]))

    @property
    def time_format(self) -> str:
        """The form of a record's time."""
        form: str = self.records.get("time_format", "iso")
        return form

    @property
    def bound_format(self) -> str:
        """The form of a bound."""
        form: str = self.time.get("format", "iso_ms")
        return form

    @property
    def turning_slot(self) -> str | None:
        """The slot that tells the page."""
        if self.pages["kind"] == "url":
            return "query:sandbox_page"
        slot: str | None = self.pages.get("to")
        return slot

    @property
    def slots(self) -> set[str]:
        """The slots that a request may fill, but for the one that tells the page."""
        named = [self.time.get(key) for key in ("start", "end", "at")]
        return {each for each in (*named, self.pages.get("size")) if each}

    def fixed(self) -> Iterator[tuple[str, Any]]:
        """Yield what every request must ask."""
        for name, value in self.request.get("params", {}).items():
            for each in value if isinstance(value, list) else [value]:
                yield f"query:{name}", self.filled(each)
        for path, value in leaves(self.request.get("body", {})):
            if f"body:{path}" not in self.slots:
                yield f"body:{path}", self._filled_in(value)

    def _filled_in(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._filled_in(each) for each in value]
        return self.filled(value) if isinstance(value, str) else value

    def templates(self) -> list[dict[str, Any]]:
        """Return the records of the sample reply."""
        at = self.records["at"]
        sample = places.get(self.sample, at) if at else self.sample
        return [each for each in sample or () if isinstance(each, dict)]

    def cursor_type(self) -> type:
        """Return what a cursor of the sample reply is: a text, a number, or a list."""
        place, _, path = self.pages.get("from", "").partition(":")
        sampled = places.get(self.sample, path) if place == "body" else None
        if "join" in self.pages or isinstance(sampled, list):
            return list
        return int if type(sampled) is int else str


def leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Return each value of a body with its path; a list is one value."""
    if isinstance(value, dict) and value:
        return [
            leaf
            for key, below in value.items()
            for leaf in leaves(below, f"{path}.{key}" if path else key)
        ]
    return [(path, value)] if path else []


def as_text(value: Any) -> str:
    """Return what was asked as one text, for comparing."""
    return value if isinstance(value, str) else json.dumps(value)
