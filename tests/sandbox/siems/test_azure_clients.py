"""The doubles of Azure are faithful: Microsoft's own clients work with them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from azure.core.credentials import TokenCredential
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.identity import CredentialUnavailableError, ManagedIdentityCredential
from azure.monitor.ingestion import LogsIngestionClient, LogsUploadError

from auditrelay.sandbox import faults
from auditrelay.sandbox.entra import APP_PATH, CLIENT_ID, IDENTITY_HEADER
from auditrelay.sandbox.siems.azure_logs import RULE, AzureLogs

STREAM = "Custom-AuditRelay"


@pytest.fixture
async def azure() -> AsyncIterator[AzureLogs]:
    async with AzureLogs() as double:
        yield double


@pytest.fixture(params=["machine", "app"])
async def credential(
    azure: AzureLogs, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[..., TokenCredential]:
    """Return how Microsoft's own client of managed identities is made, for a machine or an app."""
    for name in ("IDENTITY_ENDPOINT", "IDENTITY_HEADER", "IMDS_ENDPOINT", "MSI_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", azure.entra.url)
    if request.param == "app":
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{azure.entra.url}{APP_PATH}")
        monkeypatch.setenv("IDENTITY_HEADER", IDENTITY_HEADER)

    def make(client_id: str | None = None) -> TokenCredential:
        return ManagedIdentityCredential(client_id=client_id, retry_total=0)

    return make


def rows(count: int, size: int = 0) -> list[Any]:
    return [
        {
            "TimeGenerated": "2026-11-20T12:00:00Z",
            "EventUid": f"u{number}",
            "EventOriginalUid": f"n{number}",
            "AdditionalFields": {"record": {"id": number, "text": "x" * size}},
        }
        for number in range(count)
    ]


def upload(
    azure: AzureLogs, credential: TokenCredential, logs: Any, *, rule: str = RULE, **keys: Any
) -> None:
    with LogsIngestionClient(azure.url, credential, retry_total=keys.pop("retries", 0)) as client:
        # The client gives no token to a server without TLS, unless it is asked to.
        client.upload(rule, STREAM, logs, enforce_https=False, **keys)


async def test_the_client_uploads_rows(
    azure: AzureLogs, credential: Callable[..., TokenCredential]
) -> None:
    await asyncio.to_thread(upload, azure, credential(), rows(3))
    await asyncio.to_thread(upload, azure, credential(CLIENT_ID), rows(1))
    assert azure.stored.by_uid == {"u0": 2, "u1": 1, "u2": 1}, "there is no key"
    assert azure.stored.documents[2]["AdditionalFields"]["record"]["id"] == 2
    assert azure.answered == {204: 2}
    assert not azure.undeclared
    assert not azure.mistyped
    [first, *_] = azure.seen
    assert first.headers["content-encoding"] == "gzip"
    assert first.query == {"api-version": "2023-01-01"}


async def test_the_client_cuts_what_is_too_large_for_a_request(
    azure: AzureLogs, credential: Callable[..., TokenCredential]
) -> None:
    azure.limit_body(1024 * 1024 + 1000)  # it does not count brackets and commas
    await asyncio.to_thread(upload, azure, credential(), rows(300, 10_000))
    assert len(azure.stored.by_uid) == 300
    assert azure.answered[204] == 3


@pytest.mark.parametrize(
    ("prepare", "keys", "status", "code"),
    [
        (lambda it: it.take_rights(), {}, 403, "OperationFailed"),
        (lambda _: None, {"rule": f"dcr-{'f' * 32}"}, 404, "NotFound"),
        (lambda it: it.limit_body(10), {}, 413, "ContentLengthLimitExceeded"),
        (lambda it: it.fail_batches(faults.too_many()), {}, 429, None),
        (lambda it: setattr(it, "streams", {}), {}, 400, "InvalidStream"),
    ],
)
async def test_the_client_understands_a_refusal(
    azure: AzureLogs,
    credential: Callable[..., TokenCredential],
    prepare: Callable[[AzureLogs], object],
    keys: dict[str, Any],
    status: int,
    code: str | None,
) -> None:
    prepare(azure)
    with pytest.raises(HttpResponseError) as caught:
        await asyncio.to_thread(upload, azure, credential(), rows(1), **keys)
    assert caught.value.status_code == status
    if code is not None:
        assert caught.value.error is not None
        assert caught.value.error.code == code
    assert azure.stored.total == 0


async def test_the_client_knows_which_rows_were_not_taken(
    azure: AzureLogs, credential: Callable[..., TokenCredential]
) -> None:
    failed: list[LogsUploadError] = []
    azure.fail_batches(faults.answer(400))
    await asyncio.to_thread(upload, azure, credential(), rows(150, 10_000), on_error=failed.append)
    (error,) = failed
    assert len(error.failed_logs) + azure.stored.total == 150
    assert azure.stored.total > 0


async def test_the_client_waits_as_retry_after_says(
    azure: AzureLogs, credential: Callable[..., TokenCredential]
) -> None:
    azure.fail_batches(faults.too_many(retry_after="0"))
    await asyncio.to_thread(upload, azure, credential(), rows(1), retries=1)
    assert azure.answered == {429: 1, 204: 1}


async def test_the_client_of_identities_understands_a_refusal(
    azure: AzureLogs, credential: Callable[..., TokenCredential]
) -> None:
    unknown = credential("33333333-0000-0000-0000-000000000000")
    with pytest.raises((CredentialUnavailableError, ClientAuthenticationError), match="not found"):
        await asyncio.to_thread(unknown.get_token, "https://monitor.azure.com/.default")
    assert not azure.entra.granted
