"""Pseudonyms: the same for the same value, and the value itself is gone."""

import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from auditrelay.events import AuditEvent
from auditrelay.events.pseudonyms import Pseudonyms, pseudonym
from auditrelay.settings.values import IdentityField
from auditrelay.sources.bland import Settings

One = Callable[..., AuditEvent]
Written = Callable[[AuditEvent], dict[str, bytes]]

KEY = "a-key-that-is-not-guessable"
ALL: list[IdentityField] = [
    "actor.id",
    "actor.name",
    "actor.email",
    "actor.ip",
    "target.id",
    "target.name",
    "target.email",
]
PERSON = {
    "actor_id": "51aa7c9e",
    "actor_email": "Dana@acme.example",
    "actor_ip": "203.0.113.7",
    "resource_id": "mem_27",
}
RECORD: dict[str, Any] = {
    "id": "b7e2",
    "organization_id": "4c1d",
    "category": "member",
    "action": "role_changed",
    "actor_type": "user",
    "description": "Dana@acme.example (from 203.0.113.7) changed SAM@ACME.EXAMPLE, mem_27",
    "created_at": "2026-04-13T09:21:07.123456+00:00",
    "metadata": {
        "email": "sam@acme.example",
        "name": 'Sam "Ö" Grün',
        "before": {"owner": "sam@acme.example", "role": "member"},
        "after": {"owner": "dana@acme.example", "role": "admin"},
        "link": "https://x.example/?u=dana%40acme.example",
        "by_email": {"dana@acme.example": 1},
        "nested": '{"who": "dana@acme.example"}',
    },
    "novel": ["mem_27", {"who": "51aa7c9e"}],
    **PERSON,
}


def plain(forms: dict[str, bytes], value: str) -> list[str]:
    """Return the forms in which *value* can still be read, escaped or not."""
    wanted = {value.lower(), json.dumps(value)[1:-1].lower(), value.replace("@", "%40").lower()}
    return [
        name
        for name, text in forms.items()
        if any(each in text.decode().lower() or each in repr(json.loads(text)).lower()
               for each in wanted)
    ]  # fmt: skip


def test_the_plain_value_is_in_no_form(one: One, written: Written) -> None:
    before = written(one(RECORD, "cencori"))
    event = one(RECORD, "cencori", pseudonyms=Pseudonyms(KEY, ALL))
    after = written(event)
    for value in (*PERSON.values(), "sam@acme.example", 'Sam "Ö" Grün'):
        assert plain(before, value), value
        assert plain(after, value) == [], value
    who = pseudonym(KEY.encode(), "Dana@acme.example")
    assert event.actor.email == who
    assert event.message.startswith(f"{who} (from p_")
    assert json.loads(bytes(event.metadata))["by_email"] == {who: 1}
    assert [each.after for each in event.changes if each.field == "owner"] == [f'"{who}"']
    assert event.privilege == "admin"


def test_a_pseudonym_is_24_digits_of_a_keyed_digest(one: One) -> None:
    event = one(RECORD, "cencori", pseudonyms=Pseudonyms(KEY, ["actor.id"]))
    digest = hmac.new(KEY.encode(), b"51aa7c9e", "sha256").hexdigest()
    assert event.actor.id == f"p_{digest[:24]}"
    other = one(RECORD, "cencori", pseudonyms=Pseudonyms(KEY + "2", ["actor.id"]))
    assert other.actor.id != event.actor.id


def test_the_same_value_has_the_same_pseudonym_in_every_event_and_field(one: One) -> None:
    pseudonyms = Pseudonyms(KEY, ["actor.email", "target.email"])
    first = one(RECORD, "cencori", pseudonyms=pseudonyms)
    turned = {**RECORD, "actor_email": "sam@acme.example", "metadata": {"email": "x@y.example"}}
    second = one({**turned, "id": "b7e3"}, "cencori", pseudonyms=pseudonyms)
    assert first.target.email == second.actor.email
    assert first.actor.email != second.actor.email


def test_only_the_chosen_fields_are_replaced_and_the_identity_stays(one: One) -> None:
    plain_event = one(RECORD, "cencori")
    event = one(RECORD, "cencori", pseudonyms=Pseudonyms(KEY, ["actor.ip"]))
    assert event.uid == plain_event.uid
    assert event.native_id == plain_event.native_id
    assert event.at == plain_event.at
    assert event.actor.email == "Dana@acme.example"
    assert event.target == plain_event.target
    assert str(event.actor.ip).startswith("p_")


def test_the_digest_of_the_record_is_keyed(one: One) -> None:
    event = one(RECORD, "cencori", pseudonyms=Pseudonyms(KEY, ["actor.email"]))
    own = one(RECORD, "cencori").raw_sha256
    assert event.raw_sha256 == hmac.new(KEY.encode(), own.encode(), "sha256").hexdigest()


def test_a_short_value_is_replaced_only_as_a_separate_word(one: One) -> None:
    record = {
        "id": 1001,
        "organization": 42,
        "user": 7,
        "user_email": "d@x.example",
        "action_type": "object",
        "operation_type": "update",
        "object_type": "aiagent",
        "object_id": "70",
        "timestamp": "2026-05-07T08:15:07Z",
    }
    event = one(record, "cekura", pseudonyms=Pseudonyms(KEY, ["actor.id"]))
    raw = json.loads(bytes(event.raw))
    assert raw["user"] == event.actor.id == pseudonym(KEY.encode(), "7")
    assert raw == {**record, "user": event.actor.id}
    assert event.org_id == "42"


def test_a_redacted_value_has_no_pseudonym(one: One) -> None:
    changes = {"redact": ["actor_email"], "pseudonyms": Pseudonyms(KEY, ["actor.email"])}
    event = one(RECORD, "cencori", **changes)
    assert event.actor.email == "[redacted]"


def test_a_record_without_identities_is_unchanged(one: One) -> None:
    for record in (b"not json", b"[1]", b'{"id":"1"}'):
        event = one(record, "cencori", pseudonyms=Pseudonyms(KEY, ALL))
        assert event == one(record, "cencori")


def test_odd_values_in_a_record_do_not_stop_it(one: One) -> None:
    record = {**RECORD, "metadata": {"big": 2**70, "f": 1.5, "none": None, "yes": True}}
    event = one(record, "cencori", pseudonyms=Pseudonyms(KEY, ALL))
    assert json.loads(bytes(event.metadata)) == record["metadata"]
    odd = {**RECORD, "actor_email": "\u017fam@x.example", "description": "SAM@X.EXAMPLE .*("}
    assert "@" not in one(odd, "cencori", pseudonyms=Pseudonyms(KEY, ["actor.email"])).message


def test_the_settings_need_a_key_that_cannot_be_guessed() -> None:
    keys = {"type": "bland", "api_key": "k" * 20}
    assert Settings.model_validate(keys).pseudonymize == []
    with pytest.raises(ValidationError, match="pseudonym_key: is missing"):
        Settings.model_validate({**keys, "pseudonymize": ["actor.email"]})
    with pytest.raises(ValidationError, match="at least 16"):
        Settings.model_validate({**keys, "pseudonymize": "actor.email", "pseudonym_key": "short"})
    with pytest.raises(ValidationError, match=r"actor\.ip"):
        Settings.model_validate({**keys, "pseudonymize": ["actor.mail"], "pseudonym_key": KEY})
    right = Settings.model_validate({**keys, "pseudonymize": "actor.email", "pseudonym_key": KEY})
    assert right.pseudonymize == ["actor.email"]
