"""
A description says what a module says: for three vendors that have both, event by event.

This is the measure of the language. What it cannot say is listed here, field by field, each with
the records that show it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.events.test_gate import pages
from tests.support.corpus import GOLDEN
from tests.support.described import SEEDS, normalizer, seed
from tests.support.extent import extent
from tests.support.records import variants

from auditrelay.descriptions.load import read
from auditrelay.events import AuditEvent
from auditrelay.events.normalize import vendor_named

VENDORS = sorted(path.stem for path in SEEDS.glob("*.toml"))

Differs = Callable[[AuditEvent, AuditEvent], bool]


def is_guessed(_: AuditEvent, described: AuditEvent) -> bool:
    return "unknown_action" in described.warnings


def of(event: AuditEvent, name: str) -> Any:
    """Return a field of the record of *event*, whatever that is."""
    record = orjson.loads(bytes(event.raw))
    return record.get(name) if isinstance(record, dict) else None


def details(event: AuditEvent) -> dict[str, Any]:
    found = of(event, "metadata")
    return found if isinstance(found, dict) else {}


def has_an_email_elsewhere(module: AuditEvent, _: AuditEvent) -> bool:
    """The email of the details is the actor's in a sign-in only: no path has a condition."""
    return module.native_category != "auth" and isinstance(details(module).get("email"), str | int)


def names_a_sign_in(module: AuditEvent, _: AuditEvent) -> bool:
    """The name in the details is the target's, unless it is a sign-in: no path has a condition."""
    return module.native_category == "auth" and bool({"name", "filename"} & details(module).keys())


def acts_with_a_key_too(module: AuditEvent, _: AuditEvent) -> bool:
    """A user and a key's name in one record, which the vendor excludes: one alternative counts."""
    return of(module, "api_key_name") is not None and module.actor.kind == "user"


def claims_no_address(_: AuditEvent, described: AuditEvent) -> bool:
    """What stands at a path to an address is shown as it is, and is not marked as claimed."""
    return described.actor.ip is not None


def always(_: AuditEvent, __: AuditEvent) -> bool:
    return True


ALLOWED: dict[str, dict[str, list[Differs]]] = {
    "bland": {
        # the part of an action before its dot, and lists of what is new: no functions
        "native_category": [always],
        "changes": [lambda module, _: bool(module.changes)],
        "actor": [has_an_email_elsewhere],
        "target": [names_a_sign_in],
        "message": [has_an_email_elsewhere, names_a_sign_in],
    },
    "cekura": {
        # an action in three fields, of which the first is left out where it is "object"
        "native_action": [always],
        "message": [always],
        # what is in no table is guessed from all three, and its outcome is not known
        **{name: [is_guessed] for name in ("kind", "verb", "outcome", "warnings")},
        "actor": [acts_with_a_key_too],
        "unmapped": [acts_with_a_key_too],
    },
    "jitsudo": {
        # a kind is guessed from the type of the resource, a verb from the last word alone
        "kind": [is_guessed],
        "verb": [is_guessed],
        "warnings": [is_guessed, claims_no_address],
        "actor": [claims_no_address],
    },
}


def differences(
    vendor: str, module: AuditEvent, described: AuditEvent
) -> dict[str, tuple[object, object]]:
    """Return the fields in which the two differ, without those that are allowed to."""
    allowed = ALLOWED[vendor]
    found = {}
    for name in AuditEvent.__struct_fields__:
        one, other = getattr(module, name), getattr(described, name)
        reasons = allowed.get(name, [])
        if one != other and not any(differs(module, described) for differs in reasons):
            found[name] = (one, other)
    return found


def compare(vendor: str, records: list[bytes], **changes: Any) -> None:
    """Assert that both make the same of *records*, as one page and each alone."""
    by_module = normalizer(vendor_named(vendor), **changes)
    by_description = normalizer(seed(vendor), **changes)
    for page in (records, *([record] for record in records)):
        for module, described in zip(by_module(page, 5), by_description(page, 5), strict=True):
            assert differences(vendor, module, described) == {}, bytes(module.raw)


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("redact", ["default", "off", ["*email*", "extra", "before"]])
def test_an_event_by_a_description_is_the_one_by_the_module(vendor: str, redact: Any) -> None:
    golden = [json.loads(path.read_bytes())["record"] for path in (GOLDEN / vendor).iterdir()]
    compare(vendor, [*variants(vendor), *map(orjson.dumps, golden)], redact=redact)


@pytest.mark.slow
@pytest.mark.parametrize("vendor", VENDORS)
@given(data=st.data())
@settings(deadline=None, max_examples=extent(20, 300))
def test_whatever_a_record_is_both_make_the_same_event(vendor: str, data: st.DataObject) -> None:
    compare(vendor, data.draw(pages(vendor)))


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_page_is_identified_alike(vendor: str) -> None:
    records = list(variants(vendor))
    one = normalizer(vendor_named(vendor)).identify(records, 5)
    other = normalizer(seed(vendor)).identify(records, 5)
    assert one.uid == other.uid
    assert one.content == other.content


@pytest.mark.parametrize("vendor", VENDORS)
def test_the_description_is_one_that_an_operator_could_write(vendor: str, tmp_path: Path) -> None:
    text = (SEEDS / f"{vendor}.toml").read_text()
    file = tmp_path / "again.toml"
    file.write_text(text.replace(f'vendor = "{vendor}"', f'vendor = "{vendor}_again"'))
    assert read(file).feed().key == f"{vendor}_again"


def test_every_difference_that_is_allowed_is_there() -> None:
    """Else the list would hide new differences."""
    unused = {
        (vendor, name): set(range(len(reasons)))
        for vendor, fields in ALLOWED.items()
        for name, reasons in fields.items()
    }
    for vendor, fields in ALLOWED.items():
        by_module, by_description = normalizer(vendor_named(vendor)), normalizer(seed(vendor))
        records = [*variants(vendor), *MORE.get(vendor, [])]
        for record in records:
            [module], [described] = by_module([record], 5), by_description([record], 5)
            for name, reasons in fields.items():
                if getattr(module, name) != getattr(described, name):
                    used = [n for n, differs in enumerate(reasons) if differs(module, described)]
                    unused[vendor, name].difference_update(used)
    assert {key: left for key, left in unused.items() if left} == {}


MORE = {
    "jitsudo": [b'{"id":"1","action":"grant.create.x"}'],
    "bland": [
        b'{"id":"1","event_type":"auth.logout","actor_id":"a","metadata":{"name":"n"}}',
    ],
}
