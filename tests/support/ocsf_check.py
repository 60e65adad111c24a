"""
A validator of OCSF events, built from the published schema (``schema/ocsf.json``).

It knows the classes, objects and profiles that we use, and nothing of the code that it checks.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCHEMA: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "events" / "schema" / "ocsf.json").read_bytes()
)
_PLAIN: dict[str, type] = {
    "boolean_t": bool,
    "float_t": float,
    "integer_t": int,
    "long_t": int,
    "port_t": int,
    "timestamp_t": int,
}
"""Types that are no strings."""


def faults(event: dict[str, Any]) -> list[str]:
    """Return what is wrong with *event*: a sentence for each fault."""
    its = SCHEMA["classes"].get(str(event.get("class_uid")))
    if its is None:
        return [f"class_uid: {event.get('class_uid')!r} is no class that we use"]
    metadata = event.get("metadata")
    profiles = metadata.get("profiles", []) if isinstance(metadata, dict) else []
    found = [
        f"metadata.profiles: the class has no profile {p}"
        for p in profiles
        if p not in its["profiles"]
    ]
    found += _object("", event, its, profiles)
    if event.get("type_uid") != event["class_uid"] * 100 + event.get("activity_id", 0):
        found.append("type_uid: is not class_uid * 100 + activity_id")
    found += _type_name(event, its)
    if isinstance(metadata, dict) and metadata.get("version") != SCHEMA["version"]:
        found.append(f"metadata.version: is not {SCHEMA['version']}")
    return found + list(_observables(event))


def _object(
    path: str, value: dict[str, Any], its: dict[str, Any], profiles: list[str]
) -> list[str]:
    found = []
    attributes = its["attributes"]
    for name, attribute in attributes.items():
        if attribute.get("required") and name not in value and _is_on(attribute, profiles):
            found.append(f"{path}{name}: is required")
    for kind, names in its.get("constraints", {}).items():
        there = sum(name in value for name in names)
        if there == 0 or (kind == "just_one" and there > 1):
            found.append(f"{path}: {kind} of {', '.join(names)}")
    for name, item in value.items():
        attribute = attributes.get(name)
        if attribute is None:
            found.append(f"{path}{name}: is unknown")
        else:
            found += _attribute(f"{path}{name}", item, attribute, profiles)
            found += _sibling(path, name, value, attribute)
    return found


def _is_on(attribute: dict[str, Any], profiles: list[str]) -> bool:
    return attribute.get("profile") in (None, *profiles)


def _attribute(path: str, value: Any, attribute: dict[str, Any], profiles: list[str]) -> list[str]:
    if not _is_on(attribute, profiles):
        return [f"{path}: needs the profile {attribute['profile']}"]
    if "deprecated" in attribute:
        return [f"{path}: is deprecated since {attribute['deprecated']}"]
    if attribute.get("array", False) != isinstance(value, list):
        return [f"{path}: must {'be' if attribute.get('array') else 'not be'} an array"]
    if value == []:
        return [f"{path}: is empty"]
    found = []
    for item in value if isinstance(value, list) else [value]:
        if attribute.get("object"):
            found += _nested(path, item, attribute, profiles)
        else:
            found += _scalar(path, item, attribute["type"])
            if "enum" in attribute and str(item) not in attribute["enum"]:
                found.append(f"{path}: {item!r} is not in the enum")
    return found


def _nested(path: str, value: Any, attribute: dict[str, Any], profiles: list[str]) -> list[str]:
    if not isinstance(value, dict):
        return [f"{path}: must be an object"]
    if attribute["type"] == "object":  # free-form
        return []
    if not value:
        return [f"{path}: is empty"]
    if attribute.get("elsewhere"):
        return [f"{path}: is of a type that the reduced schema leaves out"]
    return _object(f"{path}.", value, SCHEMA["objects"][attribute["type"]], profiles)


def _scalar(path: str, value: Any, kind: str) -> list[str]:
    if kind == "json_t":
        return []
    if kind in _PLAIN:
        right = type(value) is _PLAIN[kind]  # True is not 1
        return [] if right else [f"{path}: must be of type {_PLAIN[kind].__name__}"]
    if not isinstance(value, str) or not value:
        return [f"{path}: must be a string, and not empty"]
    rule = SCHEMA["types"][kind]
    if re.search(rule.get("regex", ""), value) is None:
        return [f"{path}: {value!r} is not {kind}"]
    return [f"{path}: is too long"] if len(value) > rule.get("max_len", len(value)) else []


def _sibling(path: str, name: str, value: dict[str, Any], attribute: dict[str, Any]) -> list[str]:
    sibling = attribute.get("sibling")
    if sibling is None or "enum" not in attribute:
        return []
    caption = attribute["enum"].get(str(value[name]))
    text = value.get(sibling)
    if value[name] == 99:
        if text is None or text == caption:
            return [f"{path}{sibling}: must say what {name} 99 stands for"]
    elif text is not None and text != caption and ":" not in str(caption):
        # with a colon it is an observable of an attribute, which tools name differently
        return [f"{path}{sibling}: is {text!r}, not {caption!r}"]
    return []


def _type_name(event: dict[str, Any], its: dict[str, Any]) -> Iterator[str]:
    name = its["attributes"]["class_uid"]["enum"][str(event["class_uid"])]
    activity = its["attributes"]["activity_id"]["enum"].get(str(event.get("activity_id")))
    if event.get("type_name", f"{name}: {activity}") != f"{name}: {activity}":
        yield f"type_name: is not {name}: {activity}"


def _observables(event: dict[str, Any]) -> Iterator[str]:
    for observable in event.get("observables", []):
        name, value = observable.get("name", ""), observable.get("value")
        if not isinstance(value, str):
            yield f"observables: {name} has a value that is no string"
        elif _at(event, name) != value:
            yield f"observables: {name} is not in the event with this value"


def _at(event: Any, name: str) -> Any:
    for part in re.findall(r"[^.\[\]]+", name):
        try:
            event = event[int(part)] if isinstance(event, list) else event[part]
        except (KeyError, IndexError, ValueError):
            return None
    return event
