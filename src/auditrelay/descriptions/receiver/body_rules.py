"""What is wrong with how a description puts events into the body of a request."""

from collections.abc import Callable, Collection, Iterator
from typing import Any

from auditrelay.descriptions.receiver import skeleton
from auditrelay.descriptions.receiver.model import ReceiverFile
from auditrelay.descriptions.tables import Problem

Has = Callable[..., bool]
"""Whether a table is there, and not broken; as of a draft."""


def body_problems(file: ReceiverFile, has: Has) -> Iterator[Problem]:
    """Yield what is wrong with body, items, streams and limits."""
    if has("body"):
        yield from _body(file)
        yield from _streams(file) if has("streams") else ()
    if has("item"):
        yield from _item(file, has)
    if has("limits"):
        yield from _limits(file, has)
        yield from _defaults(file) if has("defaults") else ()


def _body(file: ReceiverFile) -> Iterator[Problem]:
    body = file.body
    at = ("body", "skeleton")
    if body.shape != "wrapped":
        if body.skeleton is not None:
            yield at, f'has no use with shape = "{body.shape}", only with "wrapped"'
        return
    if body.skeleton is None:
        yield at, 'is missing: shape = "wrapped" needs it'
        return
    try:
        value = skeleton.parse(body.skeleton, ("items",))
    except ValueError as error:
        yield at, str(error)
        return
    if list(skeleton.names(value)) != ["items"]:
        yield at, 'must hold "$items" exactly once'


def _streams(file: ReceiverFile) -> Iterator[Problem]:
    streams = file.streams
    if streams is None:
        return
    if file.body.shape != "wrapped":
        yield ("streams",), 'only a body of shape = "wrapped" has streams'
    at = ("streams", "skeleton")
    try:
        value = skeleton.parse(streams.skeleton, ("labels", "items"))
    except ValueError as error:
        yield at, str(error)
        return
    if sorted(skeleton.names(value)) != ["items", "labels"]:
        yield at, 'must hold "$labels" and "$items" once each'
    if streams.spread is not None and "late" in streams.labels:
        yield ("streams", "labels", "late"), "is set by streams.spread: leave it out"


def _item(file: ReceiverFile, has: Has) -> Iterator[Problem]:
    item = file.item
    at = ("item", "skeleton")
    try:
        value = skeleton.parse(item.skeleton, skeleton.OF_AN_EVENT)
    except ValueError as error:
        yield at, str(error)
        return
    names = set(skeleton.names(value))
    if names.isdisjoint(skeleton.RECORD):
        yield at, "the record itself is not in it: put $event, $text or $raw into it"
    if "event" not in names:
        for key in ("flat", "lists"):
            if key in item.model_fields_set:
                yield ("item", key), "has no use without $event in the skeleton"
    yield from _set_paths(file, has, value, names)
    yield from _time(file, has, names)


def _set_paths(
    file: ReceiverFile, has: Has, value: Any, names: Collection[str]
) -> Iterator[Problem]:
    """Yield what is wrong with the paths of the item that are set."""
    item = file.item
    key = file.key.path if file.key is not None and has("key") else None
    if item.uid is None and key is None and "uid" not in names and has("key"):
        yield ("item",), "the uid is nowhere: name item.uid or put $uid into the skeleton"
    for at, path, name in (
        (("item", "uid"), item.uid, "uid"),
        (("item", "time"), item.time, "time"),
        (("key", "path"), key, "uid"),
    ):
        if path is None:
            continue
        if not all(type(step) is str for step in path.steps):
            yield at, f"{str(path)!r} must be plain keys with dots between them"
            continue
        try:
            skeleton.with_name(value, path, name)
        except ValueError as error:
            yield at, str(error)


def _time(file: ReceiverFile, has: Has, names: Collection[str]) -> Iterator[Problem]:
    item, age = file.item, file.age
    has_time = item.time is not None or "time" in names
    if item.time_text and not item.time_as.startswith("epoch"):
        yield ("item", "time_text"), f'is for a number; time_as = "{item.time_as}" is a text'
    if not has_time:
        for key in ("time_as", "time_text"):
            if key in item.model_fields_set:
                yield ("item", key), "has no use: name item.time or put $time into the skeleton"
    if has("age") and age.then == "restamp" and (age.oldest or age.newest) and not has_time:
        yield ("age", "then"), '"restamp" needs a time in the item: item.time, or $time'


def _limits(file: ReceiverFile, has: Has) -> Iterator[Problem]:
    limits = file.limits
    at = ("limits",)
    if has("item") and '"$event"' not in file.item.skeleton:
        for key in ("fields", "field_bytes", "depth"):
            if getattr(limits, key) is not None:
                yield (*at, key), "has no use without $event in the item's skeleton"
    cuts = (limits.fields, limits.field_bytes, limits.depth, limits.event_bytes)
    if limits.cut and cuts == (None,) * len(cuts):
        yield (*at, "cut"), "has no use without fields, field_bytes, depth or event_bytes"
    if limits.bytes is not None and (limits.event_bytes or 0) > limits.bytes:
        yield (*at, "event_bytes"), f"is more than a whole request may have (bytes, {limits.bytes})"
    if has("body") and file.body.shape == "single" and (limits.events or 1) > 1:
        yield (*at, "events"), 'shape = "single" sends one event a request: leave it out'


def _defaults(file: ReceiverFile) -> Iterator[Problem]:
    limits = file.limits
    for key, most in (("batch_events", limits.events), ("batch_bytes", limits.bytes)):
        given = getattr(file.defaults, key)
        if given is not None and most is not None and given > most:
            yield ("defaults", key), f"the receiver takes at most {most}"
