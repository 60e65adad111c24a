"""
The status port: status page, health, readiness and metrics, on one small HTTP server.

It shows names, numbers and reasons; never an event's contents and never a secret.
"""

import socket
from typing import NamedTuple, Protocol

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from auditrelay.errors import ConfigError
from auditrelay.settings.secrets import Secret
from auditrelay.status.access import TRUSTED, AccessGuard, allowed_hosts, is_loopback
from auditrelay.status.idle_server import IdleServer
from auditrelay.status.model import Report
from auditrelay.status.page import page
from auditrelay.status.page.assets import Assets

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Unready(NamedTuple):
    """Why a source or sink keeps the instance from being ready."""

    name: str
    code: str
    """Short, our own: for those who may not read the reason."""
    reason: str
    """A sentence, which may repeat what the peer has said."""


class Instance(Protocol):
    """What the status port needs of the running instance."""

    async def status(self) -> Report:
        """Return the report on its state."""

    async def render_metrics(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics as text, and their content type, as the header *accept* asks."""

    def stuck(self) -> list[str]:
        """Return the names of the loops that make no progress."""

    def joined(self) -> bool:
        """Return whether it is a member of the replicas, if there are several, and works."""

    def unready(self) -> list[Unready]:
        """Return why this instance is not ready; nothing if it is."""


class StatusPort:
    """
    The server behind ``[status] listen``: *listen* is ``host:port``, with port 0 for any.

    With *token*, a request has to carry it, see ``access``.

    Raises ConfigError if it cannot listen on that address.
    """

    def __init__(self, listen: str, instance: Instance, *, token: Secret | None = None) -> None:
        self._instance = instance
        host, _, port = listen.rpartition(":")
        host = host.strip("[]")
        try:
            family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
            self._socket = socket.create_server((host, int(port)), family=family)
            # asyncio does so only for sockets made with a protocol number. Without it every reply
            # on a connection that is kept open waits 40 ms for an acknowledgement.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise ConfigError(
                f"status.listen: cannot listen on {listen}: {error.strerror}; choose another port "
                "or stop what uses it"
            ) from error
        ip, bound = self._socket.getsockname()[:2]
        self.address = f"http://{f'[{host}]' if ':' in host else host}:{bound}/"
        if token is None and not is_loopback(ip):
            _log.warning("status_port_open", listen=listen)
        self._server = IdleServer(self._guarded(token, allowed_hosts(listen, ip)))

    def _guarded(self, token: Secret | None, hosts: frozenset[str] | None) -> AccessGuard:
        routes = [
            Route("/", self._page),
            Route("/static/{name}", Assets().serve),
            Route("/healthz", self._health),
            Route("/readyz", self._ready),
            Route("/joined", self._joined),
            Route("/metrics", self._metrics),
            Route("/api/status", self._status),
        ]
        return AccessGuard(Starlette(routes=routes), token=token, hosts=hosts)

    async def serve(self) -> None:
        """Answer until stopped."""
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            self._socket.close()

    def stop(self) -> None:
        """End :meth:`serve`."""
        self._server.stop()

    async def _page(self, _: Request) -> Response:
        return HTMLResponse(page(await self._instance.status()))

    async def _health(self, _: Request) -> Response:
        stuck = self._instance.stuck()
        return JSONResponse({"ok": not stuck, "stuck": stuck}, 503 if stuck else 200)

    async def _joined(self, _: Request) -> Response:
        joined = self._instance.joined()
        return JSONResponse({"joined": joined}, 200 if joined else 503)

    async def _ready(self, request: Request) -> Response:
        reasons = [
            each.reason if request.scope[TRUSTED] else f"{each.name}: {each.code}"
            for each in self._instance.unready()
        ]
        return JSONResponse({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def _metrics(self, request: Request) -> Response:
        text, content_type = await self._instance.render_metrics(request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": content_type, "Vary": "Accept"})

    async def _status(self, _: Request) -> Response:
        return JSONResponse(msgspec.to_builtins(await self._instance.status()))
