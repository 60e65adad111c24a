"""From a record to an event by the tables of a description."""

import json
from collections.abc import Callable
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.events.test_gate import details, spelled, with_care
from tests.events.test_normalize import check_everywhere, values
from tests.support import scripted
from tests.support.cases import case
from tests.support.described import HEAD, described, feed, normalizer
from tests.support.extent import extent

from auditrelay.clock import Clock
from auditrelay.descriptions import FOLDER, shipped
from auditrelay.descriptions.load import named
from auditrelay.descriptions.places import find, parse_path
from auditrelay.descriptions.vendor import vendor_of
from auditrelay.events import NOTHING, Actor, AuditEvent, Change, Target
from auditrelay.events.careful import CarefulReader
from auditrelay.events.pseudonyms import Pseudonyms, pseudonym
from auditrelay.events.vendors import MAX_TEXT_LENGTH, Vendor
from auditrelay.supervisor.sources import make_source
from auditrelay.telemetry.metrics import Metrics

AT = "2026-11-20T09:31:07Z"


def event_of(text: str, record: dict[str, Any], **changes: Any) -> AuditEvent:
    """Return the event of a *record* with an id and a time, by the tables of *text*."""
    line = orjson.dumps({"id": "1", "at": AT} | record)
    normalize = normalizer(described(text), **changes)
    [event] = normalize([line], 5)
    assert [event] == with_care(normalize, [line])
    return event


def event(text: str, **record: Any) -> AuditEvent:
    return event_of(text, record)


# -- actions


ACTION = '[event]\naction = ["type", "old.type"]\noutcome_default = "success"\nguess = true\n'


@pytest.mark.parametrize(
    ("action", "meaning"),
    [
        ("user.create", ("user", "create", "success")),
        ("user.delete", ("user", "delete", "failure")),
        ("user.delete.all", ("user", "update", "success")),
        ("user.delete.now", ("member", "leave", "success")),
        ("user.x.now", ("member", "join", "success")),
        ("user.x.y", ("group", "create", "success")),
        ("USER.create", ("other", "create", "unknown")),
        ("user", ("other", "other", "unknown")),
    ],
)
def test_exact_texts_beat_globs_and_the_most_letters_beat_the_others(
    action: str, meaning: tuple[str, str, str]
) -> None:
    table = """[actions]
        "user.*" = "group/create"
        "*.x.now" = "group/delete"
        "user.*now" = "group/delete"
        "user.d*" = "user/update"
        "user.*.now" = "member/join"
        "user.delete.n*" = "member/leave"
        "user.delete" = "user/delete/failure"
        "user.create" = "user/create"
    """
    found = event(ACTION + table, type=action)
    assert (found.kind, found.verb, found.outcome) == meaning
    assert ("unknown_action" in found.warnings) == (found.outcome == "unknown")
    assert found.native_action == action


def test_of_globs_with_as_many_letters_the_first_counts() -> None:
    table = '[actions]\n"a*bc" = "user/create"\n"ab*c" = "user/delete"\n'
    assert event(ACTION + table, type="abbc").verb == "create"
    assert event(ACTION + table, type="ab.c").verb == "delete"


@pytest.mark.parametrize(
    ("glob", "fits", "misses"),
    [
        ("*", ["", "a", "\n"], []),
        ("a*a", ["aa", "a.a", "aaa"], ["a", "ab"]),
        ("a*b*c", ["abc", "a.b.c", "aabbcc"], ["ac", "acb", "abcd"]),
        ("*.b", [".b", "a.b"], ["ab", "a.b."]),
        ("a.*", ["a.", "a.\nb"], ["a", "ab"]),
    ],
)
def test_a_star_is_any_characters(glob: str, fits: list[str], misses: list[str]) -> None:
    text = f'[event]\naction_prefix = "x"\naction = "type"\n[actions]\n"x{glob}" = "user/create"\n'
    normalize = normalizer(described(text))
    for each in (*fits, *misses):
        [found] = normalize([orjson.dumps({"id": "1", "at": AT, "type": each})], 5)
        assert (found.kind == "user") == (each in fits), each


def test_a_glob_is_not_slow_whatever_it_is_compared_with() -> None:
    table = '[actions]\n"*a*a*a*a*a*a*a*a*b" = "user/create"\n'
    assert event(ACTION + table, type="a" * 8000).kind == "other"


def test_a_second_word_refines_an_action() -> None:
    text = """[event]
        action = "type"
        refine = "what.text"
        outcome_default = "success"
        [actions]
        "api" = { "Create a client" = "integration/create", "Delete *" = "integration/delete" }
        "any" = { "*" = "settings/update/failure" }
        "a*" = "user/create"
    """
    meanings = {
        ("api", "Create a client"): ("integration", "create", "success"),
        ("api", "Delete a client"): ("integration", "delete", "success"),
        ("api", "Rename a client"): ("other", "other", "unknown"),
        ("any", "thing"): ("settings", "update", "failure"),
        ("any", None): ("settings", "update", "failure"),
        ("all", "thing"): ("user", "create", "success"),
    }
    for (action, second), meaning in meanings.items():
        found = event(text, type=action, what={"text": second})
        assert (found.kind, found.verb, found.outcome) == meaning


