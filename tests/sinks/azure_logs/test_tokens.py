"""Tokens of the sink: by a secret, a file, or from Azure itself; one at a time, in time, hidden."""

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.clock import FakeClock

from auditrelay.errors import ConfigError, Refused, Retryable
from auditrelay.sandbox import faults
from auditrelay.sandbox.entra import (
    APP_PATH,
    ASSERTION,
    CLIENT_ID,
    IDENTITY_HEADER,
    MACHINE_PATH,
    TENANT,
)
from auditrelay.sandbox.siems.azure_logs import AzureLogs
from auditrelay.settings.secrets import Resolved, Secret
from auditrelay.sinks import Item, Sink, Verdict, _entra
from auditrelay.telemetry.scrubber import scrub

Make = Callable[..., Sink]
Items = Callable[[Sink, int], list[Item]]

NO_PROXY = "http://127.0.0.1:1"
"""Where nothing listens: what is asked by it fails."""

NO_SECRET: dict[str, Any] = {"client_secret": None}
MANAGED: dict[str, Any] = {
    **NO_SECRET,
    "identity": "managed",
    "tenant_id": None,
    "client_id": None,
    "authority": None,
}


@pytest.fixture(autouse=True)
def outside_of_azure(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IDENTITY_ENDPOINT", "IDENTITY_HEADER", "AZURE_FEDERATED_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def machine(rule: AzureLogs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_entra, "METADATA", f"{rule.entra.url}{MACHINE_PATH}")


@pytest.fixture
def app(rule: AzureLogs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"{rule.entra.url}{APP_PATH}")
    monkeypatch.setenv("IDENTITY_HEADER", IDENTITY_HEADER)


@pytest.fixture
def workload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "azure-identity-token"
    file.write_text(ASSERTION)
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(file))


# --- by a secret


async def test_many_requests_at_once_take_one_token_and_another_after_a_401(
    rule: AzureLogs, make: Make, items: Items
) -> None:
    sink = make()
    batch = items(sink, 20)
    await asyncio.gather(*(sink.send([each]) for each in batch))
    assert len(rule.entra.granted) == 1
    rule.entra.revoke()
    await asyncio.gather(*(sink.send([each]) for each in batch))
    assert len(rule.entra.granted) == 2
    assert not any(rule.stored.by_uid[each.uid] != 2 for each in batch)


async def test_two_sinks_of_one_application_share_a_token(
    rule: AzureLogs, make: Make, items: Items
) -> None:
    for sink in (make(), make(stream="Custom-AuditRelayAuthentication")):
        await sink.send(items(sink, 1))
    assert len(rule.entra.granted) == 1


@pytest.mark.parametrize(("life", "holds"), [(3600, 3540), (5, 4.5)])
async def test_a_token_is_taken_again_before_it_ends(
    rule: AzureLogs, make: Make, items: Items, clock: FakeClock, life: float, holds: float
) -> None:
    rule.entra.life = life
    sink = make()
    await sink.send(items(sink, 1))
    clock.advance(holds - 0.1)
    await sink.send(items(sink, 1))
    assert len(rule.entra.granted) == 1
    clock.advance(0.2)
    await sink.send(items(sink, 1))
    assert len(rule.entra.granted) == 2
    assert rule.answered[401] == 0


