"""
Access to the status port: host check, token, and security headers, around all routes.

A request for another host or without the token is refused; the headers of every answer allow a
browser to run and load our own files only.
"""

import base64
import hmac
import ipaddress
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from auditrelay.settings.secrets import Secret

PUBLIC: Final = frozenset({"/healthz", "/readyz"})
"""Paths that need no token: a supervisor that probes them has none."""

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


class AccessGuard:
    """
    The ASGI application *app*, with access control.

    With *token*, everything but ``PUBLIC`` requires it: as a bearer token, or as the password of
    Basic with any user name, because a browser can prompt for that. With *hosts*, a request for
    any other host is refused: otherwise a foreign web page whose name is made to resolve to
    loopback (DNS rebinding) could read everything.
    """

    def __init__(self, app: ASGIApp, *, token: Secret | None, hosts: frozenset[str] | None) -> None:
        self._app = app
        self._token = token
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request to the application, or refuse it here."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        await (self._app if refusal is None else refusal)(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        host = headers.get("host")
        # Only a browser can be misled by DNS, and a browser always sends Host.
        if self._hosts is not None and host is not None and _name(host) not in self._hosts:
            return PlainTextResponse(
                "This is auditrelay on loopback, and the header Host names another host. Use "
                "localhost; a proxy in front has to set Host.\n",
                421,
            )
        if self._token is None or scope["path"] in PUBLIC:
            return None
        self._token.reload()  # a rotated token is valid at once
        if _matches(headers.get("authorization", ""), self._token.reveal()):
            return None
        return PlainTextResponse(
            "The status port requires its token: Authorization: Bearer <status.token>, or "
            "Basic with any name and the token as the password.\n",
            401,
            {"WWW-Authenticate": 'Basic realm="auditrelay", charset="UTF-8"'},
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