def test_an_action_is_joined_of_parts_and_has_text_before_it() -> None:
    text = '[event]\naction_parts = ["a", "b.c", "d"]\naction_prefix = "log."\n'
    assert event(text, a="x", b={"c": 7}, d="").native_action == "log.x.7"
    assert event(text, d="z").native_action == "log.z"
    assert event(text).native_action == "log."
    assert event('[event]\naction_prefix = "sign_in"\n').native_action == "sign_in"
    assert event('[event]\naction = "type"\n').native_action == "unknown"


def test_a_number_is_looked_up_by_its_digits_and_shown_by_its_name() -> None:
    text = """[event]
        action = "type"
        names = { "1000" = "User_LoggedIn" }
        [actions]
        "1000" = "session/login"
    """
    found = event(text, type=1000)
    assert (found.kind, found.native_action) == ("session", "User_LoggedIn")
    assert event(text, type=1001).native_action == "1001"


OUTCOME = """[event]
    action = "type"
    outcome = ["outcome", "result.code"]
    outcomes = { OK = "success", "false" = "failure", "true" = "success", "0" = "success" OTHERS }
    outcome_default = "success"
    [actions]
    "known" = "user/create"
    "login" = "session/login"
    "denied" = "user/create/failure"
    "refused" = "session/login_failed"
"""


@pytest.mark.parametrize(
    ("record", "others", "outcome"),
    [
        ({"type": "known", "outcome": "OK"}, "", "success"),
        ({"type": "known", "outcome": "no"}, "", "unknown"),
        ({"type": "known", "outcome": "no"}, ', "*" = "failure"', "failure"),
        ({"type": "known", "outcome": False}, "", "failure"),
        ({"type": "known", "outcome": True}, ', "*" = "failure"', "success"),
        ({"type": "known", "outcome": 0}, ', "*" = "failure"', "success"),
        ({"type": "known", "outcome": 1.5}, ', "*" = "failure"', "failure"),
        ({"type": "known", "result": {"code": False}}, "", "failure"),
        ({"type": "known", "outcome": None}, ', "*" = "failure"', "success"),
        ({"type": "known", "outcome": ""}, ', "*" = "failure"', "success"),
        ({"type": "known", "outcome": ["OK"]}, ', "*" = "failure"', "success"),
        ({"type": "denied"}, "", "failure"),
        ({"type": "denied", "outcome": "OK"}, "", "success"),
        ({"type": "unknown"}, "", "unknown"),
        ({"type": "unknown", "outcome": "OK"}, "", "success"),
        ({"type": "refused"}, "", "failure"),
        ({"type": "login"}, "", "success"),
    ],
)
def test_an_outcome_comes_from_a_field_or_the_table_or_the_default(
    record: dict[str, Any], others: str, outcome: str
) -> None:
    assert event(OUTCOME.replace(" OTHERS", others), **record).outcome == outcome


def test_a_sign_in_that_fails_is_one_that_failed() -> None:
    found = event(OUTCOME.replace(" OTHERS", ""), type="login", outcome=False)
    assert (found.kind, found.verb, found.outcome) == ("session", "login_failed", "failure")


def test_a_guess_is_marked_and_never_a_success() -> None:
    found = event(ACTION, type="webhook.deleted")
    assert (found.kind, found.verb, found.outcome) == ("webhook", "delete", "unknown")
    assert found.warnings == ("unknown_action", "heuristic_verb")
    assert event(ACTION, type="user.created").kind == "other"
    plain = event('[event]\naction = "type"\n', type="webhook.deleted")
    assert (plain.kind, plain.verb, plain.warnings) == ("other", "other", ("unknown_action",))


# -- who and what


ACTORS = """[event]
    actor_ip = ["client.ip", "ip"]
    actor_agent = "client.agent"
    [[event.actor]]
    kind = "user"
    id = "session.user.id"
    email = "session.user.email"
    [[event.actor]]
    type = "who.type"
    kinds = { Key = "api_key", System = "system", "*" = "service" }
    id = ["who.id", "who.uid"]
    name = "who.name"
"""


