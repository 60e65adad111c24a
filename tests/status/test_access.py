"""Access to the status port: the token, the header Host, and the headers of each answer."""

import base64
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.status.idle import PATHS, TOKEN, Idle, client

from auditrelay.settings.secrets import Resolved, Secret
from auditrelay.status.access import allowed_hosts

OPEN = ("/healthz", "/readyz", "/joined")


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


async def test_without_a_token_everything_is_open_on_this_machine(instance: Idle) -> None:
    async with client(instance) as asking:
        for path in PATHS:
            assert (await asking.get(path)).status_code == 200, path


@pytest.mark.parametrize(
    "authorization",
    [f"Bearer {TOKEN}", f"bearer {TOKEN}", basic(f"anybody:{TOKEN}"), basic(f":{TOKEN}")],
)
async def test_the_token_opens_everything(instance: Idle, authorization: str) -> None:
    async with client(instance, token=Secret(TOKEN)) as asking:
        for path in PATHS:
            answer = await asking.get(path, headers={"Authorization": authorization})
            assert answer.status_code == 200, path


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN.upper()}",
        TOKEN,
        f"Digest {TOKEN}",
        basic(TOKEN),
        basic(f"{TOKEN}:"),
        basic(f"anybody:{TOKEN}x"),
        f"Basic {TOKEN}",
        "Basic ====",
        "Basic \xff",
        "Bearer \xfc",
        "Basic " + base64.b64encode(b"a:\xff").decode(),
    ],
)
async def test_nothing_else_opens_anything_but_health(
    instance: Idle, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
    async with client(instance, token=Secret(TOKEN)) as asking:
        for path in (*PATHS, "/nowhere", "/healthz/", "//", "/%68ealthz/../"):
            answer = await asking.get(path, headers=headers)  # type: ignore[arg-type]  # raw bytes
            if path in OPEN:
                assert answer.status_code == 200
                continue
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"].startswith("Basic ")
            assert "acme" not in answer.text
            assert TOKEN not in answer.text


async def test_a_rotated_token_is_valid_at_once(instance: Idle, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    async with client(instance, token=Secret(Resolved(f"${{file:{file}}}", {}))) as asking:
        old, new = ({"Authorization": f"Bearer {each}"} for each in (TOKEN, TOKEN[::-1]))
        assert (await asking.get("/", headers=old)).status_code == 200
        file.write_text(TOKEN[::-1])
        assert (await asking.get("/", headers=old)).status_code == 401
        assert (await asking.get("/", headers=new)).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "relay.example:9464", "127.0.0.1"])
async def test_other_machines_get_neither_page_nor_report_without_a_token(
    instance: Idle, host: str
) -> None:
    async with client(instance, "0.0.0.0:0") as asking:
        for path in (*PATHS, "/nowhere", "//", "/API/status", "/api/status/"):
            answer = await asking.get(path, headers={"Host": host})
            if path in (*OPEN, "/metrics"):
                assert answer.status_code == 200, path
                continue
            assert answer.status_code == 403, path
            assert "AUDITRELAY_STATUS__TOKEN" in answer.text
            assert "acme" not in answer.text


async def test_refused_requests_are_logged_once_a_minute_and_status(instance: Idle) -> None:
    with capture_logs() as logs:
        async with client(instance, token=Secret(TOKEN)) as asking:
            for _ in range(3):
                await asking.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}x"})
                await asking.get("/", headers={"Host": "evil.example"})
    refused = [line for line in logs if line["event"] == "status_request_refused"]
    assert [(line["status"], line["path"], line["client"]) for line in refused] == [
        (401, "/metrics", "127.0.0.1"),
        (421, "/", "127.0.0.1"),
    ]
    assert TOKEN not in str(logs)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "x"])
async def test_a_name_that_only_resolves_to_loopback_is_refused(instance: Idle, host: str) -> None:
    async with client(instance) as asking:
        for path in PATHS:
            answer = await asking.get(path, headers={"Host": host})
            assert answer.status_code == 421, path
            assert "acme" not in answer.text


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1:1", "[::1]", "[::1]:9464"]
)
async def test_the_names_of_this_machine_are_accepted_with_any_port(
    instance: Idle, host: str
) -> None:
    async with client(instance) as asking:
        assert (await asking.get("/", headers={"Host": host})).status_code == 200


def test_the_configured_name_is_one_of_this_machine() -> None:
    usual = {"localhost", "127.0.0.1", "::1"}
    allowed = allowed_hosts("relay.internal:9464", "127.0.1.1")
    assert allowed == frozenset(usual | {"relay.internal", "127.0.1.1"})
    assert allowed_hosts("[::1]:9464", "::1") == frozenset(usual)
    assert allowed_hosts("0.0.0.0:9464", "0.0.0.0") is None
    assert allowed_hosts("[::]:9464", "::") is None


async def test_every_answer_leaves_a_browser_nothing_to_run_but_our_own(instance: Idle) -> None:
    async with client(instance, token=Secret(TOKEN)) as asking:
        for path in (*PATHS, "/nowhere"):
            for headers in ({}, {"Authorization": f"Bearer {TOKEN}"}):
                answer = await asking.get(path, headers=headers)
                policy = answer.headers["content-security-policy"]
                assert policy.startswith("default-src 'none'; ")
                assert "unsafe" not in policy
                assert "frame-ancestors 'none'" in policy
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert answer.headers["referrer-policy"] == "no-referrer"
                kept = path.startswith("/static/") and answer.status_code == 200
                assert answer.headers["cache-control"] == ("no-cache" if kept else "no-store")
