"""Every command of a tutorial works, and what it promises is in the SIEM afterwards."""

import json
import shutil
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from tests.support.certificates import certify
from tests.support.daemon import eventually
from tests.website.tutorial import Followed, follow

from auditrelay.sandbox import Intake, Sandbox, Vendor

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
EVENTS = 60


def filled(vendor: Vendor) -> Vendor:
    """Give *vendor* events of the last hours: the newest is older than what is not settled yet."""
    now = datetime.now(UTC)
    vendor.fill(EVENTS, now - timedelta(hours=3), now - timedelta(hours=1))
    return vendor


async def walk(
    name: str, home: Path, vendor: Vendor, intake: Intake, environ: dict[str, str], **typed: str
) -> Followed:
    """Follow the tutorial *name*; all events of *vendor* reach *intake* meanwhile."""

    async def beside() -> None:
        await eventually(lambda: not intake.stored.lost(set(vendor.known_ids())))

    followed = await follow(
        TUTORIALS / f"{name}.md",
        home,
        environ={"AUDITRELAY_STATUS__LISTEN": "127.0.0.1:0", **environ},
        typed=typed,
        beside=beside,
    )
    assert followed.status == 0, followed.printed
    assert "nothing is missing" in followed.printed
    assert f"{EVENTS} events at the source, {EVENTS} forwarded" in followed.printed
    assert "Traceback" not in followed.printed
    assert not any(value in followed.printed for value in typed.values())
    config = home / "auditrelay" / "auditrelay.toml"
    assert config.stat().st_mode & 0o077 == 0
    assert not any(value in config.read_text("utf-8") for value in typed.values())
    return followed


async def test_from_nothing_to_splunk(tmp_path: Path) -> None:
    async with Sandbox(only=["okta"]) as sandbox:
        okta, splunk = filled(sandbox.vendors["okta"]), sandbox.siems["splunk"]
        await walk(
            "splunk",
            tmp_path,
            okta,
            splunk,
            {
                "AUDITRELAY_SOURCES__ACME_OKTA__BASE_URL": okta.url,
                "AUDITRELAY_SINKS__SPLUNK__URL": splunk.url,
            },
            OKTA_TOKEN=okta.settings()["token"],
            SPLUNK_HEC_TOKEN=splunk.credentials()["token"],
        )
    assert (tmp_path / "TA-auditrelay.tgz").stat().st_size > 1000


async def test_from_nothing_to_datadog(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    async with Sandbox(only=["github"]) as sandbox:
        github, datadog = filled(sandbox.vendors["github.organization"]), sandbox.siems["datadog"]
        with administration(tmp_path, "api.datadoghq.com") as asked:
            await walk(
                "datadog",
                tmp_path,
                github,
                datadog,
                {
                    "AUDITRELAY_SOURCES__ACME_GITHUB__BASE_URL": github.url,
                    "AUDITRELAY_SINKS__DATADOG__URL": datadog.url,
                },
                GITHUB_TOKEN=github.settings()["token"],
                DD_API_KEY=datadog.credentials()["api_key"],
                DD_APP_KEY="a-pretend-application-key",
            )
    rules = len(list((TUTORIALS.parents[1] / "siem" / "datadog" / "rules").glob("*.json")))
    paths = [path for path, _ in asked]
    assert paths.count("/api/v1/logs/config/pipelines") == 1
    assert paths.count("/api/v2/security_monitoring/rules") == rules
    assert all(body["name"] for _, body in asked)


async def test_from_nothing_to_elastic(tmp_path: Path) -> None:
    async with Sandbox(only=["slack"]) as sandbox:
        slack, elastic = filled(sandbox.vendors["slack"]), sandbox.siems["elastic"]
        await walk(
            "elastic",
            tmp_path,
            slack,
            elastic,
            {
                "AUDITRELAY_SOURCES__ACME_SLACK__BASE_URL": slack.url,
                "AUDITRELAY_SINKS__ELASTIC__URLS": elastic.url,
            },
            SLACK_TOKEN=slack.settings()["token"],
            ELASTIC_API_KEY=elastic.credentials()["api_key"],
        )


@contextmanager
def administration(home: Path, host: str) -> Iterator[list[tuple[str, Any]]]:
    """
    Let curl's requests to *host* reach a server of ours; yield their paths and bodies.

    The sandbox has no double of what administrators use, and of the answer only the success counts.
    """
    asked: list[tuple[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((self.path, json.loads(body)))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name there
            pass

    folder = certify(home)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        port = server.server_address[1]
        (home / ".curlrc").write_text(f'connect-to = "{host}:443:127.0.0.1:{port}"\ninsecure\n')
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield asked
        finally:
            server.shutdown()
            thread.join()
