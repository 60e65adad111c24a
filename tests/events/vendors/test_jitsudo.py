"""How JITSudo's records are interpreted."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest

from auditrelay.events import AuditEvent
from auditrelay.events.classify import MEANINGS

One = Callable[..., AuditEvent]

NEVER_GUESSED = {"user", "member", "end_user", "group", "session"}
GUESSED = ("unknown_action", "heuristic_verb")


@pytest.fixture
def read(one: One) -> Callable[..., AuditEvent]:
    def read(**record: Any) -> AuditEvent:
        return one({"id": "7c0b-01", "created_at": "2026-04-15T12:00:00Z", **record}, "jitsudo")

    return read


@pytest.mark.parametrize(
    ("action", "resource", "kind", "verb", "warnings"),
    [
        ("request.pending", "access_request", "other", "other", ()),
        ("grant.active", "grant", "permission", "activate", ()),
        ("grant.active", None, "permission", "activate", ()),
        # the resource's type has precedence over the resource in the action
        ("request.revoke", "grant", "permission", "revoke", GUESSED),
        ("policy.updated", "policy", "security_policy", "update", GUESSED),
        ("policy.updated", None, "security_policy", "update", GUESSED),
        ("policy_rule.created", "policy_rule", "security_policy", "create", GUESSED),
        # a resource of that name is not a verb
        ("grant.expire", "grant", "permission", "revoke", GUESSED),
        ("grant.teleport", "grant", "permission", "other", ("unknown_action",)),
        # at the last dot
        ("tenant.api_key.created", None, "api_key", "create", GUESSED),
        ("v1.created.teleport", None, "other", "other", ("unknown_action",)),
        # without a dot it is all verb
        ("updated", "policy", "security_policy", "update", GUESSED),
        ("policy_updated", None, "other", "update", GUESSED),
        ("policy.", None, "security_policy", "other", ("unknown_action",)),
        (".", None, "other", "other", ("unknown_action",)),
        ("", None, "other", "other", ("unknown_action",)),
        (None, None, "other", "other", ("unknown_action",)),
        # known by their exact spelling only
        ("Grant.Active", None, "other", "other", ("unknown_action",)),
        ("grant.active ", "grant", "permission", "other", ("unknown_action",)),
    ],
)
def test_only_the_last_part_of_an_action_is_a_verb(
    *,
    read: Callable[..., AuditEvent],
    action: str | None,
    resource: str | None,
    kind: str,
    verb: str,
    warnings: tuple[str, ...],
) -> None:
    event = read(action=action, resource_type=resource)
    assert (event.kind, event.verb, event.warnings) == (kind, verb, warnings)
    assert event.native_action == (action or "unknown")
    assert event.outcome == "unknown"


@pytest.mark.parametrize("action", ["request.denied", "grant.activate_failed", "unauthorized"])
def test_only_a_word_for_failure_sets_the_outcome(
    read: Callable[..., AuditEvent], action: str
) -> None:
    assert read(action=action).outcome == "failure"
    assert read(action=f"{action}.viewed").outcome == "unknown"


def test_no_guess_is_an_account_a_group_or_a_sign_in(
    read: Callable[..., AuditEvent],
) -> None:
    things = ("user", "users", "member", "group", "session", "user_group", "account", "login")
    verbs = ("created", "deleted", "added", "login", "logged_in", "joined", "removed", "granted")
    for thing, verb in product(things, verbs):
        for event in (read(action=f"{thing}.{verb}"), read(action=verb, resource_type=thing)):
            meaning = MEANINGS[event.kind, event.verb]
            assert event.kind not in NEVER_GUESSED
            assert event.verb not in ("login", "login_failed", "logout", "join", "leave")
            assert meaning.cim_model != "Authentication"
            assert event.outcome == "unknown"


@pytest.mark.parametrize(
    ("actor_type", "kind"),
    [("oidc", "user"), ("api_key", "api_key"), ("system", "system"), ("robot", "unknown")],
)
def test_the_native_type_of_an_actor_is_kept(
    read: Callable[..., AuditEvent], actor_type: str, kind: str
) -> None:
    event = read(actor_id="a-1", actor_type=actor_type, action="grant.active")
    assert (event.actor.kind, event.actor.id) == (kind, "a-1")
    assert event.actor.native_type == actor_type
    assert read(actor_type=actor_type).actor.native_type == actor_type


@pytest.mark.parametrize(
    ("metadata", "ip"),
    [
        ({"ip": "203.0.113.7"}, "203.0.113.7"),
        ({"ip_address": "2001:db8::7"}, "2001:db8::7"),
        ({"ip": "unknown", "ip_address": "203.0.113.7"}, "203.0.113.7"),
        ({"ip": "203.0.113.7:4711"}, "203.0.113.7"),
        ({"ip": 3_405_803_783}, None),
        ({"ip": ["203.0.113.7"]}, None),
        ({}, None),
        (None, None),
        ("203.0.113.7", None),
        ([{"ip": "203.0.113.7"}], None),
    ],
)
def test_only_an_ip_address_is_taken_for_one(
    read: Callable[..., AuditEvent], metadata: Any, ip: str | None
) -> None:
    event = read(actor_id="a-1", action="grant.active", metadata=metadata)
    assert event.actor.ip == ip


@pytest.mark.parametrize(
    ("metadata", "changes"),
    [
        ({"before": {"a": 1, "b": 2}, "after": {"a": 1, "b": 3}}, [("b", "2", "3")]),
        ({"before": {"a": None}, "after": {"b": None}}, [("a", None, None), ("b", None, None)]),
        ({"after": {"a": {"x": [1]}}}, [("a", None, '{"x":[1]}')]),
        ({"before": {"a": 1}, "after": None}, [("a", "1", None)]),
        ({"before": "2026-01-01", "after": {"a": 1}}, []),
        ({"before": 1, "after": 2}, []),
        ({"before": {}, "after": {}}, []),
    ],
)
def test_changes_are_taken_from_before_and_after(
    read: Callable[..., AuditEvent],
    metadata: dict[str, Any],
    changes: list[tuple[str, str | None, str | None]],
) -> None:
    event = read(action="policy.updated", metadata=metadata)
    assert [(each.field, each.before, each.after) for each in event.changes] == changes


@pytest.mark.parametrize("reasoning", ["because", None, "", 7, ["because"]])
def test_the_reasoning_is_the_reason(read: Callable[..., AuditEvent], reasoning: Any) -> None:
    event = read(action="grant.active", reasoning=reasoning)
    assert event.reason == {"because": "because", "7": "7"}.get(str(reasoning))
    assert (b"reasoning" in bytes(event.unmapped)) is isinstance(reasoning, list)


@pytest.mark.parametrize("digits", range(10))
def test_a_time_of_any_precision_is_read_and_never_rounded_up(
    read: Callable[..., AuditEvent], digits: int
) -> None:
    fraction = "999999999"[:digits]
    written = f"2026-04-15T12:00:00{'.' if digits else ''}{fraction}Z"
    event = read(action="grant.active", created_at=written)
    assert event.at == 1_776_254_400_000_000 + int(fraction[:6].ljust(6, "0"))
    assert (event.time_raw, event.time_quality) == (written, "source")


def test_the_same_id_in_two_tenants_is_two_events(one: One) -> None:
    record = {"id": "7c0b-01", "action": "grant.active", "created_at": "2026-04-15T12:00:00Z"}
    first, second = (one(record, "jitsudo", scope=scope) for scope in ("tenant-1", "tenant-2"))
    assert first.uid != second.uid
    assert (first.org_id, second.org_id) == ("tenant-1", "tenant-2")
    assert one({**record, "tenant_id": "elsewhere"}, "jitsudo", scope="tenant-1").uid == first.uid


@pytest.mark.parametrize("odd", [None, 7, 7.5, True, [], {}, "", [{}], "\u0000", "x" * 9000])
def test_a_record_is_parsed_whatever_its_fields(one: One, odd: Any) -> None:
    fields = (
        "actor_id",
        "actor_type",
        "action",
        "resource_type",
        "resource_id",
        "metadata",
        "reasoning",
        "created_at",
    )
    for field in fields:
        event = one({"id": "7c0b-01", "action": "grant.active", field: odd}, "jitsudo")
        assert event.native_id == "7c0b-01"
        assert "not_normalized" not in event.warnings
    assert one(dict.fromkeys(fields, odd), "jitsudo").message
