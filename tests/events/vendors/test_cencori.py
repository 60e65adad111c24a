"""Cencori's categories and actions, and the other fields of its records."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.cases import case

from auditrelay.events import NOTHING, Actor, AuditEvent, Target
from auditrelay.events.forms import cim, ecs

One = Callable[..., AuditEvent]

ROWS = json.loads((Path(__file__).parents[1] / "schema" / "cencori.json").read_bytes())
WORDS = [
    "created",
    "updated",
    "deleted",
    "revoked",
    "activated",
    "deactivated",
    "configured",
    "removed",
    "exported",
]
WORDS += [
    "invited",
    "joined",
    "left",
    "role_changed",
    "tier_changed",
    "topup",
    "enforced",
    "deployed",
    "reviewed",
]
CATEGORIES = [
    "project",
    "api_key",
    "agent",
    "member",
    "security",
    "billing",
    "provider",
    "webhook",
    "sso",
    "settings",
]
CATEGORIES += [
    "budget",
    "prompt",
    "cache",
    "integration",
    "memory",
    "export",
    "rate_plan",
    "end_user",
]


def row(category: object, action: object, **changes: object) -> dict[str, object]:
    return {
        "id": "b7e2",
        "organization_id": "4c1d",
        "category": category,
        "action": action,
        "created_at": "2026-04-13T09:21:07.123456+00:00",
        **changes,
    }


def test_the_table_has_every_listed_pair() -> None:
    assert len(ROWS) == 111
    assert {name.split(".")[0] for name, *_ in ROWS} == set(CATEGORIES)


@pytest.mark.parametrize("expected", ROWS, ids=lambda expected: expected[0])
def test_a_listed_pair_means_what_the_table_says(expected: list[Any], one: One) -> None:
    name, pair, categories, types, splunk, risks = expected
    # the table's member.role_changed is one that made an administrator
    metadata = {"after": {"role": "admin"}} if name == "member.role_changed" else None
    event = one(row(*name.split(".", 1), metadata=metadata), "cencori")
    assert (event.native_action, f"{event.kind}/{event.verb}") == (name, pair)
    assert (event.outcome, event.warnings) == ("success", ())
    document = ecs.render(event)
    assert document["event"]["category"] == categories
    assert sorted(document["event"]["type"]) == sorted(types)
    assert document["tags"] == ["auditrelay", *risks]
    found = cim.render(event)
    names = ("cim_model", "action", "change_type", "object_category")
    assert [found.get(name) for name in names] == splunk
    assert found.get("auditrelay_tags", []) == risks


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_action_of_every_category_is_mapped(
    category: str, one: One, valid_ecs: Callable[..., None]
) -> None:
    for action in WORDS:
        with case(action):
            event = one(row(category, action), "cencori")
            assert event.verb != "other"
            assert event.kind != "other"
            assert (event.outcome, event.warnings) == ("success", ())
            valid_ecs(ecs.render(event), "cencori")


@pytest.mark.parametrize(
    ("category", "action", "expected"),
    [
        # an unlisted pair: the kind of the category, the verb of the action
        ("project", "activated", ("project", "activate", "success", ())),
        ("member", "deleted", ("member", "delete", "success", ())),
        # an unlisted word is guessed, and never a success
        ("webhook", "secret_rotated",
         ("webhook", "rotate", "unknown", ("unknown_action", "heuristic_verb"))),
        ("sso", "login_denied", ("sso", "other", "failure", ("unknown_action",))),
        ("budget", "frobbed", ("budget", "other", "unknown", ("unknown_action",))),
        # an unlisted category
        ("pathway", "created", ("pathway", "create", "success", ("unknown_action",))),
        ("widget", "left", ("other", "leave", "success", ("unknown_action",))),
        ("widget", "purged",
         ("other", "delete", "unknown", ("unknown_action", "heuristic_verb"))),
        (None, "created", ("other", "create", "success", ("unknown_action",))),
        ("sso", None, ("sso", "other", "unknown", ("unknown_action",))),
        (None, None, ("other", "other", "unknown", ("unknown_action",))),
        (["x"], 7, ("other", "other", "unknown", ("unknown_action",))),
    ],
)  # fmt: skip
def test_unlisted_pairs_are_guessed_cautiously(
    category: object, action: object, expected: tuple[object, ...], one: One
) -> None:
    event = one(row(category, action), "cencori")
    assert (event.kind, event.verb, event.outcome, event.warnings) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"actor_type": "user", "actor_id": "u"}, "user"),
        ({"actor_type": "system"}, "system"),
        ({"actor_type": "api", "actor_email": "dana@acme.example"}, "api_key"),
        ({"actor_type": "webhook"}, "service"),
        ({"actor_type": "robot"}, "unknown"),
        ({"actor_email": "dana@acme.example"}, "user"),
        ({"actor_id": "u"}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_the_kind_of_actor_follows_from_its_type(
    fields: dict[str, str], expected: str, one: One
) -> None:
    event = one(row("project", "created", **fields), "cencori")
    assert event.actor.kind == expected
    assert event.actor.native_type == fields.get("actor_type")


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (
            {"before": {"a": 1, "b": 2, "gone": None}, "after": {"a": 1, "b": 3, "new": "x"}},
            [("b", "2", "3"), ("gone", None, None), ("new", None, '"x"')],
        ),
        ({"after": {"limit": 5}}, [("limit", None, "5")]),
        ({"before": {"limit": 5}, "after": None}, [("limit", "5", None)]),
        ({"field": "tier", "before": "pro", "after": "team"}, [("tier", '"pro"', '"team"')]),
        ({"before": [1], "after": {"a": 1}}, [("value", "[1]", '{"a":1}')]),
        ({"before": {"a": 1}, "after": {"a": 1}}, []),
        ({"key_name": "ci"}, []),
        ("before and after", []),
    ],
)
def test_before_and_after_are_changes(
    metadata: object, expected: list[tuple[str, str | None, str | None]], one: One
) -> None:
    event = one(row("settings", "updated", metadata=metadata), "cencori")
    assert [(each.field, each.before, each.after) for each in event.changes] == expected
    assert json.loads(bytes(event.metadata)) == metadata


@pytest.mark.parametrize(
    ("metadata", "role"),
    [
        ({"before": {"role": "member"}, "after": {"role": "owner"}}, "owner"),
        ({"old_role": "member", "new_role": "admin"}, "admin"),
        ({"role": "viewer"}, "viewer"),
        ({"after": {"role": ["admin"]}}, None),
        (None, None),
    ],
)
def test_the_new_role_is_the_privilege(metadata: object, role: str | None, one: One) -> None:
    assert one(row("member", "role_changed", metadata=metadata), "cencori").privilege == role
    assert one(row("member", "invited", metadata=metadata), "cencori").privilege is None


def test_the_member_acted_on_is_named_by_the_metadata(one: One) -> None:
    metadata = {"email": "sam@acme.example", "name": "Sam"}
    member = one(row("member", "invited", resource_id="m1", metadata=metadata), "cencori")
    assert (member.target.id, member.target.name) == ("m1", "Sam")
    assert member.target.email == "sam@acme.example"
    key = one(row("api_key", "created", metadata={"key_name": "ci", "email": "x@y"}), "cencori")
    assert (key.target.name, key.target.email) == ("ci", None)


def test_the_description_is_the_message_and_one_is_built_where_it_is_missing(one: One) -> None:
    text = "Created project (backfilled)"
    assert one(row("project", "created", description=text), "cencori").message == text
    built = one(row("project", "created", actor_email="d@x", resource_id="p1"), "cencori")
    assert built.message == "d@x project.created p1"
    assert one(row(None, None), "cencori").message == "unknown actor unknown"


def test_values_without_a_field_are_unmapped(one: One) -> None:
    event = one(row("project", "created", actor_ip=["10.0.0.1"], novel=1), "cencori")
    assert json.loads(bytes(event.unmapped)) == {"actor_ip": ["10.0.0.1"], "novel": 1}


# --- rows of a CSV export


def csv_row(**changes: object) -> dict[str, object]:
    return {
        "Timestamp": "2026-11-20T09:31:07.412Z",
        "Category": "member",
        "Action": "role_changed",
        "Resource Type": "member",
        "Resource ID": "m1",
        "Project ID": "p1",
        "Actor": "dana@acme.example",
        "IP Address": "203.0.113.7",
        "Description": "Changed role",
        "Metadata": '{"before":{"role":"member"},"after":{"role":"admin"},'
        '"email":"sam@acme.example"}',
        **changes,
    }


def of_csv(one: One, **changes: object) -> AuditEvent:
    return one(csv_row(**changes), "cencori", time_path=["created_at", "Timestamp"])


def test_a_row_of_csv_and_of_json_become_the_same_event(one: One) -> None:
    event = of_csv(one)
    assert (event.native_action, event.kind, event.verb) == (
        "member.role_changed", "member", "role_change"
    )  # fmt: skip
    assert (event.at, event.time_quality) == (1_795_167_067_412_000, "source")
    assert (event.actor.kind, event.actor.email, event.actor.ip) == (
        "user", "dana@acme.example", "203.0.113.7"
    )  # fmt: skip
    assert (event.target.type, event.target.id, event.target.email) == (
        "member", "m1", "sam@acme.example"
    )  # fmt: skip
    assert (event.project_id, event.privilege, event.message) == ("p1", "admin", "Changed role")
    assert [(each.field, each.before, each.after) for each in event.changes] == [
        ("role", '"member"', '"admin"')
    ]
    assert (event.native_id, event.warnings, event.unmapped) == (None, ("no_id",), NOTHING)
    assert event.org_id == "configured-org"


def test_a_dash_is_a_missing_value(one: One) -> None:
    row = dict.fromkeys(csv_row(), "-") | {"Timestamp": "2026-11-20T09:31:07.412Z"}
    event = of_csv(one, **row)
    assert (event.native_action, event.actor, event.target) == ("unknown", Actor(), Target())
    assert event.metadata == NOTHING
    assert event.project_id is None


@pytest.mark.parametrize(
    ("actor", "kind", "email"),
    [
        ("dana@acme.example", "user", "dana@acme.example"),
        ("user", "user", None),
        ("api", "api_key", None),
        ("webhook", "service", None),
        ("system", "system", None),
        ("System", "system", None),
        ("robot", "unknown", None),
        (7, "unknown", None),
        (None, "unknown", None),
    ],
)
def test_the_actor_is_one_column(actor: object, kind: str, email: str | None, one: One) -> None:
    event = of_csv(one, Actor=actor)
    assert (event.actor.kind, event.actor.email) == (kind, email)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a":[1,{"b":null}]}', {"a": [1, {"b": None}]}),
        ("not json", "not json"),
        ("5", 5),
        ("", ""),
        ('{"a":NaN}', {"a": "NaN"}),
        ("[" * 9000, "[" * 9000),
    ],
)
def test_metadata_in_a_text_are_read(text: str, expected: object, one: One) -> None:
    assert json.loads(bytes(of_csv(one, Metadata=text).metadata)) == expected


@pytest.mark.parametrize("value", [[1], {"a": 1}, 1.5, True])
@pytest.mark.parametrize("column", ["Category", "Actor", "Metadata", "Twin", "Description"])
def test_a_column_of_another_type_is_unmapped(column: str, value: object, one: One) -> None:
    assert json.loads(bytes(of_csv(one, **{column: value}).unmapped)) == {column: value}


def test_twins_and_organisations_have_separate_uids(one: One) -> None:
    plain = of_csv(one).uid
    assert of_csv(one).uid == plain
    others = {of_csv(one, Twin=1).uid, of_csv(one, Twin=2).uid, of_csv(one, Description="x").uid}
    other_scope = one(csv_row(), "cencori", scope="other").uid
    assert len({plain, other_scope, *others}) == 5
