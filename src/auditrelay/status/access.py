"""
Access to the status port: host check, token, and security headers, around all routes.

A request for another host or without the token is refused; the headers of every answer allow a
browser to run and load our own files only. Where other machines can reach the port and no token is
set, the page and the report are not served at all.
"""

import base64
import hmac
import ipaddress
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from auditrelay.settings.secrets import Secret
from auditrelay.telemetry.throttle import Throttle

PROBES: Final = frozenset({"/healthz", "/readyz", "/joined"})
"""Paths that need no token: a supervisor that probes them has none."""

WITHOUT_TOKEN: Final = PROBES | {"/metrics"}
"""Paths that are served to other machines where no token is set: names, codes and numbers."""

TRUSTED: Final = "auditrelay.trusted"
"""Key of the scope: whether the client may read what peers have said."""

_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class AccessGuard:
    """
    The ASGI application *app*, with access control.

    With *token*, everything but ``PUBLIC`` requires it: as a bearer token, or as the password of
    Basic with any user name, because a browser can prompt for that. With *hosts*, a request for
    any other host is refused: otherwise a foreign web page whose name is made to resolve to
    loopback (DNS rebinding) could read everything. None of them means that other machines can ask,
    by any name; without a token they get ``WITHOUT_TOKEN`` only.
    """

    def __init__(self, app: ASGIApp, *, token: Secret | None, hosts: frozenset[str] | None) -> None:
        self._app = app
        self._token = token
        self._hosts = hosts
        self._throttle = Throttle()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request to the application, or refuse it here."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        headers = Headers(scope=scope)
        scope[TRUSTED] = self._trusts(headers)
        refusal = self._refusal(headers, scope)
        if refusal is not None:
            self._log(refusal.status_code, scope)
        await (self._app if refusal is None else refusal)(scope, receive, guarded)

    def _trusts(self, headers: Headers) -> bool:
        if self._token is None:
            return self._hosts is not None
        self._token.reload()  # a rotated token is valid at once
        return _matches(headers.get("authorization", ""), self._token.reveal())

    def _refusal(self, headers: Headers, scope: Scope) -> PlainTextResponse | None:
        host, path = headers.get("host"), scope["path"]
        # Only a browser can be misled by DNS, and a browser always sends Host.
        if self._hosts is not None and host is not None and _name(host) not in self._hosts:
            return PlainTextResponse(
                "This is auditrelay on loopback, and the header Host names another host. Use "
                "localhost; a proxy in front has to set Host.\n",
                421,
            )
        if scope[TRUSTED] or path in PROBES:
            return None
        if self._token is not None:
            return PlainTextResponse(
                "The status port requires its token: Authorization: Bearer <status.token>, or "
                "Basic with any name and the token as the password.\n",
                401,
                {"WWW-Authenticate": 'Basic realm="auditrelay", charset="UTF-8"'},
            )
        if path in WITHOUT_TOKEN:
            return None
        return PlainTextResponse(
            "Other machines can reach this port and no token is set, so it serves neither the page "
            "nor the report. Set [status] token (AUDITRELAY_STATUS__TOKEN) to at least 16 "
            "characters, such as those of: openssl rand -hex 32; then enter any name, and the "
            "token as the password. Or let [status] listen on 127.0.0.1.\n",
            403,
        )

    def _log(self, status: int, scope: Scope) -> None:
        """Log a refused request: one a minute and status, as anybody can cause them."""
        held_back = self._throttle.admit(str(status))
        if held_back is not None:
            client = scope.get("client")
            _log.warning(
                "status_request_refused",
                status=status,
                path=scope["path"],
                client=client[0] if client else None,
                held_back=held_back,
            )


def allowed_hosts(listen: str, bound: str) -> frozenset[str] | None:
    """Return the values of Host allowed at *listen*, bound to the address *bound*; None: any."""
    if not is_loopback(bound):
        return None
    return frozenset({"localhost", "127.0.0.1", "::1", bound.lower(), _name(listen)})


def is_loopback(address: str) -> bool:
    """Return whether the IP *address* can be reached from this machine only."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _name(host: str) -> str:
    """Return the value *host* of the header Host without port, brackets and final dot."""
    host = host.lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0].rstrip(".") if ":" in host else host.rstrip(".")


def _matches(authorization: str, token: str) -> bool:
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() == "basic":
        try:
            pair = base64.b64decode(given.strip(), validate=True).decode()
        except ValueError:  # not base64, or not text
            return False
        given = pair.partition(":")[2]
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given.strip().encode(), token.encode())
