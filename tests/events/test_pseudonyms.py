"""Pseudonyms: the same for the same value, and the value itself is gone."""

import base64
import hmac
import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError
from tests.support.corpus import events_of

from auditrelay.events import AuditEvent, pack
from auditrelay.events.normalize import Normalizer, vendor_named
from auditrelay.events.pseudonyms import Pseudonyms, pseudonym
from auditrelay.settings import SourceSettings
from auditrelay.settings.values import IdentityField
from auditrelay.sources import cekura, jitsudo, slaunch
from auditrelay.sources.bland import Settings
from auditrelay.sources.cencori import settings as cencori

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
    event = one({"id": "1"}, "cencori", pseudonyms=Pseudonyms(KEY, ["actor.id"]))
    assert event == one({"id": "1"}, "cencori")


@pytest.mark.parametrize("record", [b"not json of dana@acme.example", b'["dana@acme.example"]'])
def test_a_record_that_is_not_understood_is_replaced_as_a_whole(record: bytes, one: One) -> None:
    event = one(record, "cencori", pseudonyms=Pseudonyms(KEY, ["actor.id"]))
    assert json.loads(bytes(event.raw)).startswith("p_")
    assert b"dana" not in pack([event])
    assert event.uid == one(record, "cencori").uid
    again = one(record, "cencori", pseudonyms=Pseudonyms(KEY, ["actor.id"]))
    assert event == again


@pytest.mark.parametrize(
    "text",
    [
        '{"who": "dana\\u0040acme.example"}',
        '{"body": "{\\"who\\": \\"d\\\\u0061na\\\\u0040acme.example\\"}"}',
        "https://x.example/?u=dana%40acme.example",
        "https://x.example/?u=dana%2540acme.example",
        base64.b64encode(b"dana@acme.example").decode(),
        "DANA@acme.EXAMPLE",
        "dana+audit@acme.example",
        "sent by <dana@acme.example>;",
    ],
)
def test_a_value_is_found_however_it_is_written(text: str, one: One) -> None:
    pseudonyms = Pseudonyms(KEY, ["actor.email"])
    record = {**RECORD, "description": text, "metadata": {"x": [text]}}
    event = one(record, "cencori", pseudonyms=pseudonyms)
    who = pseudonym(KEY.encode(), "dana@acme.example")
    assert who in event.message
    assert who in bytes(event.metadata).decode()
    assert not re.search("dana|ZGFuYU", event.message + bytes(event.raw).decode(), re.IGNORECASE)


@pytest.mark.parametrize("vendor", ["slaunch", "bland", "cekura"])
def test_addresses_are_replaced_under_any_key_and_for_any_vendor(vendor: str, one: One) -> None:
    record = {
        "id": "1",
        "client_ip": "203.0.113.9",
        "hops": ["2001:db8::9", "::ffff:203.0.113.9", "203.0.113.9:443"],
        "by": {"mail": "Lee@acme.example"},
        "at": "2026-11-20T09:31:07.412Z",
        "version": "1.2.3",
        "mac": "00:1b:44:11:3a:b7",
    }
    event = one(record, vendor, pseudonyms=Pseudonyms(KEY, ["actor.email", "actor.ip"]))
    raw = json.loads(bytes(event.raw))
    assert raw["client_ip"] == pseudonym(KEY.encode(), "203.0.113.9")
    assert raw["by"]["mail"] == pseudonym(KEY.encode(), "lee@acme.example")
    assert "203.0" not in str(raw)
    assert "2001:db8" not in str(raw)
    assert {key: raw[key] for key in ("id", "at", "version", "mac")} == {
        key: record[key] for key in ("id", "at", "version", "mac")
    }


def test_a_long_value_is_replaced_too(one: One) -> None:
    long = "x" * 9000 + "@acme.example"
    record = {**RECORD, "actor_id": long, "description": f"by {long}."}
    event = one(record, "cencori", pseudonyms=Pseudonyms(KEY, ["actor.id"]))
    assert "xxx" not in pack([event]).decode()


def test_a_near_miss_of_a_long_value_takes_no_longer() -> None:
    pseudonyms = Pseudonyms(KEY, ["actor.id", "actor.email", "actor.ip"])
    begun = time.process_time()
    for text in ("a" * 1_000_000, "a." * 500_000, "1." * 500_000, ":a" * 500_000, "a@" * 500_000):
        record = {"id": "1", "actor_id": "a" * 8190 + "b", "description": text}
        Normalizer(
            vendor=vendor_named("cencori"),
            source="s", api_host="h", scope="o", redact="off", tags={},
            pseudonyms=pseudonyms,
        )([json.dumps(record).encode()], 1)  # fmt: skip
    assert time.process_time() - begun < 12


def test_one_persons_pseudonym_is_the_same_however_the_address_is_spelled() -> None:
    key = KEY.encode()
    assert pseudonym(key, "Dana@Acme.example") == pseudonym(key, "dana+x@acme.example")
    assert pseudonym(key, "Dana") != pseudonym(key, "dana")


def test_an_identity_that_records_do_not_have_is_refused() -> None:
    keys = {"type": "bland", "api_key": "k" * 20, "pseudonym_key": KEY}
    with pytest.raises(ValidationError, match=r"actor\.name: records of type"):
        Settings.model_validate({**keys, "pseudonymize": ["actor.id", "actor.name"]})
    shop = {"type": "slaunch", "api_key": "k" * 20, "pseudonym_key": KEY, "tenant": "acme"}
    with pytest.raises(ValidationError, match=r"actor\.id: records of type slaunch"):
        slaunch.Settings.model_validate({**shop, "pseudonymize": ["actor.id"]})
    assert slaunch.Settings.model_validate({**shop, "pseudonymize": ["actor.ip"]})


@pytest.mark.parametrize(
    ("settings", "vendor"),
    [
        (Settings, "bland"),
        (cekura.Settings, "cekura"),
        (cencori.Settings, "cencori"),
        (jitsudo.Settings, "jitsudo"),
        (slaunch.Settings, "slaunch"),
    ],
)
def test_the_identities_of_a_vendor_are_those_that_its_events_have(
    settings: type[SourceSettings], vendor: str
) -> None:
    for field in ALL:
        part, _, name = field.partition(".")
        found = any(getattr(getattr(event, part), name) for event in events_of(vendor))
        assert not found or field in settings.IDENTITIES


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
