"""Events of every vendor and of every shape, for what has to hold for all of them."""

import importlib
import json
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import cycle, product
from pathlib import Path
from typing import Any, get_args

import msgspec
import orjson
from hypothesis import strategies as st
from tests.conftest import make_event

from auditrelay.events import NOTHING, Actor, AuditEvent, Change, Outcome, Target
from auditrelay.events.classify import KINDS, VERBS
from auditrelay.events.marks import NOT_NORMALIZED
from auditrelay.events.normalize import Normalizer, available, vendor_named
from auditrelay.events.page import Page

GOLDEN = Path(__file__).parent.parent / "events" / "golden"
START = datetime(2026, 5, 11, 8, 15, 1, 990052, tzinfo=UTC)
RECORDS = 400
COPIES = 8
"""How often an event is on a page: each shape needs so many for a template."""


def _double(vendor: str) -> Any:
    return importlib.import_module(f"auditrelay.sandbox.vendors.{vendor}")


@cache
def events_of(vendor: str) -> tuple[AuditEvent, ...]:
    """Return the events of many records of *vendor*, as its double makes them and as recorded."""
    make_record = _double(vendor).make_record
    records = [
        orjson.dumps(make_record(number, START + timedelta(seconds=number / 3)))
        for number in range(RECORDS)
    ]
    records += [
        orjson.dumps(json.loads(path.read_bytes())["record"])
        for path in sorted((GOLDEN / vendor).iterdir())
    ]
    normalizer = Normalizer(
        vendor=vendor_named(vendor),
        source=f"acme-{vendor}",
        api_host=f"api.{vendor}.example",
        scope="acme",
        redact="default",
        tags={"team": "voice", "100%s": "%d %%"},
    )
    return tuple(normalizer([*records, b"[not, JSON]", b'"a text"'], 1_795_167_600_123_456))


def events_of_every_meaning() -> list[AuditEvent]:
    """Return events of every kind and verb, in turn with each outcome, bare and with everything."""
    full: dict[str, Any] = {
        "org_id": "o",
        "org_name": "Org",
        "project_id": "p",
        "project_name": "Project",
        "privilege": "viewer",
        "changes": (Change("role", '"member"', '"admin"'), Change("x")),
        "reason": "asked for",
        "time_raw": "yesterday",
        "unmapped": msgspec.Raw(b'{"a":1}'),
    }
    bare: dict[str, Any] = {"actor": Actor(), "target": Target(), "native_id": None}
    events = []
    outcomes = cycle((*get_args(Outcome), None, None))
    for number, (kind, verb) in enumerate(product(KINDS, VERBS)):
        meant: dict[str, Any] = {"kind": kind, "verb": verb, "outcome": next(outcomes)}
        who = {
            "actor": Actor("api_key", f"u{number}", f"Dana {number}", f"d{number}@x.example"),
            "target": Target("thing", f"t{number}", f"Thing {number}", f"s{number}@x.example"),
        }
        events += [
            make_event(number, **meant, **(bare | {"metadata": NOTHING})),
            make_event(number, **meant, **who, **full),
        ]
    return events


def pages_of_alike(events: list[AuditEvent], times: int = COPIES) -> list[Page]:
    """Return pages of *events* with enough of each shape for a template; each value differs."""
    return [
        Page.of([_other(event, number) for event in part for number in range(times)])
        for first in range(0, len(events), 100)
        for part in [events[first : first + 100]]
    ]


def _other(event: AuditEvent, number: int) -> AuditEvent:
    """Return an event of the same shape as *event* with other values."""

    def text(value: str | None) -> str | None:
        return f'%{number}"\u2028{value}' if value else value

    target, actor = event.target, event.actor
    return msgspec.structs.replace(
        event,
        uid=f"{number}{event.uid[1:]}",
        at=event.at + number * 1_000_001,
        message=f"{number}\n{event.message}",
        native_id=text(event.native_id),
        time_raw=text(event.time_raw),
        org_name=text(event.org_name),
        project_name=text(event.project_name),
        reason=text(event.reason),
        actor=msgspec.structs.replace(actor, user_agent=text(actor.user_agent)),
        target=msgspec.structs.replace(target, type=text(target.type)),
    )


# -- odd events

