"""The session of the dashboard's user: that of Supabase, in cookies."""

import json
from base64 import urlsafe_b64encode
from math import ceil

from auditrelay.sandbox.messages import Request

COOKIE = "sb-abcdefghijklmnopqrst-auth-token"


class Session:
    """
    A session that the server renews by ``Set-Cookie``; the cookies before are refused from then on.

    Its token is split over several cookies if it is longer than *chunk*.
    """

    def __init__(self) -> None:
        self._generation = 1
        self._chosen: str | None = None
        self._expires: float | None = None

    @property
    def token(self) -> str:
        """The token in Supabase's format: base64 of JSON, a few thousand characters."""
        if self._chosen is not None:
            return self._chosen
        generation = self._generation
        value = {
            "access_token": f"at-{generation}-" + "x" * 1800,
            "refresh_token": f"rt-{generation}",
            "expires_at": 1_900_000_000 + generation,
            "user": {"email": "dana@acme.example", "role": "authenticated"},
        }
        return "base64-" + urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    def begin(self, token: str | None = None) -> None:
        """Begin a new session, with *token* if that is given."""
        self._generation += 1
        self._chosen = token

    def expire(self) -> None:
        """Let the session be renewed at the next request."""
        self._expires = 0.0

    def cookies(self, chunk: int) -> dict[str, str]:
        """Return the cookies that hold the token, by their names."""
        token = self.token
        if len(token) <= chunk:
            return {COOKIE: token}
        return {
            f"{COOKIE}.{number}": token[number * chunk : (number + 1) * chunk]
            for number in range(ceil(len(token) / chunk))
        }

    def admits(self, request: Request) -> bool:
        """Assemble the token as the server does, and compare it; other cookies are ignored."""
        given = _cookies_of(request)
        token = given.get(COOKIE)
        if token is None:
            token, number = "", 0
            while (chunk := given.get(f"{COOKIE}.{number}")) is not None:
                token += chunk
                number += 1
        return token == self.token

    def renewal(
        self, request: Request, *, now: float, life: float | None, chunk: int
    ) -> dict[str, str]:
        """Renew the session if its *life* (seconds) is over; return the headers that say so."""
        if self._expires is None and life is not None:
            self._expires = now + life
        if self._expires is None or now < self._expires:
            return {}
        self.begin()
        self._expires = None if life is None else now + life
        after = self.cookies(chunk)
        lines = [
            f"{name}={value}; Path=/; Domain=.cencori.com; Max-Age=34560000; SameSite=Lax"
            for name, value in after.items()
        ]
        lines += [
            f"{name}=; Path=/; Domain=.cencori.com; Max-Age=0; SameSite=Lax"
            for name in _cookies_of(request)
            if name.startswith(COOKIE) and name not in after
        ]
        # One header for each: the server writes a value as it is.
        return {"Set-Cookie": "\r\nSet-Cookie: ".join(lines)}


def _cookies_of(request: Request) -> dict[str, str]:
    parts = (part.strip().partition("=") for part in request.headers.get("cookie", "").split(";"))
    return {name: value for name, _, value in parts}
