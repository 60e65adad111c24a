"""A reduced copy says who did what and when, and holds nothing that a product may refuse."""

import json
from collections.abc import Callable

import msgspec
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from auditrelay.events import Actor, AuditEvent, Target, pack, unpack
from auditrelay.events.forms import FORMS
from auditrelay.events.reduced import ACTION, reduced

Make = Callable[..., AuditEvent]


def copy_of(event: AuditEvent, reason: str = "mapping") -> AuditEvent:
    copy = reduced(event, reason)
    assert copy is not None
    return copy


def test_it_has_a_uid_of_its_own_and_names_the_refused_event(event: Make) -> None:
    refused = event(1)
    copy = copy_of(refused)
    assert copy.uid != refused.uid
    assert copy.native_id == refused.uid
    assert copy.native_action == ACTION
    assert copy_of(refused, "other reason").uid == copy.uid, "for every sink the same"
    assert copy_of(event(2)).uid != copy.uid
    what = json.loads(bytes(copy.raw))["reduced"]
    assert what["uid"] == refused.uid
    assert what["native_id"] == refused.native_id
    assert what["action"] == refused.native_action
    assert what["sha256"] == refused.raw_sha256
    assert (copy.kind, copy.verb, copy.outcome) == (refused.kind, refused.verb, refused.outcome)
    assert (copy.at, copy.source, copy.vendor) == (refused.at, refused.source, refused.vendor)
    assert copy.actor.email == refused.actor.email


@pytest.mark.parametrize("form", sorted(FORMS))
def test_it_is_marked_in_every_form(event: Make, form: str) -> None:
    text = orjson.dumps(FORMS[form](copy_of(event(1))))
    assert b'"reduced":true' in text
    assert ACTION.encode() in text or form == "raw"
    assert b'"reduced":true' not in orjson.dumps(FORMS[form](event(1)))


def test_there_is_no_reduced_copy_of_a_reduced_copy(event: Make) -> None:
    copy = copy_of(event(1))
    assert reduced(copy, "mapping") is None
    assert reduced(unpack(pack([copy]))[0], "mapping") is None


def test_a_record_that_a_vendor_calls_so_is_no_reduced_copy(event: Make) -> None:
    forged = msgspec.structs.replace(event(1), native_action=ACTION, native_id="a" * 40)
    assert copy_of(forged).native_id == forged.uid


@pytest.mark.parametrize("years", [-1900, -60, 10, 7000])
def test_a_time_that_is_no_time_of_an_audit_log_becomes_that_of_reading(
    event: Make, years: int
) -> None:
    refused = event(1)
    odd = msgspec.structs.replace(refused, at=refused.at + years * 31_556_952_000_000)
    copy = copy_of(odd)
    assert (copy.at, copy.time_quality) == (refused.fetched, "fetched")
    assert json.loads(bytes(copy.raw))["reduced"]["occurred"]


texts = st.text(max_size=400) | st.text("\x00\ud7ff\u202e\u0085a", max_size=400)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(texts, texts)
def test_no_text_of_a_record_comes_through_as_it_is(event: Make, one: str, other: str) -> None:
    poison = msgspec.structs.replace(
        event(1),
        native_id=one,
        native_action=other,
        message=one,
        actor=Actor(kind="user", id=one, name=other, email=one, ip=one, native_type=other),
        target=Target(type=one, id=other, name=one, email=other),
        org_id=one,
        org_name=other,
        project_id=one,
        privilege=other,
        reason=one,
        metadata=msgspec.Raw(json.dumps({one: other}).encode()),
        raw=msgspec.Raw(json.dumps({one: other}).encode()),
    )
    copy = copy_of(poison, other)
    assert len(copy.raw) < 4000
    assert copy.actor.ip is None
    for text in _texts(json.loads(pack([copy]))):
        assert text.isprintable()
        assert len(text) <= 300
    assert set(json.loads(bytes(copy.metadata))) <= set(json.loads(bytes(copy.raw))["reduced"])


def _texts(value: object) -> list[str]:
    if isinstance(value, dict):
        return [*value, *[text for each in value.values() for text in _texts(each)]]
    if isinstance(value, list):
        return [text for each in value for text in _texts(each)]
    return [value] if isinstance(value, str) else []