@pytest.mark.parametrize(
    ("record", "actor"),
    [
        (
            {"session": {"user": {"id": 7}}, "who": {"id": "w", "type": "Key", "name": "n"}},
            Actor("user", "7"),
        ),
        (
            {"session": {"user": {"email": "d@x"}}, "client": {"ip": "192.0.2.1", "agent": "curl"}},
            Actor("user", None, None, "d@x", "192.0.2.1", "curl"),
        ),
        ({"who": {"uid": "u", "type": "Key"}}, Actor("api_key", "u", native_type="Key")),
        ({"who": {"name": "n", "type": "Job"}}, Actor("service", None, "n", native_type="Job")),
        ({"who": {"id": "", "name": "n"}}, Actor("unknown", None, "n")),
        ({"who": {"type": "System"}}, Actor("system", native_type="System")),
        (
            {"ip": "192.0.2.1, 198.51.100.7:443"},
            Actor(ip="192.0.2.1", address="192.0.2.1, 198.51.100.7:443"),
        ),
        ({"session": {"user": {"id": ["7"]}}, "who": {"name": "n"}}, Actor("unknown", None, "n")),
        ({}, Actor()),
    ],
)
def test_the_first_alternative_that_finds_an_identity_is_the_actor(
    record: dict[str, Any], actor: Actor
) -> None:
    assert event(ACTORS, **record).actor == actor


def test_actors_of_one_page_do_not_mix() -> None:
    normalize = normalizer(described(ACTORS))
    records: list[dict[str, Any]] = [
        {"session": {"user": {"id": 7}}, "who": {"type": "Key", "name": "n"}},
        {"who": {"type": "Key", "name": "n"}},
        {"who": {"type": "System"}, "ip": "192.0.2.1"},
        {},
        {"session": {"user": "text"}, "who": {"id": "w"}},
    ]
    lines = [orjson.dumps({"id": str(n), "at": AT} | each) for n, each in enumerate(records)]
    page = list(normalize(lines, 5))
    assert page == [normalize([line], 5)[0] for line in lines]
    assert [each.actor.kind for each in page] == ["user", "api_key", "system", *["unknown"] * 2]
    assert page[0].actor.name is None


TARGETS = """[event]
    [[event.target]]
    type_is = "User"
    id = "target.[type=User].id"
    name = "target.[type=User].name"
    [[event.target]]
    type = "target.0.type"
    id = "target.0.id"
    name = "target.0.name"
"""


def test_the_first_alternative_that_finds_something_is_the_target() -> None:
    app, user = {"type": "App", "id": "a", "name": "A"}, {"type": "User", "id": "u"}
    assert event(TARGETS, target=[app, user]).target == Target("User", "u", None)
    assert event(TARGETS, target=[app]).target == Target("App", "a", "A")
    assert event(TARGETS, target=[{"type": "App"}]).target == Target("App")
    assert event(TARGETS, target=[]).target == event(TARGETS).target == Target()


def test_a_key_may_be_named_by_another_field() -> None:
    text = """[event]
        action = "type"
        [[event.target]]
        type = "type"
        id = "<type>.id"
        email = "<type>.data.email"
    """
    found = event(text, type="user.added", **{"user.added": {"id": "u", "data": {"email": "e"}}})
    assert found.target == Target("user.added", "u", None, "e")
    assert found.unmapped == NOTHING
    other = event(text, type="user.added", other={"id": "u"})
    assert other.target == Target("user.added")
    assert json.loads(bytes(other.unmapped)) == {"other": {"id": "u"}}
    assert event(text, type=5, **{"5": {"id": "u"}}).target.id is None


# -- the rest of an event


def test_texts_are_found_at_their_paths() -> None:
    text = """[event]
        category = "kind"
        message = ["text", "long.text"]
        reason = "why"
        privilege = "roles.0"
        metadata = ["details", "more.details"]
        project_id = "project.id"
        project_name = "project.name"
        org_name = 'org\\.name'
    """
    found = event_of(
        text,
        {
            "kind": "auth",
            "long": {"text": "It was so."},
            "why": "because",
            "roles": ["admin"],
            "more": {"details": [1, {"a": None}]},
            "project": {"id": 7, "name": "p"},
            "org.name": "o",
        },
    )
    assert (found.native_category, found.message, found.reason) == ("auth", "It was so.", "because")
    assert (found.privilege, found.project_id, found.project_name) == ("admin", "7", "p")
    assert found.org_name == "o"
    assert json.loads(bytes(found.metadata)) == [1, {"a": None}]
    assert found.unmapped == NOTHING


@pytest.mark.parametrize(
    ("meaning", "privilege"),
    [
        ("user/member_add", "Admins"),
        ("member/member_remove", "Admins"),
        ("group/member_add", "editor"),  # then the target is the group
        ("group/create", "editor"),
        ("user/role_change", "editor"),
    ],
)
def test_the_privilege_of_a_person_who_joins_a_group_is_the_group(
    meaning: str, privilege: str
) -> None:
    text = f"""[event]
        action = "type"
        privilege = "role"
        group = ["team.name", "team.id"]
        [actions]
        act = "{meaning}"
    """
    record = {"type": "act", "role": "editor", "team": {"name": "Admins", "id": "t1"}}
    found = event_of(text, record)
    assert (found.privilege, found.unmapped) == (privilege, NOTHING)
    without = event_of(text, {"type": "act", "role": "editor"})
    assert without.privilege == "editor"