async def test_a_token_is_in_no_message(rule: AzureLogs, make: Make, items: Items) -> None:
    sink = make()
    await sink.send(items(sink, 1))
    (token,) = rule.entra.granted
    assert token not in scrub(f"Bearer {token}")
    rule.fail_batches(faults.answer(400, b'{"error":{"message":"odd: %b"}}' % token.encode()))
    with pytest.raises(Exception, match="odd") as caught:
        await sink.send(items(sink, 1))
    assert token not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "status", "words"),
    [
        ({"client_secret": "wrong-secret-of-ours"}, 401, "AADSTS7000215"),
        ({"client_id": "33333333-0000-0000-0000-000000000000"}, 400, "AADSTS700016"),
        ({"tenant_id": "elsewhere.example"}, 400, "AADSTS90002"),
        ({"cloud": "government"}, 401, "check cloud"),
    ],
)
async def test_what_is_refused_holds_the_sink_with_entras_words(
    rule: AzureLogs, make: Make, items: Items, keys: dict[str, Any], status: int, words: str
) -> None:
    sink = make(**keys)
    for work in (sink.send(items(sink, 1)), sink.check()):
        with pytest.raises(Refused, match=words) as caught:
            await work
        assert (caught.value.status, caught.value.sent) == (status, False)
        assert "wrong-secret-of-ours" not in str(caught.value)
    assert rule.stored.total == 0


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (faults.too_many(retry_after=7), "status_429"),
        (faults.html(503), "status_503"),
        (faults.hang(), "timeout"),
        (faults.store_then_reset(), "reset"),
        (faults.html(200), "bad_reply"),
    ],
)
async def test_a_token_that_is_late_is_asked_for_again_and_no_row_was_sent(
    rule: AzureLogs, make: Make, items: Items, action: faults.Action, reason: str
) -> None:
    sink = make(timeout="1s")
    rule.entra.faults.add(action)
    with pytest.raises(Retryable) as caught:
        await sink.send(items(sink, 1))
    error = caught.value
    assert (error.reason, error.sent) == (reason, False)
    assert error.retry_after == (7 if reason == "status_429" else None)
    if reason == "status_429":
        return  # until then it is not asked again
    assert await sink.send(items(sink, 1)) == Verdict()


async def test_tokens_are_asked_for_by_the_proxy_of_the_sink(
    rule: AzureLogs, make: Make, items: Items
) -> None:
    with pytest.raises(Retryable, match="oauth2") as caught:
        await make(proxy=NO_PROXY).send(items(make(), 1))
    assert caught.value.reason == "connect"
    assert not rule.entra.seen


# --- workload identity


@pytest.mark.usefixtures("workload")
async def test_workload_identity_sends_what_the_file_has_then(
    rule: AzureLogs, make: Make, items: Items, tmp_path: Path
) -> None:
    file = tmp_path / "azure-identity-token"
    sink = make(**NO_SECRET, identity="workload")
    await sink.send(items(sink, 1))
    assert ASSERTION not in scrub(f"odd {ASSERTION}")
    other = "sandbox.Zm9yIHRvbW9ycm93.not7a4real2one"
    rule.entra.assertions = {other}
    file.write_text(f"{other}\n")
    rule.entra.revoke()
    assert await sink.send(items(sink, 1)) == Verdict()
    assert len(rule.entra.granted) == 2


