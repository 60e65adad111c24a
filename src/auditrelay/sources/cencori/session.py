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
from collections.abc import Iterable, Mapping
from datetime import datetime

from auditrelay.http.headers import http_date
from auditrelay.settings.secrets import Secret
from auditrelay.sources import Keeping

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
        return "; ".join(f"{name}={value}" for name, value in self._cookies.items())

    def update(self, set_cookies: Iterable[str], now: datetime) -> None:
        """
        Apply the ``Set-Cookie`` headers of a reply, received *now*, to the session's cookies.

        They are on disk on return, if there is room: a crash before that would sign us out. It
        costs one small file an hour.
        """
        self._refresh()
        renewed = dict(self._cookies)
        for line in set_cookies:
            name, value, alive = _parse_set_cookie(line, now)
            if not _NAME.fullmatch(name):
                continue
            if alive:
                renewed[name] = value
            else:
                renewed.pop(name, None)
        # A reply that deletes all of them comes with a refusal. The cookies are kept: a session
        # that is refused today may be accepted tomorrow.
        if renewed and renewed != self._cookies:
            self._cookies = renewed
            self._unsaved = True
        if self._unsaved:
            self._save()

    def _refresh(self) -> None:
        """Use the configured cookie if it has changed, and those that were saved since."""
        configured = self._configured.reveal()
        origin = hashlib.sha256(configured.encode()).hexdigest()
        if origin != self._origin:
            self._origin, self._loaded = origin, None
            self._cookies = cookies(configured)
        text = None if self._keeping is None else self._keeping.load(_KEPT)
        if text is None or text == self._loaded:
            return
        self._loaded = text
        with contextlib.suppress(ValueError):
            stored = json.loads(text)
            if _is_valid(stored) and stored["origin"] == self._origin:
                self._cookies = dict(stored["cookies"])

    def _save(self) -> None:
        """Save the cookies. On a full disk the next reply tries again."""
        if self._keeping is None:
            return
        text = json.dumps({"origin": self._origin, "cookies": self._cookies}).encode()
        with contextlib.suppress(OSError):
            self._keeping.save(_KEPT, text)
            self._loaded = text
            self._unsaved = False


def _is_valid(stored: object) -> bool:
    return (
        isinstance(stored, Mapping)
        and isinstance(stored.get("origin"), str)
        and isinstance(stored.get("cookies"), Mapping)
        and all(isinstance(value, str) for value in stored["cookies"].values())
    )


def _parse_set_cookie(line: str, now: datetime) -> tuple[str, str, bool]:
    """
    Return name and value of a ``Set-Cookie``, and whether the cookie is to be kept (RFC 6265, 5.2).

    The standard library loses sessions here: ``SimpleCookie`` drops the whole line for an attribute
    that it does not know (``Partitioned``), ``CookieJar`` for a ``Max-Age`` that is not a number or
    a ``Domain`` other than that of the request.
    """
    (name, value), *attributes = (
        (key.strip(), word.strip())
        for key, _, word in (part.partition("=") for part in line.split(";"))
    )
    values = {key.lower(): word for key, word in attributes}
    if re.fullmatch(r"-?\d+", values.get("max-age", ""), re.ASCII):
        return name, value, bool(value) and re.match("-|0+$", values["max-age"]) is None
    until = http_date(values.get("expires", ""))
    return name, value, bool(value) and (until is None or until > now)