def test_without_a_message_it_is_a_sentence() -> None:
    text = ACTORS + '[[event.target]]\nid = "thing"\n[actions]\n'
    text = text.replace("[event]", '[event]\naction = "type"', 1)
    assert event(text, type="x.done", who={"name": "n"}, thing="t").message == "n x.done t"
    assert event(text, type="x.done").message == "unknown actor x.done"


@pytest.mark.parametrize(
    ("changes", "record", "found"),
    [
        (
            'list = "diff"\nfield = "key.name"\nbefore = "old"\nafter = "new"',
            {"diff": [{"key": {"name": "a"}, "old": 1, "new": [2]}, "odd", {"new": None}]},
            (Change("a", "1", "[2]"), Change("value", None, None)),
        ),
        ('list = "diff"\nfield = "f"\nafter = "new"', {"diff": {"f": "a"}}, ()),
        (
            'before = "was.all"\nafter = "is"',
            {"was": {"all": {"a": 1, "b": 2}}, "is": {"a": 1, "b": 3, "c": None}},
            (Change("b", "2", "3"), Change("c", None, None)),
        ),
        ('before = "was"\nafter = "is"', {"was": None, "is": {"a": 1}}, (Change("a", None, "1"),)),
        ('before = "was"\nafter = "is"', {"was": "text", "is": {"a": 1}}, ()),
        (
            'field = "name"\nbefore = "was"\nafter = "is"',
            {"name": "n", "was": "x", "is": {"a": 1}},
            (Change("n", '"x"', '{"a":1}'),),
        ),
        ('field = "name"\nbefore = "was"\nafter = "is"', {"is": 1}, (Change("value", None, "1"),)),
        ('field = "name"\nbefore = "was"\nafter = "is"', {}, ()),
        ('field = "name"\nbefore = "was"\nafter = "is"', {"name": "n"}, ()),
        ('field = "name"', {"name": "n"}, (Change("n", None, None),)),
    ],
)
def test_changes_have_three_forms(
    changes: str, record: dict[str, Any], found: tuple[Change, ...]
) -> None:
    assert event(f"[event]\n[event.changes]\n{changes}\n", **record).changes == found


@pytest.mark.parametrize(
    ("record", "unmapped"),
    [
        ({"who": {"name": ["n"]}}, ["who"]),
        ({"who": "text"}, ["who"]),
        ({"who": []}, ["who"]),
        ({"who": None}, []),
        ({"client": {"ip": 1.5}}, ["client"]),
        ({"client": {"ip": None, "agent": False}}, ["client"]),
        ({"ip": {}, "client": {"ip": "192.0.2.1"}}, []),  # not asked for: there is a better one
        ({"novel": 1, "who": {"other": [1]}}, ["novel"]),
        ({"session": 1, "novel": None}, ["session", "novel"]),
        ({"id": [1]}, ["id"]),
    ],
)
def test_a_value_of_a_wrong_type_stays_unmapped(
    record: dict[str, Any], unmapped: list[str]
) -> None:
    found = json.loads(bytes(event(ACTORS, **record).unmapped))
    assert found == ({key: record[key] for key in unmapped} or None)


def test_what_is_in_the_details_is_not_unmapped_too() -> None:
    text = '[event]\nmetadata = "data"\nreason = "data.why.text"\n'
    found = event(text, data={"why": ["no", "text"]})
    assert (found.reason, found.unmapped) == (None, NOTHING)


def test_secrets_in_documented_fields_that_nothing_leads_to_are_hidden() -> None:
    text = '[records]\nat = ""\nid = "id"\ntime = "at"\nfields = ["seen", "api_token"]\n[event]\n'
    found = event(text, seen=1, api_token="hush-hush", novel=2)
    assert json.loads(bytes(found.unmapped)) == {"novel": 2}
    assert b"hush" not in bytes(found.raw)


def test_long_texts_are_shortened_and_whole_in_the_raw_record() -> None:
    text = '[event]\naction = "type"\nreason = "deep.why"\n'
    found = event(text, type="é" * 9000, deep={"why": "x" * 9000})
    assert (len(found.native_action), len(found.reason or "")) == (MAX_TEXT_LENGTH,) * 2
    assert "shortened" in found.warnings
    assert json.loads(bytes(found.raw))["type"] == "é" * 9000


def test_secrets_are_replaced_and_the_paths_found_again() -> None:
    text = """[event]
        reason = "auth.password"
        metadata = "data"
        [event.changes]
        list = "data.items"
        field = "name"
        after = "value"
    """
    found = event_of(
        text,
        {
            "auth": {"password": "hush-hush"},
            "data": {"items": [{"name": "api_key", "value": "hush-hush-1"}], "note": "plain"},
        },
    )
    assert found.reason == "[redacted]"
    assert found.changes == (Change("api_key", None, '"[redacted]"'),)
    assert found.redacted == ("auth.password", "data.items.0.value")
    assert b"hush" not in bytes(found.raw) + bytes(found.metadata)
    kept = event_of(text, {"auth": {"password": "hush"}}, redact="off")
    assert kept.uid == found.uid
    assert kept.reason == "hush"


