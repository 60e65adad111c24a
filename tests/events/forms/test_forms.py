"""What every form guarantees to its SIEM."""

import json
from collections.abc import Callable
from itertools import product
from typing import Any, get_args

import msgspec
import orjson
import pytest

from auditrelay.events import Actor, AuditEvent, Change, Outcome, Target
from auditrelay.events.classify import KINDS, VERBS
from auditrelay.events.forms import FORMS, asim, cim, datadog, ecs, ocsf

Written = Callable[[AuditEvent], dict[str, bytes]]
replace = msgspec.structs.replace
EVERYTHING: dict[str, Any] = {
    "actor": Actor("user", "u1", "Dana", "dana@x.example", "203.0.113.7", "curl/8", "oidc"),
    "target": Target("thing", "t1", "Thing", "sam@x.example"),
    "org_id": "o",
    "org_name": "Org",
    "project_id": "p",
    "project_name": "Project",
    "privilege": "admin",
    "changes": (Change("role", '"member"', '"admin"'),),
    "reason": "asked for",
    "native_category": "cat",
}


@pytest.fixture
def event(one: Callable[..., AuditEvent]) -> AuditEvent:
    return one(
        {
            "id": "1",
            "org_id": "o",
            "event_type": "pathway.published",
            "created_at": "2026-05-11T08:15:01.990052Z",
            "metadata": {"a": {"b": 1}},
        }
    )


def test_every_kind_verb_and_outcome_is_valid_ecs_and_cim_and_asim(
    event: AuditEvent,
    valid_ecs: Callable[[dict[str, Any], str], None],
    valid_cim: Callable[[dict[str, Any]], None],
    valid_asim: Callable[[dict[str, Any]], None],
) -> None:
    outcomes = (*get_args(Outcome), None)
    for kind, verb, outcome in product(KINDS, VERBS, outcomes):
        for fields in ({}, EVERYTHING):
            changed = replace(event, kind=kind, verb=verb, outcome=outcome, **fields)
            document = json.loads(orjson.dumps(ecs.render(changed)))
            valid_ecs(document, "bland")
            found = json.loads(orjson.dumps(cim.render(changed)))
            valid_cim(found)
            assert outcome != "unknown" or "status" not in found
            assert all(isinstance(value, str) for value in cim.indexed(changed).values())
            orjson.dumps(datadog.render(changed))
            valid_asim(json.loads(orjson.dumps(asim.render(changed))))


def test_the_uid_is_in_every_form_in_the_field_of_its_product(event: AuditEvent) -> None:
    assert ecs.render(event)["auditrelay"]["uid"] == event.uid
    assert cim.render(event)["event_id"] == event.uid
    assert cim.indexed(event)["event_id"] == event.uid
    assert datadog.render(event)["evt"]["id"] == event.uid
    assert ocsf.render(event)["metadata"]["uid"] == event.uid
    assert asim.render(event)["EventUid"] == event.uid
    assert FORMS["raw"](event)["auditrelay"]["uid"] == event.uid


@pytest.mark.parametrize("form", FORMS)
def test_markers_are_present_only_when_true(form: str, event: AuditEvent) -> None:
    def own(*args: Any, **marks: Any) -> dict[str, Any]:
        found = FORMS[form](*args, **marks)
        words: dict[str, Any] = found.get("unmapped", found.get("AdditionalFields", found))[
            "auditrelay"
        ]
        return words

    names = {"late_by_s", "backfill", "replayed", "restamped"}
    assert not names & own(event).keys()
    marked = own(
        replace(event, late_by_s=0, backfill=True), marks={"replayed": True, "restamped": 5}
    )
    assert {name: marked[name] for name in names} == {
        "late_by_s": 0,
        "backfill": True,
        "replayed": True,
        "restamped": 5,
    }


@pytest.mark.parametrize("form", FORMS)
def test_nothing_empty_is_sent(form: str, one: Callable[..., AuditEvent]) -> None:
    def check(node: object, path: str) -> None:
        assert node not in (None, "", [], {}), path
        if isinstance(node, dict):
            for key, value in node.items():
                check(value, f"{path}.{key}")

    rendered = json.loads(orjson.dumps(FORMS[form](one({"id": "1"}, tags={}, api_host=""))))
    check(rendered, form)


def test_a_raw_record_over_several_lines_is_sent_on_one(
    one: Callable[..., AuditEvent], written: Written
) -> None:
    text = b'{\n\t"id": "1",\r\n "metadata": {"text": "a\\nb"}\n}'
    event = one(text)
    assert bytes(event.raw) == text
    for form in written(event).values():
        assert b"\\n" in form


