"""
JITSudo's audit log: pages behind opaque cursors, on the organisation's own server.

https://jitsudo-docs.pages.dev/api/operations/listauditlog/. (Not ``jitsudo.dev``, which is another
product.) The documentation does not give the order of records or the lifetime of a cursor, nor
whether a window's bounds are included; nothing here depends on it. A cursor is never kept beyond
its walk.
"""

import re
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal, Self

import msgspec
import orjson
from pydantic import AfterValidator, Field, model_validator

from auditrelay.clock import Clock
from auditrelay.errors import Retryable, WalkBroken
from auditrelay.http.fields import Flag, Link, Records, texts
from auditrelay.http.paging import CursorPages
from auditrelay.http.peer import Peer
from auditrelay.http.replies import Reply, check, decode, misshapen
from auditrelay.settings import SourceSettings
from auditrelay.settings.addresses import Address
from auditrelay.settings.secrets import Secret
from auditrelay.sources import Page, in_milliseconds, widened
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrub
from auditrelay.window import Interval

PATH = "/v1/audit-log"
"""Without a slash at its end."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


def _tenant(text: str) -> str:
    # The message leaves out the value: it may be a key that was put into the wrong line.
    if _UUID.fullmatch(text) is None:
        raise ValueError(
            "is not a UUID: write the tenant's id, such as 2489e9ad-2ee2-4e00-8ec9-32d5f69181c0"
        )
    return text.lower()  # one spelling: it is part of the uid of an event


class Settings(SourceSettings):
    """One tenant of a JITSudo server."""

    IDENTITIES = frozenset(("actor.id", "actor.ip", "target.id"))
    type: Literal["jitsudo"]
    base_url: Address
    """The server's address; every organisation runs its own."""
    page_size: int = Field(250, ge=1, le=250)
    """The maximum of the vendor's other lists; it is not documented for this one. The server may
    return smaller pages."""
    tenant_id: Annotated[str, AfterValidator(_tenant)]
    """The tenant that the credential belongs to."""
    api_key: Secret | None = None
    bearer_token: Secret | None = None
    """A JWT of the server, instead of a key; it expires after an hour by default."""

    @property
    def credential(self) -> Secret:
        """The key or the token, whichever is configured."""
        credential = self.bearer_token if self.api_key is None else self.api_key
        assert credential is not None  # noqa: S101  # see _one_credential
        return credential

    @model_validator(mode="after")
    def _one_credential(self) -> Self:
        if self.api_key is not None and self.bearer_token is not None:
            raise ValueError("api_key and bearer_token exclude each other: give one of them")
        if self.api_key is None and self.bearer_token is None:
            raise ValueError("a credential is missing: give api_key or bearer_token")
        return self


EXAMPLE = """\
[sources.acme-access]
type = "jitsudo"

# The address of your own server.
base_url = "https://jitsudo.example.com"
# The tenant that the key belongs to.
tenant_id = "2489e9ad-2ee2-4e00-8ec9-32d5f69181c0"
# Either an API key, or a bearer token (which expires after an hour by default, so it must come from
# a file that is renewed).
api_key = "${env:JITSUDO_API_KEY}"
# bearer_token = "${file:/run/secrets/jitsudo}"  # no default
# page_size = 250
"""
"""Its table in config.example.toml: every key, those with a default commented out."""


class _Answer(msgspec.Struct):
    """One page. Records keep their text byte for byte."""

    data: Records
    has_more: Flag | None = None
    next_cursor: Link | None = None

    @property
    def more(self) -> bool:
        """Whether another page is announced: by the flag, or by a cursor without one."""
        return bool(self.next_cursor if self.has_more is None else self.has_more)


