"""The file of a receiver as the double reads it: what a request must look like, and a success."""

import json
import re
import tomllib
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from auditrelay.sandbox.described import places

_KINDS: Final = {
    "array": "application/json",
    "ndjson": "application/x-ndjson",
    "wrapped": "application/json",
    "single": "application/json",
}
_ISO: Final = {
    "iso_s": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
    "iso_ms": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z",
    "iso_us": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z",
}
_UNITS: Final = {"epoch_s": 1, "epoch_ms": 10**3, "epoch_us": 10**6, "epoch_ns": 10**9}
_ANYTHING: Final = ("text", "message", "source", "vendor", "product", "action", "outcome")


class Mismatch(ValueError):
    """A request is not what the description says."""


class Item(NamedTuple):
    """An item of a request: as it came, its stream, its uid and its time in epoch seconds."""

    value: Any
    labels: dict[str, str] | None
    uid: str | None
    at: float | None


class Description:
    """The description in *file*; settings have their examples or defaults, *given* ones those."""

    def __init__(self, file: Path, given: dict[str, str]) -> None:
        self.file = file
        self.tables: dict[str, Any] = tomllib.loads(file.read_text("utf-8"))
        self.name: str = self.tables["receiver"]
        self.auth: dict[str, Any] = self.tables["auth"]
        self.request: dict[str, Any] = self.tables["request"]
        self.body: dict[str, Any] = self.tables["body"]
        self.item: dict[str, Any] = self.tables.get("item", {})
        self.limits: dict[str, Any] = self.tables.get("limits", {})
        self.success: dict[str, Any] = self.tables["success"]
        self.settings: dict[str, str] = {
            name: table["default"] if "default" in table else table["example"]
            for name, table in self.tables.get("settings", {}).items()
            if name != "url"
        } | given
        self.secrets: dict[str, str] = {
            name: f"sandbox-{name.replace('_', '-')}-not-a-real-secret"
            for name in self.tables.get("secrets", {})
        }

    def filled(self, text: str) -> str:
        """Return *text* with the settings in its holes."""
        return re.sub(r"\{(\w+)\}", lambda hole: self._value(hole[1], hole[0]), text)

    def _value(self, name: str, otherwise: str) -> str:
        if name not in self.settings:
            return otherwise
        value = self.settings[name]
        means: dict[str, str] = self.tables["settings"][name].get("means", {})
        return means.get(value, value)

    @property
    def path(self) -> str:
        """The path that events are sent to."""
        return re.sub(r"^(https?://[^/]*|\{url\})", "", self.filled(self.request["url"]))

    @property
    def check_path(self) -> str | None:
        """The path of the check, if it has one of its own."""
        url = self.tables.get("check", {}).get("url")
        return None if url is None else re.sub(r"^(https?://[^/]*|\{url\})", "", self.filled(url))

    @property
    def headers(self) -> dict[str, str]:
        """The headers that a request must have; one that is empty is left out."""
        found = {key: self.filled(text) for key, text in self.request.get("headers", {}).items()}
        return {key.lower(): value for key, value in found.items() if value}

    @property
    def params(self) -> dict[str, str]:
        """The parameters that a request must have."""
        return {key: self.filled(text) for key, text in self.request.get("params", {}).items()}

    @property
    def content_type(self) -> str:
        """The type of a body."""
        kind: str = self.request.get("content_type", _KINDS[self.body["shape"]])
        return kind.partition(";")[0]

    def items(self, body: bytes) -> list[Item]:
        """Return the items in *body*. Raises Mismatch if it is anything but what is described."""
        return [self._item(value, labels) for labels, value in self._values(body)]

    def _values(self, body: bytes) -> list[tuple[dict[str, str] | None, Any]]:
        shape = self.body["shape"]
        if shape == "ndjson":
            lines = body.split(b"\n")
            if lines.pop() != b"":
                raise Mismatch("the last line has no end")
            return [(None, _json(line)) for line in lines]
        value = _json(body)
        if shape == "single":
            return [(None, value)]
        if shape == "wrapped":
            found = match(json.loads(self.body["skeleton"]), value)
            value = found["items"]
        if not isinstance(value, list):
            raise Mismatch("the items are no list")
        if "streams" not in self.tables:
            return [(None, each) for each in value]
        skeleton = json.loads(self.tables["streams"]["skeleton"])
        items: list[tuple[dict[str, str] | None, Any]] = []
        for stream in value:
            found = match(skeleton, stream)
            self._check_labels(found["labels"])
            items += [(found["labels"], each) for each in found["items"]]
        return items

    def _check_labels(self, labels: Any) -> None:
        streams = self.tables["streams"]
        allowed = {*streams["labels"], *(["late"] if "spread" in streams else [])}
        if not isinstance(labels, dict) or not set(streams["labels"]) <= set(labels) <= allowed:
            raise Mismatch(f"the labels {labels} are not those that are described")
        if not all(isinstance(text, str) and text for text in labels.values()):
            raise Mismatch("a label is no text, or empty")

    def _item(self, value: Any, labels: dict[str, str] | None) -> Item:
        skeleton = json.loads(self.item.get("skeleton", '"$event"'))
        given: dict[str, Any] = {}
        for name in ("uid", "time"):
            path = self.item.get(name)
            if path is not None:
                given[name] = self._at(value, path)
        path = self.tables.get("key", {}).get("path")
        if path is not None:
            given["uid"] = self._at(value, path)
        beside = [self.item.get("time", ""), self.item.get("uid", ""), path or ""]
        found = {**match(skeleton, value, beside), **given}
        for name, part in found.items():
            if name in ("event", "markers") and not isinstance(part, dict):
                raise Mismatch(f"${name} is no object")
            if name in (*_ANYTHING, "uid") and not isinstance(part, str):
                raise Mismatch(f"${name} is no text")
        if self.item.get("flat") and any(
            isinstance(each, dict) for each in found["event"].values()
        ):
            raise Mismatch("an object is nested in $event")
        at = self._seconds(found["time"]) if "time" in found else None
        return Item(value, labels, found.get("uid"), at)

    def _at(self, value: Any, path: str) -> Any:
        """Return what stands at *path* of an item; in a flat object, under its dotted key."""
        skeleton = json.loads(self.item.get("skeleton", '"$event"'))
        keys = places.keys(path)
        while keys and isinstance(skeleton, dict) and keys[0] in skeleton:
            skeleton, value = skeleton[keys[0]], value.get(keys[0])
            keys = keys[1:]
        if self.item.get("flat") and isinstance(value, dict) and ".".join(keys) in value:
            return value[".".join(keys)]
        return places.get(value, ".".join(keys)) if keys else value

    def _seconds(self, value: Any) -> float:
        form = self.item.get("time_as", "iso_ms")
        if form in _ISO:
            if not isinstance(value, str) or not re.fullmatch(_ISO[form], value):
                raise Mismatch(f"{value!r} is no time as in {form}")
            return datetime.fromisoformat(value).timestamp()
        wanted = str if self.item.get("time_text") else int
        if type(value) is not wanted or not re.fullmatch(r"-?\d+", str(value)):
            raise Mismatch(f"{value!r} is no time as in {form}")
        return int(value) / _UNITS[form]

    def taken(self, count: int) -> tuple[int, bytes]:
        """Return status and body of the answer to a request whose *count* events are stored."""
        success = self.success
        answer: dict[str, Any] = {}
        for path, values in success.get("where", {}).items():
            places.put(answer, path, json.loads(values[0]))
        if "count" in self.tables:
            places.put(answer, self.tables["count"]["refused"], 0)
        items = self.tables.get("items")
        if items is not None and items["by"] == "order":
            element: dict[str, Any] = {}
            places.put(element, items["verdict"], json.loads(items["ok"][0]))
            places.put(answer, items["at"], [element] * count)
        body = b"" if success["body"] == "empty" else json.dumps(answer).encode()
        return success["statuses"][0], body


