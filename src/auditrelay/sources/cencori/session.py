"""
A session in somebody's browser, lent to us: its cookies, and those that take their place.

A Supabase session is a cookie ``sb-<ref>-auth-token``, or several with ``.0``, ``.1``... behind the
name where it is long (https://supabase.com/docs/guides/auth/server-side). The server renews it with
``Set-Cookie``, and then the old one is worth nothing: who does not keep the new one is signed out.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from auditrelay.http.replies import http_date
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

    They begin as *given* in the configuration. What the server puts in their place is kept in a
    file, once :meth:`keep_in` has said where; it holds until *given* changes, and then it is
    forgotten. The file may be written by another process, and is looked at before each use.
    """

    def __init__(self, given: Secret) -> None:
        self._given = given
        self._origin = ""
        self._cookies: dict[str, str] = {}
        self._file: Path | None = None
        self._stamp: tuple[int, int] | None = None
        self._unwritten = False

    def keep_in(self, folder: Path) -> None:
        """Keep the cookies in *folder*, which is made for its owner only when there are some."""
        self._file = folder / _FILE

    def header(self) -> str:
        """Return what the header ``Cookie`` says."""
        self._refresh()
        return "; ".join(f"{name}={value}" for name, value in self._cookies.items())

    def absorb(self, set_cookies: Iterable[str], now: datetime | None = None) -> None:
        """
        Take over what the headers ``Set-Cookie`` of a reply say of the session's cookies.

        They are on the disk when it returns, if there is room: it is a matter of one small file
        an hour, and a crash before it is written would sign us out.
        """
        self._refresh()
        renewed = dict(self._cookies)
        for line in set_cookies:
            name, value, alive = _parsed(line, now or datetime.now(UTC))
            if not _NAME.fullmatch(name):
                continue
            if alive:
                renewed[name] = value
            else:
                renewed.pop(name, None)
        # One that takes all away is a server that refuses the session: the refusal says so, and
        # what it refused today it may know tomorrow.
        if renewed and renewed != self._cookies:
            self._cookies = renewed
            self._unwritten = True
        if self._unwritten:
            self._write()

    def _refresh(self) -> None:
        """Begin anew if the configured cookie is another one, or the file was written."""
        given = self._given.reveal()
        origin = hashlib.sha256(given.encode()).hexdigest()
        if origin != self._origin:
            self._origin, self._stamp = origin, None
            self._cookies = cookies(given)
        stamp = self._seen()
        if stamp is None or stamp == self._stamp or self._file is None:
            return
        self._stamp = stamp
        with contextlib.suppress(OSError, ValueError):
            kept = json.loads(self._file.read_bytes())
            if _is_whole(kept) and kept["origin"] == self._origin:
                self._cookies = dict(kept["cookies"])

    def _seen(self) -> tuple[int, int] | None:
        """Return by what it is seen whether the file was written, None if there is none."""
        try:
            status = self._file.stat() if self._file else None
        except OSError:
            return None
        return (status.st_ino, status.st_mtime_ns) if status else None

    def _write(self) -> None:
        """Put the cookies into the file. On a full disk the next reply tries again."""
        if self._file is None:
            return
        made = self._file.with_suffix(".new")
        text = json.dumps({"origin": self._origin, "cookies": self._cookies}).encode()
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            made.unlink(missing_ok=True)
            descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            made.replace(self._file)
            folder = os.open(self._file.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            self._stamp = self._seen()
            self._unwritten = False


def _is_whole(kept: object) -> bool:
    return (
        isinstance(kept, Mapping)
        and isinstance(kept.get("origin"), str)
        and isinstance(kept.get("cookies"), Mapping)
        and all(isinstance(value, str) for value in kept["cookies"].values())
    )


def _parsed(line: str, now: datetime) -> tuple[str, str, bool]:
    """
    Return name and value of a ``Set-Cookie``, and whether the cookie is to be kept (RFC 6265, 5.2).

    The standard library loses sessions here: ``SimpleCookie`` drops the whole line for an attribute
    that it does not know (``Partitioned``), ``CookieJar`` for a ``Max-Age`` that is no number or a
    ``Domain`` that is not the one we ask.
    """
    (name, value), *attributes = (
        (key.strip(), word.strip())
        for key, _, word in (part.partition("=") for part in line.split(";"))
    )
    words = {key.lower(): word for key, word in attributes}
    if re.fullmatch(r"-?\d+", words.get("max-age", ""), re.ASCII):
        return name, value, bool(value) and re.match("-|0+$", words["max-age"]) is None
    until = http_date(words.get("expires", ""))
    return name, value, bool(value) and (until is None or until > now)
