"""What identifies a described source: in a header, in several, by Basic."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.authorized import feed, settings_of
from tests.support.clock import FakeClock
from tests.support.peers import Server

from auditrelay.http.credentials import Credentials
from auditrelay.http.peer import Peer
from auditrelay.sources.described.auth import credentials
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrub

REQUEST = httpx.Request("GET", "https://api.acme.example/logs")

SETTINGS = {"login": {"about": "Who.", "example": "dana", "default": "dana@acme.example"}}


def made(auth: Mapping[str, Any], **secrets: Any) -> Credentials:
    settings = settings_of(feed(auth, SETTINGS), secrets)
    return credentials("acme", settings, Metrics(), FakeClock())


@pytest.mark.parametrize(
    ("auth", "secrets", "headers"),
    [
        (
            {"kind": "header", "secret": "token"},
            {"token": "t-0123456789"},
            {"authorization": "t-0123456789"},
        ),
        (
            {"kind": "header", "secret": "token", "prefix": "SSWS "},
            {"token": "t-0123456789"},
            {"authorization": "SSWS t-0123456789"},
        ),
        (
            {"kind": "header", "secret": "token", "header": "X-Api-Key", "prefix": "Token token="},
            {"token": "t-0123456789"},
            {"X-Api-Key": "Token token=t-0123456789"},
        ),
        (
            {"kind": "headers", "headers": {"dd-api-key": "api", "dd-application-key": "app"}},
            {"api": "api-0123456789", "app": "app-0123456789"},
            {"dd-api-key": "api-0123456789", "dd-application-key": "app-0123456789"},
        ),
    ],
)
def test_secrets_in_headers(
    auth: Mapping[str, Any], secrets: Mapping[str, str], headers: Mapping[str, str]
) -> None:
    assert made(auth, **secrets).headers(REQUEST) == headers


@pytest.mark.parametrize(
    ("user", "password", "pair"),
    [
        ("secret:key", "text:", "k-0123456789:"),
        ("setting:login", "secret:key", "dana@acme.example:k-0123456789"),
        ("text:api", "secret:key", "api:k-0123456789"),
        ("text:a:b", "secret:key", "a:b:k-0123456789"),
    ],
)
def test_basic_has_secrets_settings_and_texts(user: str, password: str, pair: str) -> None:
    basic = made({"kind": "basic", "user": user, "password": password}, key="k-0123456789")
    scheme, _, value = basic.headers(REQUEST)["authorization"].partition(" ")
    assert (scheme, base64.b64decode(value).decode()) == ("Basic", pair)
    assert "0123456789" not in scrub(f"the server repeats {pair} and Basic {value}")
    assert value not in scrub(f"the server repeats Basic {value}")


@pytest.mark.parametrize(
    "auth",
    [
        {"kind": "header", "secret": "token", "header": "x-key"},
        {"kind": "headers", "headers": {"x-key": "token"}},
    ],
)
async def test_a_rotated_key_is_read_again(
    auth: Mapping[str, Any], tmp_path: Path, clock: FakeClock
) -> None:
    key = tmp_path / "key"
    key.write_text("old-key-0123456789\n")
    async with Server() as server:
        settings = settings_of(feed(auth), {"token": f"${{file:{key}}}", "base_url": server.url})
        peer = Peer(
            "acme",
            settings,
            base_url=server.url,
            credentials=credentials("acme", settings, Metrics(), clock),
            metrics=Metrics(),
            clock=clock,
        )
        server.key = "new-key-0123456789"
        key.write_text("new-key-0123456789\n")
        assert (await peer.request("GET", "/logs")).status == 200
        await peer.aclose()
        assert [seen.headers["x-key"][:7] for seen in server.seen] == ["old-key", "new-key"]