def test_a_changed_account_is_the_user_and_the_actor_is_the_src_user(
    event: AuditEvent,
) -> None:
    changed = cim.render(replace(event, kind="member", verb="role_change", **EVERYTHING))
    assert (changed["user"], changed["src_user"]) == ("sam@x.example", "dana@x.example")
    assert changed["object_attrs"] == ["role"]
    other = cim.render(replace(event, kind="agent", verb="update", **EVERYTHING))
    assert other["user"] == "dana@x.example"
    assert "src_user" not in other
    unknown = replace(event, kind="user", verb="delete", actor=EVERYTHING["actor"])
    assert "user" not in cim.render(unknown)


def test_a_credential_is_of_the_person_whose_account_is_changed(event: AuditEvent) -> None:
    removed = replace(event, kind="credential", verb="delete", **EVERYTHING)
    found = cim.render(removed)
    assert (found["action"], found["object_category"]) == ("modified", "user")
    assert (found["user"], found["src_user"]) == ("sam@x.example", "dana@x.example")
    document = ecs.render(removed)
    assert document["event"]["type"][:2] == ["user", "change"]
    assert document["user"]["target"]["email"] == "sam@x.example"


@pytest.mark.parametrize("verb", ["member_add", "member_remove"])
def test_a_group_is_the_target_or_the_privilege_of_the_person(verb: str, event: AuditEvent) -> None:
    group = Target("group", "g1", "Admins")
    to_group = replace(event, kind="group", verb=verb, target=group)
    assert ecs.render(to_group)["group"] == {"id": "g1", "name": "Admins"}
    assert cim.render(to_group)["object"] == "Admins"
    person = {**EVERYTHING, "changes": (), "privilege": "Admins"}
    of_person = replace(event, kind="user", verb=verb, **person)
    document = ecs.render(of_person)
    assert document["group"] == {"name": "Admins"}
    assert document["user"]["target"]["id"] == "t1"
    assert "changes" not in document["user"]
    assert document["event"]["type"] == ["user", "group", "change"]
    found = cim.render(of_person)
    assert (found["user"], found["object_attrs"]) == ("sam@x.example", ["group"])


def test_who_acts_as_another_is_the_user_and_the_other_is_effective(event: AuditEvent) -> None:
    acting = replace(event, kind="session", verb="impersonate", outcome="success", **EVERYTHING)
    document = ecs.render(acting)
    assert (document["user"]["id"], document["user"]["effective"]["id"]) == ("u1", "t1")
    assert "target" not in document["user"]
    assert {"dana@x.example", "sam@x.example"} <= set(document["related"]["user"])
    assert document["tags"] == ["auditrelay", "impersonation"]
    found = cim.render(acting)
    assert (found["cim_model"], found["action"]) == ("Authentication", "success")
    assert (found["user"], found["src_user"]) == ("sam@x.example", "dana@x.example")
    assert (found["user_id"], found["src_user_type"]) == ("t1", "user")
    assert "user_type" not in found
    unknown = cim.render(replace(acting, target=Target(type="thing")))
    assert unknown["user"] == "dana@x.example"
    assert "src_user" not in unknown


def test_what_failed_is_not_tagged_as_a_change(event: AuditEvent) -> None:
    changed = replace(event, kind="sso", verb="disable", outcome="success")
    failed = replace(changed, outcome="failure")
    assert ecs.render(changed)["tags"] == ["auditrelay", "sso_change"]
    assert ecs.render(failed)["tags"] == ["auditrelay"]
    assert cim.render(changed)["auditrelay_tags"] == ["sso_change"]
    assert "auditrelay_tags" not in cim.render(failed)
    assert "risk:sso_change" in datadog.render(changed)["ddtags"]
    assert "risk:" not in datadog.render(failed)["ddtags"]
    assert ocsf.render(changed)["metadata"]["labels"] == ["sso_change"]
    assert "labels" not in ocsf.render(failed)["metadata"]
    deleted = replace(failed, kind="audit_log", verb="delete")
    assert ecs.render(deleted)["tags"] == ["auditrelay", "audit_tamper"]


def test_a_failed_sign_in_is_a_failure_whatever_the_outcome(event: AuditEvent) -> None:
    failed = replace(event, kind="session", verb="login_failed", outcome="unknown")
    assert cim.render(failed)["action"] == "failure"
    assert "action" not in cim.render(replace(failed, verb="login"))
    assert cim.render(replace(failed, verb="login", outcome="success"))["action"] == "success"


