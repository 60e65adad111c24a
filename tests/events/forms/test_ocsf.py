"""Every event is valid OCSF, to a validator of our own and to another's."""

import json
from collections.abc import Callable
from functools import cache
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any, get_args

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.events.conftest import FETCHED, make_normalizer
from tests.support.extent import some_of
from tests.support.ocsf_check import faults

from auditrelay.events import Actor, ActorKind, AuditEvent, Change, Outcome, Target
from auditrelay.events.classify import KINDS, VERBS
from auditrelay.events.forms import ocsf
from auditrelay.events.forms.ocsf_classes import EXCEPTIONS

replace, astuple = msgspec.structs.replace, msgspec.structs.astuple
CASES = sorted((Path(__file__).parents[1] / "golden").glob("*/*.json"))
MODELS = {
    0: "BaseEvent",
    1008: "EventLogActvity",  # the schema's own misspelling
    3001: "AccountChange",
    3002: "Authentication",
    3004: "EntityManagement",
    3005: "UserAccess",
    3006: "GroupManagement",
    6001: "WebResourcesActivity",
}
"""What pydantic-ocsf calls the classes."""
IAM_OF_PEOPLE = {3001, 3002, 3005, 3006}
DANA = Actor("user", "u1", "Dana", "dana@x.example", "203.0.113.7", "curl/8", "oidc")
SAM = Target("thing", "t1", "Sam", "sam@x.example")
WORDS: dict[str, Any] = {
    "org_id": "o",
    "org_name": "Org",
    "project_id": "p",
    "project_name": "Project",
    "privilege": "admin",
    "changes": (Change("role", '"member"', '"admin"'),),
    "reason": "asked for",
    "native_category": "cat",
}
FIELDS: list[dict[str, Any]] = [
    {},
    {"actor": DANA, "target": SAM, **WORDS},
    {"actor": DANA},
    {"target": SAM},
    {"target": SAM, "privilege": "admin"},
    {"target": Target(type="thing"), "org_name": "Org", "org_id": None},
    {"target": Target(email="not an address"), "actor": Actor(email="not an address")},
    {"target": Target(name="n", email="no address"), "actor": Actor(ip="unknown", user_agent="x")},
    {
        "org_id": None,
        "native_id": None,
        "time_raw": None,
        "api_host": "",
        "tags": (),
        "metadata": msgspec.Raw(b'["no object"]'),
    },
]


def rendered(event: AuditEvent) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(orjson.dumps(ocsf.render(event)))
    return document


@pytest.fixture(scope="module")
def event() -> AuditEvent:
    record = {
        "id": "1",
        "org_id": "o",
        "event_type": "pathway.published",
        "created_at": "2026-05-11T08:15:01.990052Z",
        "metadata": {"a": {"b": 1}},
        "novel": [None],
    }
    [one] = make_normalizer()([orjson.dumps(record)], FETCHED)
    return one


@cache
def models() -> dict[int, Any]:
    """Return the models of pydantic-ocsf, which are whole only after all have been asked for."""
    version = import_module("ocsf.v1_7_0")
    found = {class_uid: getattr(version.events, name) for class_uid, name in MODELS.items()}
    version.rebuild_all()
    return found


def second_opinion(document: dict[str, Any]) -> None:
    """
    Have pydantic-ocsf read *document*.

    It knows OCSF up to 1.7, which has every attribute that we use; the version alone is changed.
    It checks enums, siblings and uids, but neither constraints nor unknown attributes.
    """
    document = document | {"metadata": document["metadata"] | {"version": "1.7.0"}}
    models()[document["class_uid"]].model_validate(document)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_verb_and_outcome_is_valid_whatever_is_missing(
    kind: str, event: AuditEvent
) -> None:
    every = list(product(VERBS, (*get_args(Outcome), None), FIELDS))
    # Other ones for each kind, so that all of them are tried with some.
    for verb, outcome, fields in some_of(every, 4, first=list(KINDS).index(kind) % 4):
        document = rendered(replace(event, kind=kind, verb=verb, outcome=outcome, **fields))
        assert faults(document) == [], (kind, verb, outcome, fields)