def test_what_the_description_knows_is_no_secret_whatever_it_is_called() -> None:
    text = """[event]
        metadata = "actor.api_key.more"
        [[event.actor]]
        kind = "api_key"
        id = "actor.api_key.id"
        email = "owners.0.token.email"
        [[event.target]]
        id = "target.credential_uid"
    """
    record = {
        "actor": {"api_key": {"id": "Key0123456789abcdef", "type": "user", "v": "h0sh-Hush-1"}},
        "owners": [{"token": {"email": "d@acme.example", "x": {"y": "h1sh-Hush-1"}}}],
        "target": {"credential_uid": "c-7"},
    }
    found = event_of(text, record)
    assert found.actor == Actor("api_key", "Key0123456789abcdef", None, "d@acme.example")
    assert found.target.id == "c-7"
    assert b"Hush" not in bytes(found.raw)
    assert found.redacted == ("actor.api_key.v", "owners.0.token.x.y")
    assert json.loads(bytes(found.raw))["actor"]["api_key"]["type"] == "user"
    by_globs = event_of(text, record, redact=["*key*", "*uid"])
    assert (by_globs.actor.id, by_globs.target.id) == (None, "[redacted]")
    elsewhere = event_of(text, {"other": {"api_key": {"id": "Key0123456789abcdef"}}})
    assert b"Key0" not in bytes(elsewhere.raw)
    in_a_text = event_of(text, {"actor": json.dumps({"api_key": {"id": "Key0123456789abcdef"}})})
    assert b"Key0" not in bytes(in_a_text.raw)


def test_identities_at_the_paths_are_replaced_by_pseudonyms() -> None:
    key = "k" * 32
    pseudonyms = Pseudonyms(key, ("actor.id", "actor.email", "actor.ip"))
    record = {
        "session": {"user": {"id": "dana-7", "email": "dana@acme.example"}},
        "client": {"ip": "192.0.2.1"},
        "note": "dana-7 was here",
    }
    found = event_of(ACTORS, record, pseudonyms=pseudonyms)
    assert found.actor.id == pseudonym(key.encode(), "dana-7")
    text = bytes(found.raw) + bytes(found.unmapped)
    assert not [each for each in (b"dana", b"192.0.2.1") if each in text]


# -- identity


def identity(records: str, *found: dict[str, Any] | bytes, **changes: Any) -> list[AuditEvent]:
    """Return the events of records by the table *records*; both ways agree on them."""
    lines = [each if isinstance(each, bytes) else orjson.dumps(each) for each in found]
    normalize = normalizer(described(f'[records]\nat = ""\n{records}\n[event]\n'), **changes)
    page = list(normalize(lines, 5))
    assert page == with_care(normalize, lines)
    return page


def test_the_id_is_the_first_that_is_there() -> None:
    records = 'id = ["uuid", "old.id"]\ntime = "at"'
    one, other, none, same = identity(
        records,
        {"uuid": "a", "old": {"id": "b"}, "at": AT},
        {"uuid": None, "old": {"id": 7}, "at": AT},
        {"uuid": "", "at": AT},
        {"old": {"id": "a"}, "at": AT},
    )
    assert [each.native_id for each in (one, other, none, same)] == ["a", "7", None, "a"]
    assert one.uid == same.uid != other.uid
    assert "no_id" in none.warnings
    assert one.warnings == other.warnings == ("unknown_action",)


def test_an_id_of_parts_needs_all_of_them_and_keeps_them_apart() -> None:
    records = 'id_parts = ["id.time", "id.app", "id.number"]\ntime = "id.time"'
    found = identity(
        records,
        *[
            {"id": {"time": AT, "app": app, "number": number}}
            for app, number in [("ab", "c"), ("a", "bc"), ("ab", "c"), ("a", 7), ("a", None)]
        ],
    )
    uids = [each.uid for each in found]
    assert uids[0] == uids[2]
    assert len(set(uids)) == 4
    assert found[3].native_id == f"{AT}/a/7"
    assert found[4].native_id is None
    assert "no_id" in found[4].warnings
    assert not [each for each in found if each.time_quality != "source"]


def test_a_record_that_has_no_id_by_declaration_is_known_by_its_content() -> None:
    records = 'no_id = true\nwithout = ["links", "seen"]\ntime = "at"'
    normalize = normalizer(described(f'[records]\nat = ""\n{records}\n[event]\n'))
    extras: list[dict[str, Any]] = [{}, {}, {"seen": "x"}, {"a": 2}]
    lines = [
        orjson.dumps({"a": 1, "links": number, "at": AT, **extra})
        for number, extra in enumerate(extras)
    ]
    page = normalize.identify(lines, 5)
    assert len(set(page.uid)) == 4  # twins of one page are as many events
    assert [normalize.identify([line], 5).uid[0] == page.uid[0] for line in lines] == [
        *[True] * 3,
        False,
    ]
    assert page.content == [b""] * 4
    assert page.page()[0].warnings == ("unknown_action",)


