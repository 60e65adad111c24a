"""
Who may look at the status port, and what a browser may do with what it is shown.

Around all routes: a request that was meant for another host, or that does not know the token, gets
no further; every answer carries headers that leave a browser nothing to run or to load but our
own files.
"""

import base64
import hmac
import ipaddress
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from auditrelay.settings.secrets import Secret

OPEN: Final = frozenset({"/healthz", "/readyz"})
"""What a supervisor asks, which has no token."""

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


class Door:
    """
    The ASGI application *app*, behind its door.

    With *token*, everything but ``OPEN`` asks for it: as a bearer token, or as the password of
    Basic with any name, because that is what a browser can ask a person for. With *hosts*, a
    request for any other host is turned away: a page of somebody else, whose name suddenly leads
    to loopback (DNS rebinding), could read everything otherwise.
    """

    def __init__(self, app: ASGIApp, *, token: Secret | None, hosts: frozenset[str] | None) -> None:
        self._app = app
        self._token = token
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request in, or answer it here."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        answer = self._turned_away(scope)
        await (self._app if answer is None else answer)(scope, receive, guarded)

    def _turned_away(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        host = headers.get("host")
        # Only a browser can be led astray, and it always says whom it wants.
        if self._hosts is not None and host is not None and _name(host) not in self._hosts:
            return PlainTextResponse(
                "This is auditrelay, on loopback. Ask for localhost: a proxy in front has to set "
                "the header Host.\n",
                421,
            )
        if self._token is None or scope["path"] in OPEN:
            return None
        self._token.reload()  # a rotated one counts at once
        if _matches(headers.get("authorization", ""), self._token.reveal()):
            return None
        return PlainTextResponse(
            "The token of the status port is needed: Authorization: Bearer <status.token>, or "
            "Basic with any name and the token as the password.\n",
            401,
            {"WWW-Authenticate": 'Basic realm="auditrelay", charset="UTF-8"'},
        )


def allowed_hosts(listen: str, bound: str) -> frozenset[str] | None:
    """Return who may be asked for at *listen*, bound to the address *bound*; None: anybody."""
    if not is_loopback(bound):
        return None
    return frozenset({"localhost", "127.0.0.1", "::1", bound.lower(), _name(listen)})


def is_loopback(address: str) -> bool:
    """Return whether only this machine reaches the IP *address*."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _name(host: str) -> str:
    """Return *host*, as it stands in a header, without its port, brackets and final dot."""
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