@pytest.mark.parametrize("kind", KINDS)
def test_another_validator_agrees(kind: str, event: AuditEvent) -> None:
    for verb, fields in product(VERBS, FIELDS):
        second_opinion(rendered(replace(event, kind=kind, verb=verb, **fields)))


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_golden_events_are_valid(path: Path) -> None:
    document = json.loads(path.read_bytes())["ocsf"]
    assert faults(document) == []
    second_opinion(document)


TEXT = st.text(max_size=20)
MAYBE = st.none() | TEXT
ACTORS = st.builds(
    Actor,
    kind=st.sampled_from(get_args(ActorKind)),
    id=MAYBE,
    name=MAYBE,
    email=MAYBE | st.emails(),
    ip=MAYBE | st.ip_addresses().map(str),
    user_agent=MAYBE,
    native_type=MAYBE,
)
TARGETS = st.builds(Target, type=MAYBE, id=MAYBE, name=MAYBE, email=MAYBE | st.emails())


@settings(deadline=None)  # pydantic-ocsf builds its models when they are first used
@given(
    kind=st.sampled_from([*KINDS, "unheard of"]),
    verb=st.sampled_from([*VERBS, "unheard of"]),
    warnings=st.sampled_from([(), ("heuristic_verb",), ("not_normalized",)]),
    actor=ACTORS,
    target=TARGETS,
    at=st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999),
    names=st.fixed_dictionaries(
        dict.fromkeys(
            ("org_id", "org_name", "project_id", "project_name", "privilege", "reason"), MAYBE
        )
    ),
)
def test_any_event_is_valid(
    event: AuditEvent,
    kind: str,
    verb: str,
    warnings: tuple[str, ...],
    actor: Actor,
    target: Target,
    at: int,
    names: dict[str, str | None],
) -> None:
    some = replace(
        event, kind=kind, verb=verb, warnings=warnings, actor=actor, target=target, at=at, **names
    )
    document = rendered(some)
    assert faults(document) == []
    second_opinion(document)


# --- contents --------------------------------------------------------------------


def test_a_class_is_chosen_only_if_the_event_has_what_it_requires(event: AuditEvent) -> None:
    for kind, verb in EXCEPTIONS:
        bare = replace(event, kind=kind, verb=verb, org_id=None)
        full = replace(bare, actor=DANA, target=SAM, **WORDS)
        assert rendered(full)["class_uid"] == EXCEPTIONS[kind, verb][0]
        if EXCEPTIONS[kind, verb][0] in IAM_OF_PEOPLE:
            assert rendered(bare)["class_uid"] == 3004


@pytest.mark.parametrize(
    ("kind", "verb", "type_name"),
    [
        ("user", "update", "Account Change: Other"),
        ("user", "delete", "Account Change: Delete"),
        ("end_user", "block", "Account Change: Disable"),
        ("session", "logout", "Authentication: Logoff"),
        ("member", "leave", "Group Management: Remove User"),
        ("member", "invite", "Entity Management: Enroll"),
        ("group", "member_add", "Group Management: Add User"),
        ("user", "member_remove", "Group Management: Remove User"),
        ("repository", "member_add", "Entity Management: Update"),
        ("session", "impersonate", "Authentication: Account Switch"),
        ("credential", "delete", "Account Change: Other"),
        ("credential", "read", "Entity Management: Read"),
        ("secret", "export", "Entity Management: Other"),
        ("document", "export", "Web Resources Activity: Export"),
        ("device", "create", "Entity Management: Create"),
        ("group", "create", "Group Management: Create"),
        ("export", "export", "Web Resources Activity: Export"),
        ("audit_log", "delete", "Event Log Activity: Delete"),
        ("pathway", "publish", "Entity Management: Activate"),
        ("api_key", "revoke", "Entity Management: Delete"),
    ],
)
def test_an_activity_has_its_name_in_ocsf(
    kind: str, verb: str, type_name: str, event: AuditEvent
) -> None:
    full = replace(event, kind=kind, verb=verb, actor=DANA, target=SAM, **WORDS)
    assert rendered(full)["type_name"] == type_name


