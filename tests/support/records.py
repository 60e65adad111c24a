"""Records of every vendor, usual and odd, to normalize: nothing may change what comes of them."""

import json
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

USUAL: dict[str, dict[str, Any]] = {
    "bland": {
        "id": "6b2f9f3e-0c1e-4b8e-9f3e-3b1f00000001",
        "org_id": "0d5c7a40-52f1-4e0e-8f5e-7f6a0c1e0100",
        "actor_id": "a3c10001-52f1-4e0e-8f5e-7f6a0c1e0200",
        "event_type": "pathway.published",
        "resource_type": "convo_pathway",
        "resource_id": "f1b70001-52f1-4e0e-8f5e-7f6a0c1e0300",
        "metadata": {
            "name": "Inbound support",
            "version_number": 7,
            "environment": "production",
            "nodes": {"added": ["greeting"], "edited": {"turns": 4.5, "live": True}},
        },
        "created_at": "2026-11-20T09:31:07.412Z",
    },
    "cekura": {
        "id": 90_001,
        "organization": 42,
        "organization_name": "Acme Voice",
        "project": 742,
        "project_name": "prod",
        "user": 118,
        "user_email": "dana@acme.example",
        "api_key_name": None,
        "action_type": "object",
        "operation_type": "update",
        "object_type": "aiagent",
        "object_id": 5512,
        "timestamp": "2026-05-11T08:15:01.990052Z",
    },
    "cencori": {
        "id": "0f6c0a5e-9a55-4a5e-8f5e-7f6a0c1e0001",
        "organization_id": "org-7",
        "project_id": "p-1",
        "category": "member",
        "action": "role_changed",
        "resource_type": "member",
        "resource_id": "m-1",
        "actor_id": "u-1",
        "actor_email": "dana@acme.example",
        "actor_ip": "203.0.113.7",
        "actor_type": "user",
        "description": None,
        "metadata": {"email": "lee@acme.example", "before": {"role": "a"}, "after": {"role": "b"}},
        "created_at": "2026-11-20T09:31:07.412+00:00",
    },
    "jitsudo": {
        "id": "evt_1",
        "actor_id": "dana@acme.example",
        "actor_type": "oidc",
        "action": "grant.revoked",
        "resource_type": "grant",
        "resource_id": "g-1",
        "metadata": {"ip": "203.0.113.7", "before": {"ttl": 60}, "after": {"ttl": 30, "by": None}},
        "reasoning": "incident 7",
        "created_at": "2026-11-20T09:31:07.412345Z",
    },
    "slaunch": {
        "id": "s-1",
        "timestamp": "2026-06-02T10:11:12.345Z",
        "event": "sign-in",
        "user": {"a": [1, {"b": None}]},
        "ip": None,
    },
}
"""A usual record of each vendor."""

ROW = {
    "Timestamp": "2026-11-20T09:31:07.412Z",
    "Category": "api_key",
    "Action": "created",
    "Resource Type": "api_key",
    "Resource ID": "-",
    "Project ID": "p-1",
    "Actor": "System",
    "IP Address": "-",
    "Description": 'Created API key "ci"\nfor production',
    "Metadata": '{"key_name":"ci","client_secret":"s3cret"}',
}
"""A row of a CSV export of Cencori."""

_VALUES: list[Any] = [
    "", " ", "x" * 9000, "é\u2028\x7f", '\x01\b\n\r\t"\\/', "\ud800", True, 7, -0.0, 1.5, 1e16,
    1e-7, 1e300, 2**53 + 1, 2**64, -(2**63), [], {}, [1, {"a": None}], {"token": "hush"},
    '{"password":"hush","a":1}', ' \n["a",{"secret":"hush"}]', "{not json: token=hush}", '{"a":1}',
    "see https://acme.example/a/b", "https://dana:hush@acme.example/", "a ://b c\n://d@e",
    "https://acme.example/?page=2&token=hush#x", "see https://a.example and ?api_key=hush",
    "https://acme.example/?q=1;co%64e=hush", 'https://a"b@acme.example', "?token=hush",
    "[redacted]", "2026-11-20", "<b>&amp;</b>",
]  # fmt: skip

