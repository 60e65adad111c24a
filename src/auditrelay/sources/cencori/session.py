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
import os
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from auditrelay.http.headers import http_date
from auditrelay.settings.secrets import Secret

_NAME = re.compile(r"sb-[A-Za-z0-9_-]+-auth-token(?:\.\d{1,2})?", re.ASCII)
_FILE = "session.json"


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

    The first ones are *configured*. Those that the server sets in their place are kept in a file,
    in the directory that :meth:`use_state_dir` sets; they are used until *configured* changes, and
    then discarded. Another process may write the file, so it is checked before each use.
    """

    def __init__(self, configured: Secret) -> None:
        self._configured = configured
        self._origin = ""
        self._cookies: dict[str, str] = {}
        self._file: Path | None = None
        self._stamp: tuple[int, int] | None = None
        self._unwritten = False

    def use_state_dir(self, path: Path) -> None:
        """Keep the cookies in *path*, created with the first cookies, for the owner only."""
        self._file = path / _FILE

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
            self._unwritten = True
        if self._unwritten:
            self._write()

    def _refresh(self) -> None:
        """Use the configured cookie if it has changed, and the file if it was written."""
        configured = self._configured.reveal()
        origin = hashlib.sha256(configured.encode()).hexdigest()
        if origin != self._origin:
            self._origin, self._stamp = origin, None
            self._cookies = cookies(configured)
        stamp = self._file_stamp()
        if stamp is None or stamp == self._stamp or self._file is None:
            return
        self._stamp = stamp
        with contextlib.suppress(OSError, ValueError):
            stored = json.loads(self._file.read_bytes())
            if _is_valid(stored) and stored["origin"] == self._origin:
                self._cookies = dict(stored["cookies"])

    def _file_stamp(self) -> tuple[int, int] | None:
        """Return a value that changes whenever the file is written, None if there is no file."""
        try:
            status = self._file.stat() if self._file else None
        except OSError:
            return None
        return (status.st_ino, status.st_mtime_ns) if status else None

    def _write(self) -> None:
        """Write the cookies to the file. On a full disk the next reply tries again."""
        if self._file is None:
            return
        temporary = self._file.with_suffix(".new")
        text = json.dumps({"origin": self._origin, "cookies": self._cookies}).encode()
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(temporary, flags, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._file)
            folder = os.open(self._file.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            self._stamp = self._file_stamp()
            self._unwritten = False


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