@pytest.mark.usefixtures("workload", "rule")
async def test_workload_identity_takes_tenant_and_client_from_the_environment(
    make: Make, items: Items, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
    monkeypatch.setenv("AZURE_CLIENT_ID", CLIENT_ID)
    sink = make(**NO_SECRET, identity="workload", tenant_id=None, client_id=None)
    assert await sink.send(items(sink, 1)) == Verdict()


@pytest.mark.usefixtures("workload")
async def test_workload_identity_says_what_is_wrong_with_its_file(
    make: Make, items: Items, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "azure-identity-token"
    sink = make(**NO_SECRET, identity="workload")
    file.write_text("")
    with pytest.raises(Refused, match=r"azure-identity-token is empty"):
        await sink.send(items(sink, 1))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(Refused, match="it is not a token"):
        await sink.send(items(sink, 1))
    file.unlink()
    with pytest.raises(Refused, match="No such file"):
        await sink.send(items(sink, 1))
    file.write_text("not.the-right.one")
    with pytest.raises(Refused, match=r"AADSTS70021.*issuer, subject and audience"):
        await sink.send(items(sink, 1))
    monkeypatch.delenv("AZURE_FEDERATED_TOKEN_FILE")
    with pytest.raises(ConfigError, match=r"needs .AZURE_FEDERATED_TOKEN_FILE"):
        make(**NO_SECRET, identity="workload")


# --- managed identity


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("client_id", [None, CLIENT_ID])
async def test_a_machine_asks_its_metadata_service(
    rule: AzureLogs, make: Make, items: Items, client_id: str | None
) -> None:
    sink = make(**{**MANAGED, "client_id": client_id})
    assert await sink.send(items(sink, 1)) == Verdict()
    (seen,) = rule.entra.seen
    assert seen.headers["metadata"] == "true"
    assert seen.query.get("client_id") == client_id


@pytest.mark.usefixtures("app")
async def test_an_app_asks_its_identity_endpoint(
    rule: AzureLogs, make: Make, items: Items, clock: FakeClock
) -> None:
    """It says when a token ends, but not how long it holds."""
    rule.entra.clock = clock.seconds
    sink = make(**MANAGED)
    assert await sink.send(items(sink, 1)) == Verdict()
    assert [seen.path for seen in rule.entra.seen] == [APP_PATH]
    assert IDENTITY_HEADER not in scrub(f"odd {IDENTITY_HEADER}")
    clock.advance(3500)
    await sink.send(items(sink, 1))
    assert len(rule.entra.granted) == 1
    clock.advance(50)
    await sink.send(items(sink, 1))
    assert len(rule.entra.granted) == 2


@pytest.mark.usefixtures("machine")
async def test_a_managed_identity_is_asked_past_the_proxy(
    rule: AzureLogs, make: Make, items: Items
) -> None:
    """Its address means this machine, and a proxy's own identity would be another one."""
    with pytest.raises(Retryable, match="dataCollectionRules"):
        await make(**MANAGED, proxy=NO_PROXY).send(items(make(), 1))
    assert [seen.path for seen in rule.entra.seen] == [MACHINE_PATH]


@pytest.mark.usefixtures("machine")
async def test_a_managed_identity_that_is_not_there_is_said(
    rule: AzureLogs, make: Make, items: Items
) -> None:
    sink = make(**{**MANAGED, "client_id": "33333333-0000-0000-0000-000000000000"})
    with pytest.raises(Refused, match=r"Identity not found.*client_id if there are several"):
        await sink.send(items(sink, 1))
    await rule.entra.stop()
    with pytest.raises(Retryable, match="does this run in Azure") as caught:
        await make(**MANAGED).check()
    assert not caught.value.sent


def test_the_metadata_service_is_the_one_of_azure_and_no_setting_leads_there(make: Make) -> None:
    assert _entra.METADATA.startswith("http://169.254.169.254/metadata/identity/")
    for key in ("endpoint", "authority"):
        with pytest.raises(ValueError, match="cloud metadata service"):
            make(**{key: "https://169.254.169.254"})


@pytest.mark.parametrize("address", ["nowhere", "ftp://localhost/x", "http://"])
def test_an_identity_endpoint_that_is_none_is_said_at_the_start(
    make: Make, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("IDENTITY_ENDPOINT", address)
    monkeypatch.setenv("IDENTITY_HEADER", "h")
    with pytest.raises(ConfigError, match="IDENTITY_ENDPOINT is not an address"):
        make(**MANAGED)


# --- rotation


async def test_a_secret_that_was_rotated_is_read_again_at_the_token_endpoint(
    rule: AzureLogs, make: Make, items: Items, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    file.write_text(rule.secret)
    sink = make(client_secret=Secret(Resolved(f"${{file:{file}}}")))
    for number, old in zip(range(3), itertools.repeat(file)):
        assert await sink.send(items(sink, 1)) == Verdict()
        rule.rotate(f"a-new-secret-number-{number}")
        old.write_text(rule.secret)
    assert rule.entra.answered[401] == 2