@pytest.mark.parametrize(
    ("time_format", "time", "at"),
    [
        ("iso", AT, 1_795_167_067_000_000),
        ("iso", 1_795_167_067, 1_795_167_067_000_000),
        ("epoch_s", 1_795_167_067, 1_795_167_067_000_000),
        ("epoch_s", "1795167067", 1_795_167_067_000_000),
        ("epoch_s_float", 1_795_167_067.25, 1_795_167_067_250_000),
        ("epoch_ms", 1_795_167_067_123, 1_795_167_067_123_000),
        ("epoch_us", 1_795_167_067_123_456, 1_795_167_067_123_456),
        ("epoch_ms", AT, None),
        ("epoch_ms", True, None),
        ("epoch_ms", 10**30, None),
        ("epoch_ms", None, None),
        ("%d/%m/%Y %H:%M:%S", "20/11/2026 09:31:07", 1_795_167_067_000_000),
        ("%d/%m/%Y %H:%M:%S", AT, None),
    ],
)
def test_a_time_is_read_in_its_format(time_format: str, time: Any, at: int | None) -> None:
    records = f'id = "id"\ntime = ["at", "other.at"]\ntime_format = "{time_format}"'
    line = json.dumps({"id": 1, "at": time}).encode()
    [found] = identity(records, line)
    assert found.at == (5 if at is None else at)
    assert ("no_time" in found.warnings) == (at is None)
    assert found.time_raw == (
        time
        if isinstance(time, str)
        else None
        if time is None
        else str(time).replace("True", "true")
    )
    [again] = identity(records, json.dumps({"id": 1, "other": {"at": time}}).encode())
    assert again.at == found.at


def test_the_organisation_is_what_ids_are_unique_in() -> None:
    records = 'id = "id"\ntime = "at"\norganisation = "org.id"'
    found = identity(
        records,
        *[
            {"id": "1", "at": AT, "org": {"id": org}}
            for org in ("a", "b", 7, None, "", [1], 7.0, True)
        ],
        {"id": "1", "at": AT},
    )
    orgs = [each.org_id for each in found]
    assert orgs == ["a", "b", "7", *["configured"] * 6]
    assert len({each.uid for each in found}) == 4


def test_feeds_of_one_vendor_have_ids_of_their_own() -> None:
    text = (
        HEAD
        + """
        [records]
        at = ""
        id = "id"
        time = "at"
        [event]
        action = "type"
        [feeds.one]
        [feeds.two]
    """
    )
    line = orjson.dumps({"id": "1", "at": AT})
    one, two = (normalizer(vendor_of(feed(text, name)))([line], 5)[0] for name in ("one", "two"))
    assert one.uid != two.uid
    assert one.vendor == two.vendor == "acme"
    assert one.product == "Acme"


def test_a_described_source_is_read_by_its_description(tmp_path: Path) -> None:
    settings = scripted.settings(scripted.feed())
    made = make_source("crm", settings, Metrics(), Clock(), tmp_path)
    [found] = made.normalizer([orjson.dumps(scripted.record(1))], 5)
    assert (found.source, found.vendor, found.product) == ("crm", "acme", "Acme")
    assert (found.native_id, found.native_action, found.org_id) == ("e1", "user.create", "a1")


# -- one record that is several


SPLIT = """[records]
    at = "items"
    id_parts = ["id.time", "id.number"]
    time = "id.time"
    split = "events"
    [event]
    action = "events.0.name"
    [actions]
    "a" = "user/create"
    "b" = "user/delete"
"""


def test_each_element_of_a_list_is_a_record_of_its_own() -> None:
    whole = {"id": {"time": AT, "number": "7"}, "events": [{"name": "a"}, {"name": "b"}]}
    normalize = normalizer(described(SPLIT))
    page = normalize.identify([orjson.dumps(whole)], 5)
    assert len(page) == 2
    found = list(page.page())
    assert found == list(normalize([orjson.dumps(whole)], 5))
    assert [each.verb for each in found] == ["create", "delete"]
    assert [each.native_id for each in found] == [f"{AT}/7/0", f"{AT}/7/1"]
    assert found[0].uid != found[1].uid
    assert [json.loads(bytes(each.raw)) for each in found] == [
        whole | {"events": [each]} for each in whole["events"]
    ]
    assert len({each.raw_sha256 for each in found}) == 2
    assert not [each for each in found if each.warnings]