def test_the_vendors_record_comes_last_for_splunk(event: AuditEvent) -> None:
    assert list(cim.render(event, marks={"replayed": True}))[-1] == "vendor"


def test_a_new_administrator_is_an_admin_event(event: AuditEvent) -> None:
    changed = replace(event, kind="member", verb="role_change", privilege="Owner")
    assert ecs.render(changed)["event"]["type"] == ["user", "change", "admin"]
    changed = replace(changed, privilege="viewer")
    assert ecs.render(changed)["event"]["type"] == ["user", "change"]
    assert ecs.render(changed)["user"]["changes"] == {"roles": ["viewer"]}


@pytest.mark.parametrize(
    ("ip", "valid"),
    [("203.0.113.7", True), ("2001:db8::1", True), ("fe80::1%eth0", False), ("unknown", False)],
)
def test_only_a_real_address_stands_in_a_field_of_type_ip(
    ip: str, valid: bool, event: AuditEvent
) -> None:
    document = ecs.render(replace(event, actor=Actor("user", "u", ip=ip)))
    assert document["source"]["address"] == ip
    assert ("ip" in document["source"]) == ("ip" in document["related"]) == valid


@pytest.mark.parametrize(
    "metadata", [{"a": "x" * 40_000}, json.loads('{"a":' * 25 + "1" + "}" * 25)]
)
def test_details_that_a_flattened_field_refuses_stand_in_the_original_alone(
    metadata: object, one: Callable[..., AuditEvent]
) -> None:
    event = one({"id": "1", "metadata": metadata, "novel": metadata})
    document = json.loads(orjson.dumps(ecs.render(event)))
    assert list(document["bland"]["audit"]["metadata"]) == ["omitted"]
    assert list(document["auditrelay"]["unmapped"]) == ["omitted"]
    assert json.loads(document["event"]["original"])["metadata"] == metadata


def depth(node: object) -> int:
    if isinstance(node, dict):
        return 1 + max(map(depth, node.values()), default=0)
    if isinstance(node, list):
        return 1 + max(map(depth, node), default=0)
    return 0


def attributes(node: object) -> int:
    if isinstance(node, dict):
        return sum(map(attributes, node.values()))
    return 1