def match(skeleton: Any, value: Any, beside: list[str] | None = None) -> dict[str, Any]:
    """
    Return what stands in *value* for each name of *skeleton*; all else must be the same.

    *beside* are paths that may be there, too. Raises Mismatch.
    """
    if isinstance(skeleton, str) and re.fullmatch(r"\$\w+", skeleton):
        return {skeleton[1:]: value}
    if isinstance(skeleton, dict):
        more = {path for path in beside or () if path and "." not in path}
        if not isinstance(value, dict) or set(value) - more != set(skeleton) - more:
            raise Mismatch(f"the keys of an object are not {sorted(skeleton)}")
        pairs = [(each, value[key]) for key, each in skeleton.items()]
    elif isinstance(skeleton, list):
        if not isinstance(value, list) or len(value) != len(skeleton):
            raise Mismatch(f"a list has not {len(skeleton)} elements")
        pairs = list(zip(skeleton, value, strict=True))
    elif skeleton != value:
        raise Mismatch(f"{value!r} stands where {skeleton!r} must")
    else:
        return {}
    return {name: part for each, inner in pairs for name, part in match(each, inner).items()}


def _json(text: bytes) -> Any:
    def no_constant(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key stands twice in an object")
        return found

    try:
        return json.loads(text, parse_constant=no_constant, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise Mismatch(f"not JSON: {error}") from error