def test_a_list_of_one_leaves_the_text_as_it_was() -> None:
    text = b'{ "id": {"time":"%s","number":"7"}, "events": [{"name":"a"}] }' % AT.encode()
    [found] = normalizer(described(SPLIT))([text], 5)
    assert bytes(found.raw) == text
    assert found.native_id == f"{AT}/7/0"


@pytest.mark.parametrize("events", [[], None, "text", {"name": "a"}])
def test_without_such_a_list_a_record_stays_whole(events: Any) -> None:
    text = orjson.dumps({"id": {"time": AT, "number": "7"}, "events": events})
    [found] = normalizer(described(SPLIT))([text], 5)
    assert found.native_id == f"{AT}/7"
    assert bytes(found.raw) == text


@pytest.mark.parametrize("text", [b"no", b"[1]", b'"a"', b"", b'{"events":[1,2]', b"null"])
def test_what_is_no_object_is_not_split(text: bytes) -> None:
    [found] = normalizer(described(SPLIT))([text], 5)
    assert "not_normalized" in found.warnings


@pytest.mark.parametrize(
    "whole",
    [
        {"events": list(range(101))},
        {"note": "x" * 5000, "events": list(range(50))},
        {"events": [1, json.loads("[" * 300 + "]" * 300)]},
    ],
)
def test_a_record_stays_whole_that_would_become_too_much(whole: dict[str, Any]) -> None:
    text = json.dumps({"id": {"time": AT, "number": "7"}, **whole}, separators=(",", ":")).encode()
    usual = orjson.dumps({"id": {"time": AT, "number": "8"}, "events": [1, 2]})
    page = list(normalizer(described(SPLIT))([usual, text], 5))
    assert ["not_split" in each.warnings for each in page] == [False, False, True]
    assert page[2].native_id == f"{AT}/7"
    assert page[2].raw_sha256 == sha256(text).hexdigest()


def test_a_hundred_small_events_of_one_record_are_taken_apart() -> None:
    whole = {"id": {"time": AT, "number": "7"}, "note": "x" * 500, "events": list(range(100))}
    page = normalizer(described(SPLIT))([orjson.dumps(whole)], 5)
    assert len(page) == len(set(page.uid)) == 100


# -- whatever comes


Read = Callable[[dict[str, Any]], AuditEvent]

RICH = """[records]
    at = "items"
    id_parts = ["id", "key.number"]
    time = ["at", "when.at"]
    time_format = "epoch_ms"
    organisation = "key.org"
    fields = ["extra"]
    SPLIT
    [event]
    action = ["type", "list.0.type"]
    refine = "list.[name=x].value"
    category = "key.category"
    names = { "7" = "seven" }
    outcome = "ok"
    outcomes = { "true" = "success", "*" = "failure" }
    outcome_default = "success"
    message = "text"
    reason = "details.why"
    privilege = "<type>.role"
    metadata = "details"
    project_id = "key.project"
    actor_ip = ["ip", "details.ip"]
    actor_agent = "list.1.agent"
    guess = true
    [[event.actor]]
    type = "key.type"
    kinds = { a = "user" }
    id = "<type>.id"
    email = "details.email"
    [[event.actor]]
    kind = "api_key"
    name = ["list.[name=x].id", "name"]
    [[event.target]]
    type_is = "thing"
    id = "details.id"
    [[event.target]]
    type = "type"
    name = "name"
    [event.changes]
    list = "list"
    field = "name"
    before = "value"
    [actions]
    "a*" = "user/create"
    "ab" = { "*" = "session/login" }
    "7" = "user/delete"
"""
RICH_FEEDS = {
    "parts": RICH.replace("SPLIT", ""),
    "split": RICH.replace("SPLIT", 'split = "list"'),
    "flat": RICH.replace("SPLIT", "").replace('id_parts = ["id", "key.number"]', 'id = "id"')
    .replace('"epoch_ms"', '"iso"').replace('"key.org"', '"org"'),
    "no_id": RICH.replace("SPLIT", "").replace('id_parts = ["id", "key.number"]', "no_id = true"),
}  # fmt: skip
USUAL: dict[str, Any] = {
    "id": "1",
    "key": {"number": 7, "org": "o", "category": "c", "type": "a", "project": 3},
    "at": 1_795_167_067_123,
    "type": "ab",
    "ab": {"id": "u", "role": "r"},
    "list": [{"name": "x", "value": "v", "id": "k", "type": "t"}, {"agent": "curl"}],
    "ok": True,
    "text": "It was so.",
    "details": {"why": "w", "email": "d@x.example", "id": 5, "ip": "192.0.2.1"},
    "name": "n",
}
PARTS = ["id", "key", "at", "type", "ab", "list", "ok", "text", "details", "name", "ip", "org"]


