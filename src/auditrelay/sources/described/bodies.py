"""
The body of a page: its records byte for byte, and the spots that say what comes next.

The shape of a body is made once, from where the description says that the records are. Only the way
to them has types; everything else that a spot needs is decoded as it is, and read when it is asked
for.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from auditrelay.descriptions.model import Feed
from auditrelay.descriptions.places import Path, Spot, find, parse_path, parse_spot
from auditrelay.errors import ConfigError, Retryable
from auditrelay.events.decode import Undecodable
from auditrelay.events.decode import decode as decode_record
from auditrelay.http.fields import Records, texts
from auditrelay.http.headers import link
from auditrelay.http.replies import Reply, decode, misshapen
from auditrelay.telemetry.scrubber import scrub

MAX_KEYS: Final = 10
"""Keys of a reply that a sentence names."""


@dataclass(frozen=True, slots=True)
class Content:
    """What came in *reply*: its *body*, decoded (None: there is none), and the *records* in it."""

    reply: Reply
    body: Any
    records: list[bytes]


FindSpot = Callable[[Content], Any]
"""Returns what stands at a spot of a reply; None if nothing does."""

FindInBody = Callable[[Any], Any]
"""Returns what stands at a path of a decoded body; None if nothing does."""


class Bodies:
    """The bodies of one feed's pages."""

    def __init__(self, feed: Feed) -> None:
        self._way = tuple(map(str, parse_path(feed.records.at).steps))
        self._may_be_absent = feed.records.absent == "none"
        self._link_says = feed.pages.says
        self._shape: Any = Records
        if self._way:
            self._shape = _struct(self._way, _paths(feed), required=not self._may_be_absent)

    @property
    def has_keys(self) -> bool:
        """Whether a body has anything beside its records: not if it is their list."""
        return bool(self._way)

    def read(self, reply: Reply, *, promised: bool) -> Content:
        """
        Return the content of *reply*. Raises Retryable if it is no page of this feed.

        *promised*: the page was announced, so that null for its records is no empty list.
        """
        try:
            body = decode(reply, self._shape, promised=promised and not self._may_be_absent)
        except Retryable as error:
            problem = self._elsewhere(reply) if error.reason == "bad_reply" else None
            if problem is None:
                raise
            raise misshapen(reply, problem) from None
        holder = body
        for key in self._way:
            holder = None if holder is None else getattr(holder, _attribute(key))
        return Content(reply, body, texts(holder))

    def _elsewhere(self, reply: Reply) -> str | None:
        """Return that the records are not where they should be, and what is there; None if not."""
        try:
            found: Any = reply.json()
        except ValueError:
            return None
        at = json.dumps(".".join(self._way), ensure_ascii=False)
        for key in self._way:
            if not isinstance(found, dict):
                return None
            if key not in found:
                return f"records.at = {at} is not in the reply; {_keys(found)}"
            found = found[key]
        if not self._way and isinstance(found, dict):
            return f"records.at = {at} says that it is a list, and it is an object; {_keys(found)}"
        return None

    def spot(self, spot: Spot, key: str) -> FindSpot:
        """Return what finds *spot*, which the description has under *key*."""
        if spot.place == "header":
            return lambda content: content.reply.headers.get(spot.name)
        if spot.place == "link":
            says = self._link_says
            return lambda content: link(content.reply.headers, spot.name, says)
        assert spot.path is not None  # noqa: S101  # places.parse_spot gives it to these
        if spot.place == "last":
            in_record = find(spot.path)
            return lambda content: _in_last(content.records, in_record)
        in_body = self.path(spot.path, key)
        return lambda content: in_body(content.body)

    def path(self, path: Path, key: str) -> FindInBody:
        """Return what finds *path*, which the description has under *key*, in a body."""
        steps, way = path.steps, self._way
        if not way or tuple(map(str, steps[: len(way)])) == way:
            raise ConfigError(
                f"{key}: {path} lies among the records; for a place in the last one of them write "
                '"last:PATH"'
            )
        level = 0
        while level + 1 < len(steps) and str(steps[level]) == way[level]:
            level += 1
        names = [_attribute(str(step)) for step in steps[: level + 1]]
        rest = find(Path(path.text, steps[level + 1 :]))

        def found(body: Any) -> Any:
            for name in names:
                body = getattr(body, name, None)
            return rest(body)

        return found


def _keys(found: dict[str, Any]) -> str:
    """Return a few keys of what was *found*, for a sentence."""
    names = [scrub(key, 40) for key in list(found)[:MAX_KEYS]]
    more = ", ..." if len(found) > MAX_KEYS else ""
    return f"its keys are {', '.join(names)}{more}" if names else "it has no keys"


def _paths(feed: Feed) -> list[tuple[Any, ...]]:
    """Return the steps of all that is looked for in a body, beside the records."""
    pages, errors = feed.pages, feed.errors
    spots = [pages.from_, pages.more, pages.count, pages.total, *map(parse_spot, errors.retry_at)]
    in_body = [spot.path for spot in spots if spot is not None and spot.place == "body"]
    return [path.steps for path in (*in_body, errors.found, errors.ok) if path is not None]


def _struct(way: Sequence[str], paths: Iterable[Sequence[Any]], *, required: bool) -> Any:
    """Return the type of an object with the records at the end of the *way*, and these *paths*."""
    key, rest = way[0], way[1:]
    inside = [path[1:] for path in paths if str(path[0]) == key and len(path) > 1]
    kind: Any = _struct(rest, inside, required=required) if rest else Records
    fields: list[Any] = []
    if required:
        fields.append((_attribute(key), kind))
    else:
        fields.append((_attribute(key), kind | None, None))
    others = dict.fromkeys(str(path[0]) for path in paths)
    others.pop(key, None)
    fields += [(_attribute(other), Any, None) for other in others]
    return msgspec.defstruct(
        "Body", fields, rename={_attribute(each): each for each in (key, *others)}
    )


def _attribute(key: str) -> str:
    """Return the name of an attribute for *key*, which may have any characters."""
    return f"key_{key.encode().hex()}"


def _in_last(records: Sequence[bytes], in_record: Callable[[Any], Any]) -> Any:
    if not records:
        return None
    try:
        return in_record(decode_record(records[-1]).value)
    except Undecodable:
        return None
