"""
How events are written as log records, in either encoding of OTLP.

A record is written without its resource. Those of one resource, which is the source, stand together
in a request. The field numbers are those of opentelemetry/proto/logs/v1/logs.proto; in JSON times
are texts and severities numbers, as the specification of OTLP has it
(https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding).
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, Final, NamedTuple, Protocol

import orjson

from auditrelay.events import Actor
from auditrelay.events.page import Page, Sort
from auditrelay.sinks._requests import dump
from auditrelay.sinks.otlp.wire import field, text, varint

SCOPE: Final = "auditrelay"
UID: Final = "auditrelay.uid"

_INFO: Final = 9, "INFO"
_WARN: Final = 13, "WARN"
_MAX_NAME: Final = 256
"""Characters of the name of an event."""
_ENVIRONMENTS: Final = (
    "deployment.environment.name",
    "deployment.environment",
    "environment",
    "env",
)
"""The labels of a source that name its environment; the first that it has counts."""
_LATEST: Final = 2**64
"""The first time, in nanoseconds since 1970, that has no place in a record."""


class _Shared(NamedTuple):
    """What the records of all events of one sort have in common, as it is written."""

    resource: bytes
    head: bytes


class Encoding(Protocol):
    """One of the two ways to write a request."""

    media_type: str
    """The content type of its requests and answers."""
    overhead: int
    """Bytes that each record adds to a request beyond its own."""
    empty: bytes
    """A request without records."""
    broken: bytes
    """What is no request."""

    def records(self, page: Page, bodies: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """
        Yield the record of each event of *page*, and its resource.

        *bodies* are the events in the form that is sent.
        """

    def pieces(self, records: Mapping[bytes, Sequence[bytes]]) -> list[bytes]:
        """Return the request with *records*, by their resource, in pieces."""


def grouped(pairs: Sequence[tuple[bytes, bytes]]) -> dict[bytes, list[bytes]]:
    """Return the records of *pairs* by their resource, which is the first of each pair."""
    groups: dict[bytes, list[bytes]] = {}
    for resource, record in pairs:
        groups.setdefault(resource, []).append(record)
    return groups


def _resource(sort: Sort) -> dict[str, str]:
    """Return the attributes of what an event of *sort* is from."""
    attributes = {"service.name": sort.product, "auditrelay.source": sort.source}
    tags = dict(sort.tags)
    environment = next((tags[name] for name in _ENVIRONMENTS if name in tags), None)
    if environment is not None:
        attributes["deployment.environment.name"] = environment
    return attributes


def _name(sort: Sort) -> str:
    return f"audit.{sort.vendor}.{sort.native_action}"[:_MAX_NAME]


def _severity(sort: Sort) -> tuple[int, str]:
    return _WARN if sort.outcome == "failure" else _INFO


def _of_actor(actor: Actor) -> dict[str, str]:
    """Return what attributes say of *actor*."""
    values = {
        "user.id": actor.id,
        "user.name": actor.name,
        "user.email": actor.email,
        "client.address": actor.ip,
        "user_agent.original": actor.user_agent,
    }
    return {name: value for name, value in values.items() if value}


def _nanoseconds(micros: int) -> int:
    """Return *micros* in nanoseconds; 0, which stands for an unknown time, if they do not fit."""
    nanos = micros * 1000
    return nanos if 0 <= nanos < _LATEST else 0


# -- protobuf


_TIMES: Final = struct.Struct("<BQBQ")
_TIME: Final = 1 << 3 | 1
_OBSERVED: Final = 11 << 3 | 1
_SEVERITY: Final = 2 << 3
_RECORD: Final = b"\x12"
"""The tag of the field 2 of ``ScopeLogs``."""
_STRING: Final = b"\x0a"
"""The tag of the field 1 of ``AnyValue``."""
_SCOPE: Final = field(1, field(1, text(SCOPE)))


def _attribute(number: int, name: str, value: str) -> bytes:
    """Return the attribute *name* as the field *number* of what has it."""
    return field(number, field(1, text(name)) + field(2, field(1, text(value))))


class Protobuf:
    """Protobuf, which every receiver of OTLP reads."""

    media_type = "application/x-protobuf"
    overhead = 0
    empty = field(1, b"")
    broken = b"\xff"

    def records(self, page: Page, bodies: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """See :class:`Encoding`; a record begins with its own tag and length."""
        sorts = list(map(_protobuf_of_sort, page.sorts))
        for sort, at, fetched, uid, actor, body in zip(
            page.sort, page.at, page.fetched, page.uid, page.actor, bodies, strict=True
        ):
            resource, head = sorts[sort]
            times = _TIMES.pack(_TIME, _nanoseconds(at), _OBSERVED, _nanoseconds(fetched))
            start = b"".join(
                (
                    times,
                    head,
                    _uid_head(len(uid)),
                    uid.encode(),
                    _protobuf_of_actor(actor),
                    _body_head(len(body)),
                )
            )
            yield b"".join((_RECORD, varint(len(start) + len(body)), start, body)), resource

    def pieces(self, records: Mapping[bytes, Sequence[bytes]]) -> list[bytes]:
        """See :class:`Encoding`."""
        pieces = []
        for resource, group in records.items():
            size = len(_SCOPE) + sum(map(len, group))
            head = field(1, resource) + varint(2 << 3 | 2) + varint(size)
            pieces.append(_STRING + varint(len(head) + size) + head + _SCOPE)
            pieces += group
        return pieces


@cache
def _uid_head(size: int) -> bytes:
    """Return what stands before a uid of *size* bytes."""
    return _attribute(6, UID, "x" * size)[:-size]


@lru_cache(maxsize=16384)
def _body_head(size: int) -> bytes:
    """Return what stands before a body of *size* bytes."""
    value = _STRING + varint(size)
    return varint(5 << 3 | 2) + varint(len(value) + size) + value


def _protobuf_of_sort(sort: Sort) -> _Shared:
    number, severity = _severity(sort)
    return _Shared(
        b"".join(_attribute(1, *each) for each in _resource(sort).items()),
        varint(_SEVERITY)
        + varint(number)
        + field(3, text(severity))
        + field(12, text(_name(sort))),
    )


@lru_cache(maxsize=4096)
def _protobuf_of_actor(actor: Actor) -> bytes:
    return b"".join(_attribute(6, *each) for each in _of_actor(actor).items())


# -- JSON


_JSON_RECORD: Final = (
    b'{"timeUnixNano":"%d","observedTimeUnixNano":"%d",%b,"attributes":[%b%b],'
    b'"body":{"stringValue":%b}}'
)


class Json:
    """JSON, for receivers that read nothing else, and for people who read along."""

    media_type = "application/json"
    overhead = 1
    empty = b"{}"
    broken = b"{"

    def records(self, page: Page, bodies: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """See :class:`Encoding`."""
        sorts = list(map(_json_of_sort, page.sorts))
        for sort, at, fetched, uid, actor, body in zip(
            page.sort, page.at, page.fetched, page.uid, page.actor, bodies, strict=True
        ):
            resource, head = sorts[sort]
            record = (
                b'{"timeUnixNano":"%d","observedTimeUnixNano":"%d",%b,"attributes":[%b%b],%b}'
                % (
                    _nanoseconds(at),
                    _nanoseconds(fetched),
                    head,
                    dump(_json_attribute(UID, uid)),
                    _json_of_actor(actor),
                    b'"body":{"stringValue":%b}' % orjson.dumps(body.decode()),
                )
            )
            yield record, resource

    def pieces(self, records: Mapping[bytes, Sequence[bytes]]) -> list[bytes]:
        """See :class:`Encoding`."""
        start, pieces = b'{"resourceLogs":[', []
        for resource, group in records.items():
            pieces.append(
                b'%b{"resource":%b,"scopeLogs":[{"scope":{"name":"%b"},"logRecords":['
                % (start, resource, SCOPE.encode())
            )
            pieces += [b",".join(group), b"]}]}"]
            start = b","
        return [*pieces, b"]}"]


def _json_of_sort(sort: Sort) -> _Shared:
    number, severity = _severity(sort)
    head = {"severityNumber": number, "severityText": severity, "eventName": _name(sort)}
    return _Shared(dump({"attributes": _listed(_resource(sort))}), dump(head)[1:-1])


@lru_cache(maxsize=4096)
def _json_of_actor(actor: Actor) -> bytes:
    """Return the attributes that name *actor*, each after a comma."""
    return b"".join(b"," + dump(each) for each in _listed(_of_actor(actor)))


def _json_attribute(name: str, value: str) -> dict[str, Any]:
    return {"key": name, "value": {"stringValue": value}}


def _listed(attributes: Mapping[str, str]) -> list[dict[str, Any]]:
    return [_json_attribute(*each) for each in attributes.items()]


ENCODINGS: Final[Mapping[str, Encoding]] = {"protobuf": Protobuf(), "json": Json()}
"""The encodings by their names in the configuration."""