@given(value=st.dictionaries(st.sampled_from(PARTS), values, max_size=9) | values)
@settings(deadline=None, max_examples=extent(50, 100))
def test_any_json_becomes_an_event_in_every_form(value: Any) -> None:
    if isinstance(value, dict):
        value = {**USUAL, **value}
    for text in (json.dumps(value), json.dumps(value, indent=1, ensure_ascii=False)):
        for name, normalize in MADE.items():
            with case(name):
                for found in normalize([text.encode("utf-8", "surrogatepass")], 5):
                    assert ("not_normalized" in found.warnings) == (not isinstance(value, dict))
                    check_everywhere(found)


@st.composite
def pages(draw: st.DrawFn) -> list[bytes]:
    """Draw a page of records that are usual, or nearly so."""
    records = []
    for _ in range(draw(st.integers(1, 3))):
        record = json.loads(json.dumps(USUAL | {"id": draw(st.sampled_from(["1", 2, ""]))}))
        for part in draw(st.lists(st.sampled_from(PARTS), max_size=3, unique=True)):
            record[part] = draw(details)
        for part in draw(st.lists(st.sampled_from(["number", "org", "type"]), max_size=1)):
            record["key"] = {**USUAL["key"], part: draw(details)}
        for part in draw(st.lists(st.sampled_from(PARTS), max_size=2)):
            record.pop(part, None)
        odd = draw(st.sampled_from([False, False, True]))
        records.append(spelled(draw, record, odd).encode("utf-8", "surrogatepass"))
    return records


@pytest.mark.slow
@given(lines=pages())  # which takes longer than to read them in every way
@settings(deadline=None, max_examples=extent(25, 200))
def test_however_a_record_is_written_both_ways_agree(lines: list[bytes]) -> None:
    for (name, vendor), redact in product(RICH_VENDORS.items(), REDACT):
        with case(name, redact):
            normalize = normalizer(vendor, redact=redact)
            for _ in range(2):  # the second time its keys are known to be harmless
                page = list(normalize(lines, 5))
                assert page == with_care(normalize, lines)
            if name != "no_id":
                alone = [each for line in lines for each in normalize([line], 5)]
                assert [each for each in page if each.native_id] == [
                    each for each in alone if each.native_id
                ]


REDACT: list[Any] = ["default", "off", ["*name*", "token", "x"]]
RICH_VENDORS = {name: described(text) for name, text in RICH_FEEDS.items()}
MADE = {name: normalizer(vendor) for name, vendor in RICH_VENDORS.items()}


def usual(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Return what reads a record of *vendor* that must not need care."""

    def refuse(_: CarefulReader, record: bytes, *_args: object) -> None:
        raise AssertionError(f"{record!r} is taken to be odd")

    monkeypatch.setattr(CarefulReader, "__call__", refuse)
    normalize = normalizer(vendor)
    return lambda record: normalize([orjson.dumps(record)], 5)[0]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"novel": [1, 2.5]},
        {"details": {"password": "hush-hush-1"}},
        {"text": "see https://acme.example/?token=hush"},
        {"ab": {"session_id": "x" * 5000}},
    ],
)
@pytest.mark.parametrize("name", ["parts", "flat", "split"])
def test_such_a_record_is_usual(
    name: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = usual(described(RICH_FEEDS[name]), monkeypatch)
    at = AT if name == "flat" else USUAL["at"]
    found = read(USUAL | {"at": at} | changes)
    assert found.kind == "session"
    assert b"hush" not in bytes(found.raw)


SHIPPED = [(name, each) for name in shipped() for each in named(name).feeds or (None,)]


@pytest.mark.parametrize(("name", "feed_name"), SHIPPED)
def test_a_page_of_a_shipped_description_is_read_alike_both_ways(
    name: str, feed_name: str | None
) -> None:
    found = named(name).feed(feed_name)
    file = f"{name}.{feed_name}.json" if feed_name else f"{name}.json"
    body = orjson.loads((FOLDER.parent / "pages" / file).read_bytes())
    records = find(parse_path(found.records.at))(body) if found.records.at else body
    lines = [orjson.dumps(each) for each in records]
    normalize = normalizer(vendor_of(found))
    page = list(normalize(lines, 5))
    assert page == with_care(normalize, lines)
    assert len(page) >= len(lines) > 1
    for each in page:
        assert each.time_quality != "fetched"
        assert found.records.no_id or each.native_id
        assert each.uid not in [other.uid for other in page if other is not each]
        check_everywhere(each)


@pytest.mark.parametrize("name", [name for name in RICH_FEEDS if name != "no_id"])
def test_a_long_page_is_read_as_its_records_alone(name: str) -> None:
    """Whole records are decoded some hundreds at a time; an odd one stands in each part."""
    normalize = normalizer(described(RICH_FEEDS[name]))
    lines = [orjson.dumps(USUAL | {"id": str(number)}) for number in range(620)]
    lines[5] = lines[5].replace(b'"id":"5"', b'"id" : "5"')
    lines[300] = b'{"id":"300","at":NaN}'
    lines[619] = b'["619"]'
    page = list(normalize(lines, 5))
    assert page == [each for line in lines for each in normalize([line], 5)]
