"""
A browser session cookie supplied by the operator, and the cookies that replace it.

A Supabase session is a cookie ``sb-<ref>-auth-token``, or several with the suffixes ``.0``,
``.1``... if it is long (https://supabase.com/docs/guides/auth/server-side). The server renews it
with ``Set-Cookie``, and the old one becomes invalid: a client that does not keep the new one is
signed out.
"""

import contextlib
import hashlib
import json
import re
from datetime import datetime

import httpx
import orjson

from auditrelay.http.cookies import header_of, is_cookie, updated
from auditrelay.settings.secrets import Secret
from auditrelay.sources import Keeping
from auditrelay.telemetry.scrubber import scrubber

_NAME = re.compile(r"sb-[A-Za-z0-9_-]+-auth-token(?:\.\d{1,2})?", re.ASCII)
_KEPT = "session.json"


def cookies(text: str) -> dict[str, str]:
    """Return the cookies of a session among those in the *text* of a ``Cookie`` header."""
    found: dict[str, str] = {}
    for part in text.split(";"):
        name, equals, value = part.strip().partition("=")
        if equals and value and _NAME.fullmatch(name):
            found[name] = value
    return found


class Session:
    """
    The cookies of one session.

    The first ones are *configured*. Those that the server sets in their place are kept where
    :meth:`keep_in` says; they are used until *configured* changes, and then discarded. Another
    process may save others, so they are loaded before each use.
    """

    def __init__(self, configured: Secret) -> None:
        self._configured = configured
        self._origin = ""
        self._cookies: dict[str, str] = {}
        self._keeping: Keeping | None = None
        self._loaded: bytes | None = None
        self._unsaved = False

    def keep_in(self, keeping: Keeping) -> None:
        """Keep the cookies in *keeping*."""
        self._keeping = keeping

    def header(self) -> str:
        """Return the value of the header ``Cookie``."""
        self._refresh()
        return header_of(self._cookies)

    def update(self, headers: httpx.Headers, now: datetime) -> None:
        """
        Apply the ``Set-Cookie`` among the *headers* of a reply, received *now*, to the cookies.

        They are on disk on return, if there is room: a crash before that would sign us out. It
        costs one small file an hour.
        """
        self._refresh()
        renewed = updated(self._cookies, headers, now, names=_NAME)
        # A reply that deletes all of them comes with a refusal. The cookies are kept: a session
        # that is refused today may be accepted tomorrow.
        if renewed and renewed != self._cookies:
            self._use(renewed)
            self._unsaved = True
        if self._unsaved:
            self._save()

    def _refresh(self) -> None:
        """Use the configured cookie if it has changed, and those that were saved since."""
        configured = self._configured.reveal()
        origin = hashlib.sha256(configured.encode()).hexdigest()
        if origin != self._origin:
            self._origin, self._loaded = origin, None
            self._use(cookies(configured))
        text = None if self._keeping is None else self._keeping.load(_KEPT)
        if text is None or text == self._loaded:
            return
        self._loaded = text
        self._use(_cookies_in(text, origin) or self._cookies)

    def _use(self, cookies: dict[str, str]) -> None:
        """Send *cookies* from now on, and have them hidden wherever the server repeats them."""
        scrubber.learn_renewed(*cookies.values())
        self._cookies = cookies

    def _save(self) -> None:
        """Save the cookies. On a full disk the next reply tries again."""
        if self._keeping is None:
            return
        text = json.dumps({"origin": self._origin, "cookies": self._cookies}).encode()
        with contextlib.suppress(OSError):
            self._keeping.save(_KEPT, text)
            self._loaded = text
            self._unsaved = False


def _cookies_in(text: bytes, origin: str) -> dict[str, str]:
    """Return the cookies that were saved as *text*, those of *origin*; none if it is damaged."""
    try:
        stored = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(stored, dict) or stored.get("origin") != origin:
        return {}
    saved = stored.get("cookies")
    pairs = saved.items() if isinstance(saved, dict) else ()
    return {
        name: value for name, value in pairs if isinstance(value, str) and is_cookie(name, value)
    }
