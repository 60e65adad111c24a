"""Whatever a vendor writes where an address is expected, a SIEM's typed field gets an address."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from auditrelay.events import AuditEvent
from auditrelay.events.addresses import client_ip, ip_and_text

Written = Callable[[AuditEvent], dict[str, bytes]]


@pytest.mark.parametrize(
    ("text", "ip"),
    [
        ("203.0.113.7", "203.0.113.7"),
        (" 203.0.113.7\t", "203.0.113.7"),
        ("203.0.113.7, 10.0.0.1", "203.0.113.7"),
        ("203.0.113.7,10.0.0.1,::1", "203.0.113.7"),
        ("203.0.113.7 10.0.0.1", "203.0.113.7"),
        ("203.0.113.7;10.0.0.1", "203.0.113.7"),
        ("unknown, 203.0.113.7", "203.0.113.7"),
        ("203.0.113.7:443", "203.0.113.7"),
        ("203.0.113.7:443, 10.0.0.1:80", "203.0.113.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("[], 203.0.113.7", "203.0.113.7"),
        ("[fe80::1%25eth0]:80", "fe80::1"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("[::FFFF:203.0.113.7]:443", "203.0.113.7"),
        ('for=203.0.113.7;proto=https;by=10.0.0.1, for="[2001:db8::1]:80"', "203.0.113.7"),
        ('Forwarded: For="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::17"),
        ("for=_hidden, for=203.0.113.7:_port", "203.0.113.7"),
        ("for=unknown", None),
        ("by=203.0.113.7", None),
        ("203.0.113", None),
        ("203.0.113.7.8", None),
        ("999.0.113.7", None),
        ("203.0.113.7:443:80", None),
        ("[203.0.113.7", None),
        ("host.acme.example", None),
        ("", None),
        ("," * 5000 + "203.0.113.7", None),
        ("\ud800", None),
    ],
)
def test_the_client_is_the_first_address_in_the_text(text: str, ip: str | None) -> None:
    assert client_ip(text) == ip
    assert ip_and_text(text) == ((ip, text if ip != text else None) if ip else (text or None, None))


@pytest.mark.parametrize("text", ["203.0.113.7, 10.0.0.1", "203.0.113.7:443", " 203.0.113.7"])
@pytest.mark.parametrize("vendor", ["cencori", "jitsudo"])
def test_every_form_has_the_address_and_the_text_beside_it(
    vendor: str, text: str, one: Callable[..., AuditEvent], written: Written
) -> None:
    record: dict[str, Any] = {"id": "1", "organization_id": "o", "actor_id": "dana"}
    record |= {"actor_ip": text} if vendor == "cencori" else {"metadata": {"ip": text}}
    forms = {name: json.loads(form) for name, form in written(one(record, vendor)).items()}
    ip = "203.0.113.7"
    assert forms["ecs"]["source"] == {"address": text, "ip": ip}
    assert forms["ecs"]["related"]["ip"] == [ip]
    assert (forms["cim"]["src"], forms["cim"]["src_address"]) == (ip, text)
    assert forms["datadog"]["network"] == {"client": {"ip": ip, "address": text}}
    assert forms["ocsf"]["src_endpoint"] == {"ip": ip}
    assert forms["ocsf"]["unmapped"]["actor_address"] == text


def test_an_address_that_the_requester_may_have_written_is_marked(
    one: Callable[..., AuditEvent],
) -> None:
    claimed = one({"id": "1", "metadata": {"ip": "203.0.113.7"}}, "jitsudo")
    assert "claimed_ip" in claimed.warnings
    assert "claimed_ip" not in one({"id": "1", "metadata": {"ip": "?"}}, "jitsudo").warnings
