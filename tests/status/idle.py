"""An instance that has not begun, and a client of its status port."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
from tests.support.stages import ENVIRON, SETTINGS

from auditrelay.config import load
from auditrelay.settings.secrets import Secret
from auditrelay.status.model import Report
from auditrelay.status.port import Instance, StatusPort, Unready
from auditrelay.status.report import report

TOKEN = "a-token-of-the-status-port"


PATHS = ("/", "/metrics", "/api/status", "/static/page.css", "/healthz", "/readyz", "/joined")


class Idle:
    """An instance that has not begun: there are names, and no state."""

    def __init__(self, folder: Path) -> None:
        path = folder / "auditrelay.toml"
        path.write_text(SETTINGS.format(folder=folder, room="1GiB"))
        self.loops_stuck: list[str] = []
        self.reasons: list[Unready] = []
        self.is_member = True
        self._config = load(path, {"HOME": str(folder), **ENVIRON})

    async def status(self) -> Report:
        return report(self._config, (), (), spool_bytes=0, now=datetime.now(UTC))

    async def render_metrics(self, accept: str) -> tuple[bytes, str]:
        return b'auditrelay_source_up{source="acme-voice"} 0\n', "text/plain"

    def stuck(self) -> list[str]:
        return self.loops_stuck

    def joined(self) -> bool:
        return self.is_member

    def unready(self) -> list[Unready]:
        return self.reasons


@contextlib.asynccontextmanager
async def client(
    instance: Instance, listen: str = "127.0.0.1:0", token: Secret | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    port = StatusPort(listen, instance, token=token)
    serving = asyncio.create_task(port.serve())
    address = port.address.replace("0.0.0.0", "127.0.0.1")
    try:
        async with httpx.AsyncClient(base_url=address, trust_env=False, verify=False) as opened:
            yield opened
    finally:
        port.stop()
        await serving