def test_a_guessed_verb_is_never_about_a_person(event: AuditEvent) -> None:
    for kind, verb in EXCEPTIONS:
        guessed = replace(
            event, kind=kind, verb=verb, warnings=("unknown_action", "heuristic_verb"), target=SAM
        )
        assert rendered(replace(guessed, actor=DANA, **WORDS))["class_uid"] == 3004


def test_an_activity_unknown_to_ocsf_has_the_vendors_name(event: AuditEvent) -> None:
    document = rendered(replace(event, verb="execute", native_action="run_scenarios"))
    assert (document["activity_id"], document["activity_name"]) == (99, "run_scenarios")
    assert document["type_name"] == "Entity Management: Other"


def test_risks_are_labels_and_leave_the_severity_alone(event: AuditEvent) -> None:
    document = rendered(replace(event, kind="audit_log", verb="delete"))
    assert document["metadata"]["labels"] == ["audit_tamper"]
    assert (document["severity_id"], document["severity"]) == (1, "Informational")


def test_the_time_is_in_milliseconds_without_loss(event: AuditEvent) -> None:
    document = rendered(event)
    assert document["time"] == 1_778_487_301_990
    assert document["time_dt"] == "2026-05-11T08:15:01.990052Z"
    assert document["metadata"]["original_time"] == "2026-05-11T08:15:01.990052Z"


def test_a_failed_sign_in_is_a_failure_of_the_user(event: AuditEvent) -> None:
    document = rendered(
        replace(event, kind="session", verb="login_failed", actor=DANA, outcome="unknown")
    )
    assert (document["class_uid"], document["status"]) == (3002, "Failure")
    assert document["user"]["email_addr"] == "dana@x.example"


def test_a_new_role_is_a_privilege_of_the_member(event: AuditEvent) -> None:
    document = rendered(
        replace(event, kind="member", verb="role_change", actor=DANA, target=SAM, **WORDS)
    )
    assert document["class_uid"] == 3005
    assert document["privileges"] == ["admin"]
    assert document["user"]["email_addr"] == "sam@x.example"
    assert document["actor"]["user"]["email_addr"] == "dana@x.example"


def test_a_joining_member_is_added_to_the_organisation(event: AuditEvent) -> None:
    document = rendered(replace(event, kind="member", verb="join", target=SAM, **WORDS))
    assert document["group"] == {"uid": "o", "name": "Org"}
    assert document["user"]["uid"] == "t1"


def test_a_member_of_a_group_is_added_to_the_group_that_is_named(event: AuditEvent) -> None:
    person = replace(
        event, kind="user", verb="member_add", target=SAM, **WORDS | {"privilege": "Admins"}
    )
    document = rendered(person)
    assert (document["class_uid"], document["group"]) == (3006, {"name": "Admins"})
    assert document["user"]["uid"] == "t1"
    assert "privilege" not in document["unmapped"]
    assert rendered(replace(person, privilege=None))["class_uid"] == 3004
    to_group = rendered(replace(person, kind="group", target=Target("group", "g1", "Admins")))
    assert to_group["group"] == {"uid": "g1", "name": "Admins"}
    assert "user" not in to_group


def test_who_acts_as_another_switches_to_that_account(event: AuditEvent) -> None:
    acting = replace(event, kind="session", verb="impersonate", actor=DANA, target=SAM)
    document = rendered(acting)
    assert (document["account_switch_type_id"], document["user"]["uid"]) == (2, "t1")
    assert document["actor"]["user"]["uid"] == "u1"
    assert "target" not in document["unmapped"]
    values = {each["value"] for each in document["observables"]}
    assert {"dana@x.example", "sam@x.example"} <= values
    assert rendered(replace(acting, target=Target()))["class_uid"] == 3004