_ODD = (
    *("a", "%", "%s", "%%b", "%(uid)s", '"', "\\", '\\"', "\u2028", "\x00\x1f\x7f", "\n", "\t"),
    *("fünf ☃ \U0001f600", "dana@acme.example", "sam@x.example", "not@an address", "", " ", ","),
    *("admin", "Owner", "viewer", "null", "x" * 300, "203.0.113.7", "::1", "fe80::1%eth0"),
    *("0000:0000:0000:0000:0000:ffff:255.255.255.255", "\ufdd0uid\ufdd1", "{}", "</script>"),
)
texts = st.sampled_from(_ODD) | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_json = st.recursive(
    st.none() | st.integers(-(2**63), 2**63) | st.booleans() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
).map(lambda value: json.dumps(value, ensure_ascii=False).encode()) | st.sampled_from(
    (b'{\n "a" :\r\n 1}', b'{"k":' * 30 + b"1" + b"}" * 30, b'{"%b":1}' % (b"k" * 60), b'"%s"')
)
_raws = _json.map(msgspec.Raw)
_times = st.integers(-(10**15), 4 * 10**15) | st.sampled_from((0, 999_999, 1_000_000, -1))
_changes = st.lists(st.builds(Change, texts, st.none() | texts, st.none() | texts), max_size=2)
_warnings = st.lists(st.sampled_from((NOT_NORMALIZED, "heuristic_verb", "odd")), max_size=2)
_tags = st.lists(st.tuples(texts, texts), max_size=2, unique_by=lambda tag: tag[0])


def _values(missing: frozenset[str]) -> dict[str, st.SearchStrategy[Any]]:
    """Return how to make the values of an event, except for those that are *missing*."""

    def some(name: str) -> st.SearchStrategy[Any]:
        return st.none() if name in missing else texts

    def raw(name: str) -> st.SearchStrategy[Any]:
        return st.just(NOTHING) if name in missing else _raws

    return {
        "uid": st.text("0123456789abcdef", min_size=40, max_size=40),
        "at": _times,
        "fetched": _times,
        "message": texts,
        "actor": st.builds(
            Actor,
            st.sampled_from(("user", "api_key", "unknown")),
            *map(some, ("id", "name", "email", "ip", "user_agent", "native_type", "address")),
        ),
        "target": st.builds(Target, *map(some, ("t_type", "t_id", "t_name", "t_email"))),
        **{
            name: some(name)
            for name in (
                *("native_id", "time_raw", "org_id", "org_name", "project_id", "project_name"),
                *("privilege", "reason"),
            )
        },
        "changes": st.just(()) if "changes" in missing else _changes.map(tuple),
        "metadata": raw("metadata"),
        "unmapped": raw("unmapped"),
        "raw": _raws,
        "redacted": st.just(())
        if "redacted" in missing
        else st.lists(texts, max_size=2).map(tuple),
        "late_by_s": st.none() if "late_by_s" in missing else st.integers(0, 10**6),
    }


_OPTIONAL = sorted(
    {"id", "name", "email", "ip", "user_agent", "native_type", "t_type", "t_id", "t_name"}
    | {"t_email", "native_id", "time_raw", "org_id", "org_name", "project_id", "project_name"}
    | {"privilege", "reason", "changes", "metadata", "unmapped", "late_by_s", "redacted", "address"}
)


@st.composite
def odd_pages(draw: st.DrawFn) -> Page:
    """Make pages of events of a few sorts, with the same values or not, in ``COPIES``."""
    sorts = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "source": texts,
                    "product": texts,
                    "api_host": texts,
                    "native_action": texts,
                    "native_category": st.none() | texts,
                    "kind": st.sampled_from((*KINDS, "unheard of")),
                    "verb": st.sampled_from((*VERBS, "unheard of")),
                    "outcome": st.sampled_from((*get_args(Outcome), None)),
                    "warnings": _warnings.map(tuple),
                    "tags": _tags.map(tuple),
                    "backfill": st.booleans(),
                    "replayed": st.booleans(),
                    "notice": st.booleans(),
                }
            ),
            min_size=1,
            max_size=2,
        )
    )
    values = st.fixed_dictionaries(_values(draw(st.frozensets(st.sampled_from(_OPTIONAL)))))
    events = [
        make_event(number, **draw(values), **draw(st.sampled_from(sorts)))
        for number in range(draw(st.integers(8, 12)))
    ]
    return Page.of(events * COPIES)


VENDORS = sorted(vendor for vendor in available() if hasattr(_double(vendor), "make_record"))