_DETAILS: list[Any] = [
    {"password": "hush", "name": "n"}, {"password": None}, {"password": "[redacted]"},
    {"name": "Authorization", "value": "hush"}, {"name": "color", "value": "red"},
    {"key": "api_key", "before": "hush", "after": None}, {"before": {"a": 1}, "after": {"a": 2}},
    {"before": {"a": 1}, "after": [1]}, {"field": "f", "before": 1, "after": 2.5},
    {"email": ["e"], "name": 7, "filename": "f", "version": "v2", "environment": None},
    {"email": "lee@acme.example", "new_role": "admin", "ip_address": "2001:db8::1"},
    {"ip": "not an address", "list": [[{"api_key": "hush"}]]}, {"a#1": 1, "deep": {"": {"": 0}}},
    {"url": "https://dana:hush@acme.example/?sig=hush"}, {"text": '{"token":"hush"}'},
    {"float": 1e16, "small": 1e-7, "half": 0.5, "big": 2**70},
]  # fmt: skip

_TEXTS: list[Callable[[bytes], bytes]] = [
    lambda text: text,
    lambda text: text.replace(b'":', b'" : ').replace(b',"', b',\n  "'),
    lambda text: b" \n" + text + b"\t",
    lambda text: b"\xef\xbb\xbf" + text,
    lambda text: text[:-1] + b',"id":"second"}',
    lambda text: text[:-1] + b',"extra":1,"extra":2,"extra#1":3}',
    lambda text: text[:-1] + b',"extra":NaN}',
    lambda text: text[:-1] + b',"metadata":{"n":1e2,"m":-0,"o":1E400,"p":1.50}}',
    lambda text: text[:-1] + b',"metadata":{"t":"\xff"}}',
    lambda text: text[:-1] + b',"metadata":{"t":"\\u00e9\\/\\ud83d\\ude00","t":1}}',
    lambda text: text[:-1] + b',"metadata":{"t":"\\ud800"}}',
    lambda text: text[:-1] + b',"metadata":' + b"[" * 260 + b"]" * 260 + b"}",
    lambda text: text[:-1] + b',"metadata":' + b'{"a":' * 40 + b"1" + b"}" * 40 + b"}",
    lambda text: text[:-1] + b',"extra":' + b"9" * 5000 + b"}",
    lambda text: text[:-1],
    lambda text: text + b"}",
    lambda text: text.replace(b"2026", b"2026-"),
    lambda text: text.replace(b"Z", b"").replace(b"+00:00", b"+05:30"),
    lambda text: text.replace(b'"id"', b'"_id"'),
    lambda _: b"[1, 2]", lambda _: b"null", lambda _: b'"https://a:hush@b"', lambda _: b"",
    lambda _: b"{}", lambda _: b'{"metadata":null}', lambda _: b"token=hush",
    lambda _: json.dumps(ROW).encode(), lambda _: json.dumps({**ROW, "Actor": "d@x"}).encode(),
    lambda _: json.dumps({**ROW, "Metadata": "-", "Twin": 2, "Category": []}).encode(),
]  # fmt: skip


def variants(vendor: str) -> Iterator[bytes]:
    """Yield records of *vendor*: a usual one, and what one may make of it."""
    usual = USUAL[vendor]
    fields = list(usual)

    def text(record: dict[str, Any]) -> bytes:
        plain = json.dumps(record, separators=(",", ":"), ensure_ascii=False)
        return plain.encode("utf-8", "surrogatepass")

    for change in _TEXTS:
        yield change(text(usual))
    for number, value in zip(count(len(vendor)), _VALUES, strict=False):
        yield text(usual | {fields[number % len(fields)]: value})
        yield text(usual | {fields[number * 5 % len(fields)]: value, "extra": value})
        yield json.dumps(usual | {fields[-number % len(fields)]: value}).encode()
    for field in fields:
        yield text({**usual, field: None})
        yield text({name: value for name, value in usual.items() if name != field})
        yield text(usual | {field: {"token": "hush"}})
    for details in _DETAILS:
        for name in ("metadata", "user"):
            if name in usual:
                yield text(usual | {name: details})
    if vendor == "slaunch":
        yield text({"id": 7, "timestamp": usual["timestamp"], "action": "sign-in"})
        yield text({"id": "", "timestamp": usual["timestamp"]})