def test_a_deleted_credential_is_no_deleted_user(event: AuditEvent) -> None:
    removed = replace(event, kind="credential", verb="delete", native_action="mfa.reset")
    known = rendered(replace(removed, target=SAM))
    assert (known["type_uid"], known["activity_name"]) == (300199, "mfa.reset")
    assert known["user"]["uid"] == "t1"
    guessed = rendered(replace(removed, target=SAM, warnings=("heuristic_verb",)))
    assert (guessed["entity"]["type"], guessed["entity"]["user"]["uid"]) == ("credential", "t1")


def test_a_device_is_an_entity_of_that_type(event: AuditEvent) -> None:
    entity = rendered(replace(event, kind="device", target=Target("node", "n1", "laptop")))[
        "entity"
    ]
    assert entity == {"uid": "n1", "name": "laptop", "type_id": 1, "type": "Device"}


def test_an_api_key_is_a_service_with_its_credential(event: AuditEvent) -> None:
    user = rendered(replace(event, actor=Actor("api_key", name="ci")))["actor"]["user"]
    assert (user["type"], user["name"]) == ("Service", "ci")
    assert user["programmatic_credentials"] == [{"uid": "ci", "type": "API Key"}]


def test_the_actor_of_an_export_needs_the_profile_host(event: AuditEvent) -> None:
    document = rendered(replace(event, kind="export", verb="export", actor=DANA))
    assert document["class_uid"] == 6001
    assert document["metadata"]["profiles"] == ["datetime", "host"]


def test_no_value_of_an_event_gets_lost(event: AuditEvent) -> None:
    for kind, verb in product(KINDS, VERBS):
        full = replace(event, kind=kind, verb=verb, actor=DANA, target=SAM, **WORDS)
        document = rendered(full)
        del document["raw_data"], document["message"]
        text = json.dumps(document)
        values = [*astuple(DANA)[1:], *astuple(SAM), *WORDS.values()]
        for value in [value for value in values if isinstance(value, str)]:
            assert json.dumps(value) in text, (kind, verb, value)
        assert '"field": "role"' in text


def test_a_record_that_is_not_an_object_is_a_base_event(
    one: Callable[..., AuditEvent],
) -> None:
    document = rendered(one(b"not json"))
    assert faults(document) == []
    assert (document["class_uid"], document["type_uid"], document["category_uid"]) == (0, 99, 0)
    assert json.loads(document["raw_data"]) == "not json"
    assert document["unmapped"]["auditrelay"]["warnings"][0] == "not_normalized"


def test_rendering_one_event_changes_no_other(event: AuditEvent) -> None:
    first = replace(event, kind="user", verb="create", actor=DANA, target=SAM)
    before = rendered(first)
    rendered(replace(first, target=Target(id="other"), actor=replace(DANA, ip="198.51.100.1")))
    rendered(replace(first, kind="export", verb="export"))
    assert rendered(first) == before


# --- the validator finds faults ----------------------------------------------


def _drop(*names: str) -> Callable[[dict[str, Any]], None]:
    def fault(document: dict[str, Any]) -> None:
        for name in names[:-1]:
            document = document[name]
        del document[names[-1]]

    return fault


def _set(value: Any, *names: Any) -> Callable[[dict[str, Any]], None]:
    def fault(document: dict[str, Any]) -> None:
        for name in names[:-1]:
            document = document[name]
        document[names[-1]] = value

    return fault