class Source:
    """The audit log of one tenant."""

    def __init__(self, settings: Settings, peer: Peer) -> None:
        self._settings = settings
        self._peer = peer

    @property
    def scope(self) -> str:
        """The tenant's id, which records lack."""
        return self._settings.tenant_id

    async def walk(
        self, window: Interval, *, background: bool = False, finely: bool = False
    ) -> AsyncGenerator[Page]:
        """Yield every page of *window*, see :class:`auditrelay.sources.Source`."""
        span = widened(window)
        params = {
            "from": in_milliseconds(span.start),
            "to": in_milliseconds(span.end),
        }
        paging = CursorPages(self._settings.page_size, finely=finely)
        sent: set[str] = set()
        cursor: dict[str, str] = {}
        while True:
            try:
                answer = await self._peer.get(
                    PATH,
                    {**params, "limit": str(paging.size), **cursor},
                    self._read if cursor else self._read_first,
                    background=background,
                    finely=finely,
                )
            except (Retryable, WalkBroken) as error:
                paging.failed(error)
                continue
            paging.read()
            # Yield its records even if its cursor turns out to be unusable.
            if answer.data or not answer.more:
                yield _page(answer)
            if not answer.more:
                return
            cursor = {"cursor": _next(answer, sent)}
            sent.add(cursor["cursor"])

    async def close(self) -> None:
        """Release connections."""
        await self._peer.aclose()

    def _read(self, reply: Reply) -> _Answer:
        """Return the page that a cursor led to. Raises the error for any other reply."""
        # The answer to an expired cursor is not documented. The first page was not refused, so the
        # reason must be the cursor; if not, the first page of a smaller window will be refused.
        if reply.status in (400, 404, 410, 422):
            raise WalkBroken(
                f"{reply.status} from {reply.where} for the cursor of its last page: "
                f"{_explanation(reply).message or 'no reason given'}",
                reason="cursor_expired",
                refused=True,
            )
        answer = self._read_first(reply, promised=True)
        if answer.has_more is None and not answer.data:
            raise misshapen(reply, "neither records nor has_more on a page that was announced")
        return answer

    def _read_first(self, reply: Reply, *, promised: bool = False) -> _Answer:
        """Return the page in *reply*. Raises the error for any other reply."""
        if reply.status != 200:
            explanation = _explanation(reply)
            hint = self._hint(reply.status, explanation)
            check(reply, message=explanation.message, hint=hint)
        return decode(reply, _Answer, promised=promised)

    def _hint(self, status: int, explanation: "_Explanation") -> str:
        """Return what the operator should do, where more than the status is known."""
        tenant = self._settings.tenant_id
        if explanation.code == "tenant_mismatch":
            found = explanation.details
            details = f" (the server's details: {found})" if found else ""
            return (
                f"tenant_id is {tenant} in the configuration, and the credential belongs to "
                f"another tenant{details}: this is a configuration error; set tenant_id to the "
                "credential's tenant, or make a credential in this one"
            )
        if status == 401 and self._settings.bearer_token is not None:
            return (
                "bearer_token is not accepted; by default such a token expires after an hour: "
                "renew the file that it is read from, or use an api_key"
            )
        if status == 403:
            return f"the credential may not read the audit log of tenant {tenant}; check its rights"
        return ""


def _page(answer: _Answer) -> Page:
    return Page(
        texts(answer.data),
        last=not answer.more,
        cursor=answer.next_cursor if answer.more else None,
    )


def _next(answer: _Answer, sent: set[str]) -> str:
    """Return the cursor of the page after *answer*. Raises WalkBroken if it leads nowhere."""
    cursor = answer.next_cursor
    if not cursor:
        raise WalkBroken(
            "JITSudo announces another page without a cursor for it", reason="cursor_missing"
        )
    if cursor in sent:
        raise WalkBroken(
            "JITSudo returned a cursor for the second time: its pages never end",
            reason="cursor_repeats",
        )
    if not answer.data:
        raise WalkBroken(
            "JITSudo returned an empty page and announces another one", reason="no_progress"
        )
    return cursor


# --- replies -----------------------------------------------------------------

_MAX_MESSAGE = 200
"""Characters of the server's message that are shown; :func:`check` cuts at the same length."""


class _Explanation(msgspec.Struct):
    """The server's explanation of a failure, ready to be shown; any field may be empty."""

    code: str = ""
    message: str = ""
    details: str = ""


def _explanation(reply: Reply) -> _Explanation:
    """
    Return the server's explanation in *reply*; a body of another form gives an empty one.

    ``{"code": "...", "message": "...", "details": {...}, "notices": ["...", ...]}``; the notices
    come from the policies that decided.
    """
    body = reply.object() or {}
    code, message = _text(body.get("code")), _text(body.get("message"))
    listed = body.get("notices")
    notices = "; ".join(filter(None, map(_text, listed if isinstance(listed, list) else [])))
    if code:
        message = f"{message} ({code})" if message else code
    # Notices get at most half of the room, and the message gets the rest.
    notices = scrub(notices, _MAX_MESSAGE // 2)
    if notices:
        notices = f"notices: {notices}"
        room = _MAX_MESSAGE - len(notices) - len("; ")
        message = f"{scrub(message, room)}; {notices}" if message else notices
    details = body.get("details")
    return _Explanation(code, scrub(message, _MAX_MESSAGE), _compact(details) if details else "")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _compact(value: Any) -> str:
    """Return *value* as JSON on one line, short enough to be shown."""
    try:
        text = orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # a lone surrogate, too many digits, or nested too deeply
        return ""
    return scrub(text, _MAX_MESSAGE)


def build(name: str, settings: Settings, metrics: Metrics, clock: Clock) -> Source:
    """Return the source that the configuration calls *name*."""

    def identity() -> dict[str, str]:
        secret = settings.credential.reveal()
        bearer = settings.bearer_token is not None
        credential = {"authorization": f"Bearer {secret}"} if bearer else {"x-api-key": secret}
        return {"x-tenant-id": settings.tenant_id, **credential}

    peer = Peer.of_source(
        name, settings, metrics, clock, headers=identity, secret=settings.credential
    )
    return Source(settings, peer)
