"""S-Launch's records: fields read by settings, and no guesses."""

from collections.abc import Callable
from typing import Any

import pytest

from auditrelay.events import AuditEvent
from auditrelay.events.normalize import Normalizer

One = Callable[..., AuditEvent]
WHEN = "2026-06-02T10:11:12.345000"
AT = 1_780_395_072_345_000
BOTH = {"id_path": ["id", "_id"], "time_path": ["timestamp", "created"]}


@pytest.mark.parametrize(
    ("action", "kind", "verb"),
    [
        ("sign-in", "session", "login"),
        ("permission change", "permission", "permission_change"),
        ("scope-set edit", "scope_set", "update"),
        ("API-key creation", "api_key", "create"),
        ("audit entry deletion", "audit_log", "delete"),
    ],
)
@pytest.mark.parametrize("field", ["action", "event", "event_type", "operation"])
def test_a_documented_operation_has_a_meaning_and_an_unknown_outcome(
    one: One, field: str, action: str, kind: str, verb: str
) -> None:
    event = one({"id": "1", "timestamp": WHEN, field: action}, "slaunch")
    assert (event.native_action, event.kind, event.verb) == (action, kind, verb)
    assert (event.outcome, event.warnings) == ("unknown", ())
    assert event.message == f"S-Launch: {action}"


@pytest.mark.parametrize(
    "action", ["Sign-In", "sign-in ", "auth.login", "api_key.created", "audit entry deletion: 7"]
)
def test_a_word_that_is_not_exactly_one_of_them_is_never_guessed(one: One, action: str) -> None:
    event = one({"id": "1", "timestamp": WHEN, "event": action}, "slaunch")
    assert event.native_action == action
    assert (event.kind, event.verb, event.outcome) == ("other", "other", "unknown")
    assert event.warnings == ("unknown_action",)


@pytest.mark.parametrize("word", [None, "", 7, ["sign-in"], {"name": "sign-in"}])
def test_a_value_that_is_not_a_text_is_no_action(one: One, word: object) -> None:
    event = one({"id": "1", "timestamp": WHEN, "action": word, "event": "sign-in"}, "slaunch")
    assert (event.native_action, event.verb) == ("sign-in", "login")
    event = one({"id": "1", "timestamp": WHEN, "action": word}, "slaunch")
    assert (event.native_action, event.warnings) == ("unknown", ("unknown_action",))


def test_everything_but_id_and_time_is_forwarded_unchanged(one: One) -> None:
    record = {"id": "1", "timestamp": WHEN, "event": "x", "user": {"a": [1]}, "ip": None}
    event = one(record, "slaunch")
    assert bytes(event.unmapped) == b'{"event":"x","user":{"a":[1]},"ip":null}'
    assert (event.actor.kind, event.actor.id, event.actor.ip) == ("unknown", None, None)


def test_the_organisation_is_the_configured_tenant(one: One) -> None:
    record = {"id": "1", "org_id": "elsewhere", "organization_id": "elsewhere"}
    event = one(record, "slaunch", scope="acme")
    assert event.org_id == "acme"
    assert event.uid != one(record, "slaunch", scope="beta").uid
    assert one(record, "slaunch", scope="").org_id is None


@pytest.mark.parametrize(
    ("zone", "quality"), [("Z", "source"), ("+00:00", "source"), ("", "assumed_utc")]
)
@pytest.mark.parametrize("field", ["timestamp", "created"])
def test_a_time_is_read_with_and_without_a_zone(
    one: One, zone: str, quality: str, field: str
) -> None:
    event = one({"id": "1", field: WHEN + zone}, "slaunch", **BOTH)
    assert (event.at, event.time_quality, event.time_raw) == (AT, quality, WHEN + zone)


@pytest.mark.parametrize(
    ("record", "native_id"),
    [
        ({"id": "1", "_id": "2"}, "1"),
        ({"_id": "2"}, "2"),
        ({"id": None, "_id": "2"}, "2"),
        ({"id": "", "_id": "2"}, "2"),
        ({"id": 0, "_id": "2"}, "0"),
        ({}, None),
        ({"id": ["1"], "_id": "2"}, None),
    ],
)
def test_the_id_is_the_first_of_its_paths_with_a_value(
    one: One, record: dict[str, Any], native_id: str | None
) -> None:
    event = one({**record, "timestamp": WHEN}, "slaunch", **BOTH)
    assert event.native_id == native_id
    assert ("no_id" in event.warnings) == (native_id is None)


def test_id_and_time_may_be_inside_other_objects(one: One) -> None:
    paths = {"id_path": ["_id.$oid"], "time_path": ["meta.at.utc", "meta.at"]}
    record = {"_id": {"$oid": "a1"}, "meta": {"at": {"utc": WHEN}}}
    event = one(record, "slaunch", **paths)
    assert (event.native_id, event.at, event.warnings) == ("a1", AT, ("unknown_action",))
    event = one({"_id": "a1", "meta": {"at": WHEN}}, "slaunch", **paths)
    assert (event.native_id, event.at) == (None, AT)
    strange: list[object] = [None, 7, "at", ["at"], {"at": None}, {"at": {"utc": {}}}]
    for meta in strange:
        event = one({"_id": {"$oid": "a1"}, "meta": meta}, "slaunch", **paths)
        assert event.time_quality == "fetched"


def test_the_path_of_the_id_does_not_change_the_identity(one: One) -> None:
    plain = one({"id": "a1", "timestamp": WHEN}, "slaunch")
    nested = one({"_id": {"$oid": "a1"}, "timestamp": WHEN}, "slaunch", id_path=["_id.$oid"])
    assert plain.uid == nested.uid


def test_an_id_inside_a_secret_identifies_the_event_and_is_not_shown(one: One) -> None:
    paths = {"id_path": ["token.id"], "time_path": ["token.at"]}
    record = {"token": {"id": "hush", "at": WHEN, "value": "x"}}
    event = one(record, "slaunch", **paths)
    assert (event.at, event.native_id, event.time_raw) == (AT, None, None)
    assert bytes(event.raw) == b'{"token":"[redacted]"}'
    assert event.uid == one({"token": {"id": "hush"}}, "slaunch", **paths).uid


def test_records_without_an_id_are_distinguished_by_their_whole_content(
    normalizer: Callable[..., Normalizer], fetched: int
) -> None:
    one, other = b'{"timestamp":"2026-06-02T10:11:12Z"}', b'{"timestamp":"2026-06-02T10:11:13Z"}'
    events = normalizer("slaunch", **BOTH)([one, one, other], fetched)
    assert len({event.uid for event in events}) == 3
    again = normalizer("slaunch", **BOTH)([other, one, one], fetched + 1)
    assert {event.uid for event in again} == {event.uid for event in events}
