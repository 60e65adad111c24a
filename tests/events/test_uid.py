"""An event's uid never changes, and is unique."""

import hashlib
import json
from collections.abc import Callable

import pytest

from auditrelay.events import AuditEvent
from auditrelay.events.normalize import Normalizer
from auditrelay.events.uid import Uids

ROW = {"id": 7, "organization": 42, "timestamp": "2026-05-11T08:15:01Z"}


def by_hand(*parts: str) -> str:
    hashed = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)
    return hashlib.sha256(hashed).hexdigest()[:40]


def test_a_uid_is_the_hash_of_vendor_organisation_and_native_id(
    one: Callable[..., AuditEvent],
) -> None:
    assert one(ROW, "cekura").uid == by_hand("auditrelay", "1", "n", "cekura", "42", "7")


def test_known_uids_never_change() -> None:
    assert Uids("cekura").native("77", "48214") == "535d20f8aa5a853c54d11a6da9890eeebda11b92"
    assert Uids("bland").native("org_1", "evt_9") == "9d974779c773e771e219a775049a8627adddf534"


def test_without_an_organisation_the_configured_scope_counts(
    one: Callable[..., AuditEvent],
) -> None:
    row = ROW | {"organization": None}
    expected = by_hand("auditrelay", "1", "n", "cekura", "mine", "7")
    assert one(row, "cekura", scope="mine").uid == expected


def test_a_uid_does_not_depend_on_name_host_redaction_tags_or_spelling(
    one: Callable[..., AuditEvent],
) -> None:
    row = ROW | {"token": "s"}
    spaced = json.dumps(dict(reversed(row.items())), indent=2).encode()
    uids = {
        one(row, "cekura").uid,
        one(spaced, "cekura").uid,
        one(row, "cekura", source="other", api_host="proxy.internal", tags={}).uid,
        one(row, "cekura", redact="off").uid,
        one(row, "cekura", redact=["id", "organization"]).uid,
    }
    assert len(uids) == 1


def test_the_same_native_id_in_two_organisations_or_vendors_is_two_events(
    one: Callable[..., AuditEvent],
) -> None:
    row = {"id": "7", "org_id": "42", "organization": "42"}
    uids = {
        one(row, "cekura").uid,
        one(row | {"organization": "43"}, "cekura").uid,
        one(row, "bland").uid,
    }
    assert len(uids) == 3


def test_an_edited_row_keeps_its_uid_and_has_another_hash(
    one: Callable[..., AuditEvent],
) -> None:
    first, edited = one(ROW, "cekura"), one(ROW | {"user": 1}, "cekura")
    assert first.uid == edited.uid
    assert first.raw_sha256 != edited.raw_sha256


def test_parts_cannot_be_shifted_into_each_other() -> None:
    uids = Uids("bland")
    assert uids.native("a|b", "c") != uids.native("a", "b|c")
    assert uids.native("ab", "c") != uids.native("a", "bc")
    assert uids.native("a", "b#0") != uids.content("a", b"b", 0)


def test_records_without_an_id_are_identified_by_content_in_any_order_of_keys(
    one: Callable[..., AuditEvent],
) -> None:
    first = one({"event_type": "x", "org_id": "1", "metadata": {"a": 1, "b": 2}})
    second = one({"metadata": {"b": 2, "a": 1}, "org_id": "1", "event_type": "x"})
    other = one({"event_type": "x", "org_id": "1", "metadata": {"a": 1, "b": 3}})
    assert first.uid == second.uid
    assert first.uid != other.uid
    assert "no_id" in first.warnings


@pytest.mark.parametrize("twin", [b'{"event_type":"x"}', b"not json", b"[1]", b'{"a":NaN}'])
def test_identical_twins_of_one_page_are_two_events_and_the_same_two_next_time(
    twin: bytes, normalizer: Callable[..., Normalizer], fetched: int
) -> None:
    first = [event.uid for event in normalizer()([twin, b'{"id":"1"}', twin], fetched)]
    again = [event.uid for event in normalizer()([b'{"id":"2"}', twin, twin], fetched + 5)]
    assert len(set(first)) == 3
    assert [first[0], first[2]] == again[1:]


def test_long_ids_with_the_same_beginning_are_two_events(one: Callable[..., AuditEvent]) -> None:
    long = "x" * 20_000
    assert one({"id": long + "a"}).uid != one({"id": long + "b"}).uid
    assert one({"id": "1", "org_id": long + "a"}).uid != one({"id": "1", "org_id": long + "b"}).uid