@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        (_drop("user"), "user: is required"),
        (_drop("time"), "time: is required"),
        (_drop("privileges"), "privileges: is required"),
        (_set([], "privileges"), "privileges: is empty"),
        (_set("admin", "privileges"), "privileges: must be an array"),
        (_set(77, "activity_id"), "activity_id: 77 is not in the enum"),
        (_set(3005, "type_uid"), "type_uid: is not class_uid * 100 + activity_id"),
        (_set(6, "category_uid"), "category_uid: 6 is not in the enum"),
        (_set(4, "class_uid"), "class_uid: 4 is no class that we use"),
        (_set("1778487301990", "time"), "time: must be of type int"),
        (_set(1.5, "time"), "time: must be of type int"),
        (_set(1, "colour"), "colour: is unknown"),
        (_set(1, "actor", "user", "colour"), "actor.user.colour: is unknown"),
        (_set({}, "actor"), "actor: is empty"),
        (_set({"authorizations": []}, "actor"), "actor.: at_least_one of process, user"),
        (_set("dana at x", "actor", "user", "email_addr"), "'dana at x' is not email_t"),
        (_set("999.1.1.1", "src_endpoint", "ip"), "'999.1.1.1' is not ip_t"),
        (_set(["203.0.113.7"], "src_endpoint", "ip"), "src_endpoint.ip: must not be an array"),
        (_set("k", "actor", "user", "credential_uid"), "credential_uid: is deprecated since 1.6"),
        (_set({"uid": "r"}, "resource"), "resource: is deprecated since 1.5"),
        (_drop("metadata", "product"), "metadata.product: is required"),
        (_set({}, "metadata", "product"), "metadata.product: is empty"),
        (_set({"version": "1"}, "metadata", "product"), "metadata.product.: at_least_one of name"),
        (_drop("metadata", "version"), "metadata.version: is required"),
        (_set("1.7.0", "metadata", "version"), "metadata.version: is not 1.8.0"),
        (_drop("metadata", "profiles"), "time_dt: needs the profile datetime"),
        (_set(["vpn"], "metadata", "profiles"), "the class has no profile vpn"),
        (_set("Failure", "status"), "status: is 'Failure', not 'Success'"),
        (_set("Bad", "severity"), "severity: is 'Bad', not 'Informational'"),
        (_set("Odd: Update", "type_name"), "type_name: is not User Access Management: Assign"),
        (_set(99, "activity_id"), "type_uid: is not"),
        (_set(7, "observables", 0, "value"), "observables: actor.user.name has a value that is no"),
        (_set("x", "observables", 0, "value"), "actor.user.name is not in the event with this"),
        (_set("Port", "observables", 0, "type"), "observables.type: is 'Port', not 'User Name'"),
        (_drop("raw_data_hash", "value"), "raw_data_hash.value: is required"),
    ],
)
def test_the_validator_finds_a_planted_fault(
    plant: Callable[[Any], None], expected: str, event: AuditEvent
) -> None:
    document = rendered(
        replace(event, kind="member", verb="role_change", actor=DANA, target=SAM, **WORDS)
    )
    assert faults(document) == []
    plant(document)
    assert any(expected in fault for fault in faults(document)), faults(document)


def test_the_other_validator_finds_a_planted_fault(event: AuditEvent) -> None:
    document = rendered(event)
    second_opinion(document)
    for fault in ({"type_uid": 3001}, {"status": "Failure"}, {"activity_id": 77}, {"time": None}):
        with pytest.raises(ValidationError):
            second_opinion(document | fault)


def test_the_validator_requires_the_name_of_other_and_the_profile_of_an_actor(
    event: AuditEvent,
) -> None:
    document = rendered(replace(event, verb="execute"))
    for name in ("Other", None):
        fault = document | {"activity_name": name}
        if name is None:
            del fault["activity_name"]
        assert "activity_name: must say what activity_id 99 stands for" in faults(fault)
    document = rendered(replace(event, kind="export", verb="export", actor=DANA))
    document["metadata"]["profiles"] = ["datetime"]
    assert faults(document) == ["actor: needs the profile host"]
    document = rendered(replace(event, kind="session", verb="login", actor=DANA))
    del document["service"]
    assert faults(document) == [": at_least_one of service, dst_endpoint"]
