"""A gap is reported to the SIEM as a readable event."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from tests.conftest import make_event
from tests.support.ocsf_check import faults

from auditrelay.events import Actor, AuditEvent, Change, notices, pack, unpack
from auditrelay.events.forms import FORMS
from auditrelay.events.notices import (
    CHANGED,
    GAP,
    alert_event,
    changed_event,
    changed_uid,
    gap_event,
    sealed_event,
)
from auditrelay.evidence.heads import Head
from auditrelay.window import micros

START = datetime(2026, 5, 1, tzinfo=UTC)
NOW = datetime(2026, 5, 11, 8, 15, 1, 990052, tzinfo=UTC)
GAP_FIELDS: dict[str, Any] = {
    "source": "acme-voice",
    "vendor": "cekura",
    "scope": "42",
    "start": START,
    "end": START + timedelta(hours=3),
    "reason": "retention",
    "now": NOW,
    "tags": {"team": "voice"},
}


def test_a_gap_names_its_source_range_and_reason() -> None:
    event = gap_event(**GAP_FIELDS)
    for word in ("acme-voice", "2026-05-01T00:00:00.000Z", "2026-05-01T03:00:00.000Z", "retention"):
        assert word in event.message
    assert event.native_action == GAP
    assert event.product == "Cekura"
    assert (event.at, event.fetched) == (1_778_487_301_990_052,) * 2


def test_a_gap_is_the_same_event_however_often_it_is_declared() -> None:
    first = gap_event(**GAP_FIELDS).uid
    later = GAP_FIELDS | {"now": NOW + timedelta(days=1), "source": "renamed", "tags": {}}
    assert gap_event(**later).uid == first


@pytest.mark.parametrize(
    "change",
    [
        {"vendor": "bland"},
        {"scope": "43"},
        {"start": START + timedelta(microseconds=1)},
        {"end": START + timedelta(hours=4)},
        {"reason": "plan"},
    ],
)
def test_another_gap_is_another_event(change: dict[str, Any]) -> None:
    assert gap_event(**GAP_FIELDS | change).uid != gap_event(**GAP_FIELDS).uid


def test_a_gap_renders_in_every_form(
    written: Callable[[AuditEvent], dict[str, bytes]],
    valid_ecs: Callable[[dict[str, Any], str], None],
    valid_cim: Callable[[dict[str, Any]], None],
) -> None:
    event = gap_event(**GAP_FIELDS)
    assert unpack(pack([event])) == [event]
    forms = {name: json.loads(text) for name, text in written(event).items()}
    valid_ecs(forms["ecs"], "cekura")
    valid_cim(forms["cim"])
    assert forms["ecs"]["message"] == forms["cim"]["description"] == event.message
    assert forms["datadog"]["message"] == event.message
    assert forms["ecs"]["event"]["reason"] == "retention"
    assert forms["ecs"]["cekura"]["audit"]["metadata"]["start"] == "2026-05-01T00:00:00.000000Z"
    assert faults(forms["ocsf"]) == []
    assert forms["ocsf"]["class_name"] == "Event Log Activity"
    assert forms["ocsf"]["activity_name"] == GAP
    assert forms["ocsf"]["status_detail"] == "retention"
    assert forms["ocsf"]["log_name"] == "cekura.audit"
    assert forms["raw"]["record"]["gap"]["end"] == "2026-05-01T03:00:00.000000Z"


def test_a_head_renders_in_every_form_with_its_word_and_what_it_seals(
    written: Callable[[AuditEvent], dict[str, bytes]],
    valid_ecs: Callable[[dict[str, Any], str], None],
    valid_cim: Callable[[dict[str, Any]], None],
) -> None:
    head = Head("7346c92ec83c0c19152a6840060797e1", 40_007, bytes(range(32)))
    event = sealed_event(
        source="auditrelay",
        uid=head.uid,
        head=head.word,
        log=head.log,
        size=head.size,
        root=head.root,
        before=(40_000, bytes(32)),
        sources={"okta": {"accepted": 7, "covered_until": 5}},
        sinks={"splunk": {"position": 3, "dead": 1}},
        now=NOW,
    )
    assert unpack(pack([event])) == [event]
    assert event.uid == head.uid
    forms = {name: json.loads(text) for name, text in written(event).items()}
    valid_ecs(forms["ecs"], "auditrelay")
    valid_cim(forms["cim"])
    assert faults(forms["ocsf"]) == []
    assert event.message == f"Ledger sealed: 40,007 entries, head {head.word}"
    messages = [forms[name]["message"] for name in ("ecs", "datadog", "ocsf")]
    assert [*messages, forms["cim"]["description"]] == [event.message] * 4
    assert forms["ecs"]["event"]["action"] == "auditrelay.ledger_sealed"
    assert forms["datadog"]["evt"]["name"] == "auditrelay.ledger_sealed"
    assert forms["cim"]["signature"] == "auditrelay.ledger_sealed"
    assert forms["ocsf"]["metadata"]["event_code"] == "auditrelay.ledger_sealed"
    sealed = forms["raw"]["record"]["ledger_sealed"]
    assert (sealed["head"], sealed["log"], sealed["size"]) == (head.word, head.log, 40_007)
    assert sealed["before"] == {"size": 40_000, "root": bytes(32).hex()}
    assert sealed["sources"] == {"okta": {"accepted": 7, "covered_until": 5}}
    assert sealed["sinks"] == {"splunk": {"position": 3, "dead": 1}}


def test_a_gap_of_a_source_without_a_vendors_module_is_reported_too() -> None:
    assert gap_event(**GAP_FIELDS | {"vendor": "acme"}).product == "acme"


def test_a_described_vendor_has_its_product_and_each_feed_its_own_uid() -> None:
    feeds = [
        gap_event(**GAP_FIELDS, vendor_key=f"acme:{feed}", product="Acme") for feed in ("a", "b")
    ]
    assert {event.product for event in feeds} == {"Acme"}
    assert {event.vendor for event in feeds} == {GAP_FIELDS["vendor"]}
    assert len({event.uid for event in feeds}) == 2, "the same gap in two lists is two gaps"
    assert notices.test_event(**TEST_FIELDS | {"product": "Acme"}).product == "Acme"


TEST_FIELDS: dict[str, Any] = {
    "source": "acme-voice",
    "vendor": "cekura",
    "product": None,
    "nonce": "n1",
    "now": START,
    "tags": {"team": "sec"},
}


def test_each_test_event_is_unique_and_identifies_itself() -> None:
    event = notices.test_event(**TEST_FIELDS)
    assert event.native_action == "auditrelay.test"
    assert (event.at, event.source, event.vendor) == (micros(START), "acme-voice", "cekura")
    assert event.product == gap_event(**GAP_FIELDS).product
    assert "nothing has happened" in event.message
    assert event.tags == (("team", "sec"),)
    assert len(event.uid) == 40
    assert notices.test_event(**TEST_FIELDS | {"nonce": "n2"}).uid != event.uid


def test_a_test_event_renders_in_every_form(
    written: Callable[[AuditEvent], dict[str, bytes]],
    valid_ecs: Callable[[dict[str, Any], str], None],
    valid_cim: Callable[[dict[str, Any]], None],
) -> None:
    event = notices.test_event(**TEST_FIELDS)
    assert unpack(pack([event])) == [event]
    forms = {name: json.loads(text) for name, text in written(event).items()}
    valid_ecs(forms["ecs"], "cekura")
    valid_cim(forms["cim"])
    assert faults(forms["ocsf"]) == []
    assert forms["raw"]["record"] == {"test": {"nonce": "n1"}}


@pytest.mark.parametrize("form", FORMS)
def test_an_event_of_our_own_carries_its_uid_in_every_form(form: str) -> None:
    event = alert_event(
        source="auditrelay", code="held", about="splunk", what="x", todo="y", over=False, now=NOW
    )
    assert event.uid in str(FORMS[form](event))


def test_in_ecs_our_own_fields_and_those_of_the_vendor_auditrelay_share_a_key() -> None:
    event = alert_event(
        source="auditrelay", code="held", about="splunk", what="x", todo="y", over=False, now=NOW
    )
    own = FORMS["ecs"](event)["auditrelay"]
    assert own["uid"] == event.uid
    assert own["audit"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_marks_events_of_auditrelay_itself_and_no_other(form: str) -> None:
    render = FORMS[form]
    changed = changed_event(make_event(1), former="ab" * 8, fields=None, last=False, now=NOW)
    for event in (gap_event(**GAP_FIELDS), changed):
        document = render(event)
        place = {"ocsf": "unmapped", "asim": "AdditionalFields"}.get(form)
        own = (document if place is None else document[place])["auditrelay"]
        assert own["notice"] is True
        foreign = render(msgspec.structs.replace(event, notice=False))
        assert '"notice": true' not in json.dumps(foreign, default=str)


def test_a_changed_record_is_another_event_for_each_content() -> None:
    event = make_event(1)
    other = msgspec.structs.replace(event, raw_sha256="0" * 64)
    uids = {each.uid for each in (event, other)} | {changed_uid(each) for each in (event, other)}
    assert len(uids) == 3
    made = changed_event(other, former="ab" * 8, fields=(), last=False, now=NOW)
    assert made.uid == changed_uid(other)
    assert made == unpack(pack([made]))[0]


def test_a_changed_record_renders_in_every_form_with_who_acted(
    written: Callable[[AuditEvent], dict[str, bytes]],
    valid_ecs: Callable[[dict[str, Any], str], None],
    valid_cim: Callable[[dict[str, Any]], None],
) -> None:
    record = make_event(1, actor=Actor("user", "u1", "Eve", "eve@acme.example"))
    fields = (Change("actor.id", '"u0"', '"u1"'),)
    event = changed_event(record, former="ab" * 8, fields=fields, last=True, now=NOW)
    forms = {name: json.loads(text) for name, text in written(event).items()}
    valid_ecs(forms["ecs"], record.vendor)
    valid_cim(forms["cim"])
    assert faults(forms["ocsf"]) == []
    assert forms["ecs"]["user"]["email"] == "eve@acme.example"
    assert forms["ecs"]["event"]["action"] == forms["datadog"]["evt"]["name"] == CHANGED
    assert forms["cim"]["user"] == forms["datadog"]["usr"]["email"] == "eve@acme.example"
    assert forms["raw"]["record"]["record_changed"]["uid"] == record.uid
