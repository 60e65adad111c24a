"""The keys of the sink, and what is said of a wrong one."""

from typing import Any

import pytest
from pydantic import ValidationError

from auditrelay.sinks.azure_logs import Settings

RULE = f"dcr-{'0' * 32}"
TENANT = CLIENT = "00000000-0000-0000-0000-000000000000"
ENDPOINT = "https://a-b.westeurope-1.ingest.monitor.azure.com"
WITH_SECRET: dict[str, Any] = {
    "type": "azure_logs",
    "endpoint": ENDPOINT,
    "rule_id": RULE,
    "tenant_id": TENANT,
    "client_id": CLIENT,
    "client_secret": "s-1234567",
}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID"):
        monkeypatch.delenv(name, raising=False)


def read(**keys: Any) -> Settings:
    given = {**WITH_SECRET, **keys}
    return Settings.model_validate({key: each for key, each in given.items() if each is not None})


@pytest.mark.parametrize(
    ("cloud", "authority", "resource"),
    [
        ("public", "https://login.microsoftonline.com", "https://monitor.azure.com"),
        ("government", "https://login.microsoftonline.us", "https://monitor.azure.us"),
        ("china", "https://login.chinacloudapi.cn", "https://monitor.azure.cn"),
    ],
)
def test_the_cloud_gives_the_addresses(cloud: str, authority: str, resource: str) -> None:
    settings = read(cloud=cloud)
    assert settings.addresses == {"endpoint": ENDPOINT, "authority": authority}
    assert settings.resource == resource
    assert settings.proves == "taken"


def test_an_authority_of_ones_own_replaces_that_of_the_cloud() -> None:
    settings = read(cloud="government", authority="https://login.example/")
    assert settings.addresses["authority"] == "https://login.example"


def test_a_managed_identity_needs_neither_tenant_nor_client() -> None:
    keys = {"client_secret": None, "tenant_id": None}
    assert read(identity="managed", **keys, client_id=None).addresses == {"endpoint": ENDPOINT}
    assert read(identity="managed", **keys).client_id == CLIENT


NO_SECRET: dict[str, Any] = {"client_secret": None}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"endpoint": "http://x.example"}, "endpoint: plain http"),
        ({"authority": "http://x.example"}, "authority: plain http"),
        ({"endpoint": f"{ENDPOINT}/dataCollectionRules/{RULE}"}, "endpoint alone, without /data"),
        (
            {"endpoint": "https://a.westeurope-1.handler.control.monitor.azure.com"},
            "configuration access endpoint",
        ),
        ({"rule_id": "my-rule"}, "'my-rule' is not the immutable id"),
        ({"rule_id": f"/subscriptions/x/dataCollectionRules/{RULE}"}, "nor its resource id"),
        ({"rule_id": RULE.upper()}, "dcr- and 32 hex digits"),
        ({"stream": "AuditRelay_CL"}, "'AuditRelay_CL' is not a stream: Custom- and a name"),
        ({"stream_authentication": "Custom-"}, "is not a stream"),
        ({"stream": "Custom-a/../b"}, "is not a stream"),
        ({"tenant_id": "../x"}, "is not a tenant"),
        ({"client_id": "auditrelay"}, "it is a GUID, not a name"),
        ({"cloud": "azure"}, "'public', 'government' or 'china'"),
        (NO_SECRET, "client_secret and identity: set one"),
        ({"identity": "managed"}, "client_secret and identity: set one"),
        ({"tenant_id": None}, "tenant_id: is missing; client_secret needs it"),
        ({"client_id": None}, "client_id: is missing; client_secret needs it"),
        ({**NO_SECRET, "identity": "managed"}, "tenant_id: a managed identity has none"),
        (
            {**NO_SECRET, "identity": "managed", "tenant_id": None, "authority": ENDPOINT},
            "authority: a managed identity does not ask Entra ID",
        ),
        (
            {**NO_SECRET, "identity": "workload", "tenant_id": None},
            "tenant_id: is missing, and the environment has no AZURE_TENANT_ID",
        ),
        (
            {**NO_SECRET, "identity": "workload", "client_id": None},
            "client_id: is missing, and the environment has no AZURE_CLIENT_ID",
        ),
        ({"identity": "arc"}, "'managed' or 'workload'"),
        ({"batch_bytes": "1MiB"}, "less than or equal to 1000000"),
        ({"format": "xml"}, "'asim'"),
    ],
)
def test_a_wrong_setting_says_what_is_wrong(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        read(**keys)