@pytest.mark.parametrize(
    ("metadata", "as_text"),
    [
        ({"a": {"b": {"c": {"d": {"e": 1}}}}}, False),
        ({"a": {"b": {"c": {"d": {"e": {"f": 1}}}}}}, False),
        ({"a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}}, True),
        ([[[[[[[[[["x"]]]]]]]]]], True),
        ([{"a": {"b": 1}} for _ in range(30)], False),
        ({"k" * 49: 1}, False),
        ({"k" * 50: 1}, True),
        ({"k": "v" * 500}, False),
        ({"brackets": "[[[[[[[[[[[[{{{{{{{{{{{"}, False),
        ({f"key{number}": number for number in range(250)}, True),
    ],
)
def test_a_record_beyond_datadogs_limits_is_sent_as_text(
    metadata: object, as_text: bool, one: Callable[..., AuditEvent]
) -> None:
    event = one({"id": "1", "metadata": metadata})
    log = json.loads(orjson.dumps(datadog.render(event)))
    record = log["vendor"]["bland"]
    assert isinstance(record, str) == as_text
    assert (json.loads(record) if as_text else record)["metadata"] == metadata
    assert depth(log) < 10
    assert attributes(log) < 256


def test_datadog_tags_cannot_be_broken_by_what_is_in_them(one: Callable[..., AuditEvent]) -> None:
    tags = {"team": "voice, admin:true", "long": "x" * 300, "line": "a\nb"}
    log = datadog.render(one({"id": "1", "org_id": "o,risk:audit_tamper"}, tags=tags))
    found = log["ddtags"].split(",")
    assert "org_id:o_risk:audit_tamper" in found
    assert "risk:audit_tamper" not in found
    assert "team:voice_admin:true" in found
    assert "line:a_b" in found
    assert max(map(len, found)) <= 200
    many = one({"id": "1"}, tags={f"k{number}": "v" for number in range(150)})
    assert len(datadog.render(many)["ddtags"].split(",")) == 100


def test_an_acting_api_key_has_the_type_api_key(event: AuditEvent) -> None:
    acted = replace(event, actor=Actor("api_key", name="ci"))
    assert ecs.render(acted)["user"] == {"name": "ci"}
    assert ecs.render(acted)["labels"]["actor_type"] == "api_key"
    assert cim.render(acted)["user_type"] == "api_key"
    assert datadog.render(acted)["usr"] == {"name": "ci", "type": "api_key"}


def test_an_actor_known_by_email_only_has_it_as_id_too(event: AuditEvent) -> None:
    document = ecs.render(replace(event, actor=Actor("user", email="d@x")))
    assert document["user"] == {"id": "d@x", "name": "d@x", "email": "d@x"}
    assert document["related"]["user"] == ["d@x"]


def test_events_from_the_spool_and_fresh_ones_render_alike(
    event: AuditEvent, written: Written
) -> None:
    from auditrelay.events import pack, unpack  # noqa: PLC0415

    assert written(unpack(pack([event]))[0]) == written(event)


@pytest.mark.parametrize(
    ("kind", "verb", "schema", "event_type"),
    [
        ("session", "login", "Authentication", "Logon"),
        ("session", "login_failed", "Authentication", "Logon"),
        ("session", "logout", "Authentication", "Logoff"),
        ("session", "impersonate", "Authentication", "Elevate"),
        ("user", "impersonate", "Authentication", "Elevate"),
        ("session", "revoke", "AuditEvent", "Delete"),
        ("agent", "login", "AuditEvent", "Other"),
        ("agent", "create", "AuditEvent", "Create"),
        ("agent", "update", "AuditEvent", "Set"),
        ("agent", "export", "AuditEvent", "Read"),
        ("agent", "execute", "AuditEvent", "Execute"),
        ("user", "block", "AuditEvent", "Disable"),
        ("user", "unblock", "AuditEvent", "Enable"),
        ("credential", "delete", "AuditEvent", "Set"),
        ("unheard of", "unheard of", "AuditEvent", "Other"),
    ],
)
def test_what_sentinel_calls_an_event(
    event: AuditEvent, kind: str, verb: str, schema: str, event_type: str
) -> None:
    row = asim.render(replace(event, kind=kind, verb=verb))
    assert (row["EventSchema"], row["EventType"]) == (schema, event_type)
    assert ("Operation" in row) == (schema == "AuditEvent")


def test_who_signs_in_is_sentinels_target_and_who_acts_as_another_its_actor(
    event: AuditEvent,
) -> None:
    signed_in = asim.render(replace(event, kind="session", verb="login", **EVERYTHING))
    assert (signed_in["TargetUsername"], signed_in["TargetUsernameType"]) == (
        "dana@x.example",
        "UPN",
    )
    assert "ActorUsername" not in signed_in
    failed = asim.render(replace(event, kind="session", verb="login_failed", **EVERYTHING))
    assert (failed["EventResult"], failed["EventResultDetails"]) == ("Failure", "Other")
    acting = asim.render(replace(event, kind="session", verb="impersonate", **EVERYTHING))
    assert (acting["ActorUsername"], acting["TargetUsername"]) == (
        "dana@x.example",
        "sam@x.example",
    )
    assert acting["TargetUserId"] == "t1"


def test_an_object_of_sentinel_is_known_by_the_best_name_there_is(event: AuditEvent) -> None:
    names = Target("thing", "t1", "Thing", "sam@x.example")
    for target, name in (
        (names, "Thing"),
        (replace(names, name=None), "sam@x.example"),
        (replace(names, name=None, email=None), "t1"),
        (Target("thing"), "thing"),
        (Target(), "agent"),
    ):
        assert asim.render(replace(event, kind="agent", target=target))["Object"] == name
    policy = asim.render(replace(event, kind="security_policy"))
    assert policy["ObjectType"] == "Policy Rule"
    assert asim.render(replace(event, kind="agent"))["ObjectType"] == "Configuration Atom"
    assert asim.render(replace(event, kind="user"))["ObjectType"] == "Other"


@pytest.mark.parametrize(
    ("outcome", "result"),
    [("success", "Success"), ("failure", "Failure"), ("unknown", "NA"), (None, "NA")],
)
def test_a_result_that_is_not_known_is_none_for_sentinel(
    event: AuditEvent, outcome: Outcome | None, result: str
) -> None:
    assert asim.render(replace(event, outcome=outcome))["EventResult"] == result


@pytest.mark.parametrize(
    ("ip", "column"),
    [("203.0.113.7", True), ("::1", True), ("fe80::1%eth0", False), ("a proxy", False)],
)
def test_an_address_that_is_none_has_no_column_in_sentinel(
    event: AuditEvent, ip: str, *, column: bool
) -> None:
    row = asim.render(replace(event, actor=Actor("user", "u", ip=ip)))
    assert row.get("SrcIpAddr") == (ip if column else None)
    assert row["AdditionalFields"].get("src_address") == (None if column else ip)
