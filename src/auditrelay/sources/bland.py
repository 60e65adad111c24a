"""
Bland AI's audit logs: numbered pages, newest first, no limit on the window.

https://docs.bland.ai/api-v1/get/audit-logs. Audit logs are an Enterprise feature that Bland must
enable. What an account without it gets is not documented: a refusal holds the source, but an empty
list is indistinguishable from a quiet organisation (``max_silence`` reports that).

The documentation does not say whether a window's bounds are included, nor what the answer is to a
page past the last one; nothing here depends on it.
"""

from collections.abc import AsyncGenerator
from typing import Any, Literal

import msgspec
from pydantic import Field

from auditrelay.clock import Clock
from auditrelay.errors import Refused, Retryable, WalkBroken
from auditrelay.http.fields import Count, Records, texts
from auditrelay.http.paging import NumberedPages
from auditrelay.http.peer import Peer
from auditrelay.http.replies import Reply, check, decode
from auditrelay.settings import SourceSettings
from auditrelay.settings.addresses import Address
from auditrelay.settings.secrets import Secret
from auditrelay.sources import UNREADABLE, Page, in_milliseconds, widened
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrub
from auditrelay.window import Interval

PATH = "/v1/audit/logs"


class Settings(SourceSettings):
    """One organisation at Bland AI: the one that the key belongs to."""

    IDENTITIES = frozenset(("actor.id", "actor.email", "target.id", "target.name"))
    type: Literal["bland"]
    base_url: Address = "https://api.bland.ai"
    page_size: int = Field(100, ge=1, le=100)
    """The documented maximum."""
    api_key: Secret
    """A key of an admin or owner."""
    auth_scheme: str = Field("", pattern=r"^[A-Za-z-]*$")
    """A word before the key, such as ``Bearer``. The documentation shows the bare key."""


EXAMPLE = """\
[sources.acme-calls]
type = "bland"

# A key of an administrator or the owner. Bland AI must have switched the audit log on for you.
api_key = "${env:BLAND_API_KEY}"
# A word to send before the key, such as "Bearer".
# auth_scheme = ""
# base_url = "https://api.bland.ai"
# page_size = 100
"""
"""Its table in config.example.toml: every key, those with a default commented out."""


class _Data(msgspec.Struct):
    """One page. Records keep their text byte for byte."""

    events: Records
    total: Count | None = None
    total_pages: Count | None = None
    current_page: Count | None = None


class _Answer(msgspec.Struct):
    data: _Data | None = None
    errors: Any = None
    message: Any = None


class Source:
    """The audit logs of the key's organisation."""

    def __init__(self, settings: Settings, peer: Peer) -> None:
        self._settings = settings
        self._peer = peer

    @property
    def scope(self) -> str:
        """Empty: every record names its organisation, and ids are UUIDs."""
        return ""

    async def walk(
        self, window: Interval, *, background: bool = False, finely: bool = False
    ) -> AsyncGenerator[Page]:
        """Yield every page of *window*, see :class:`auditrelay.sources.Source`."""
        span = widened(window)
        params = {
            "created_after": in_milliseconds(span.start),
            # Without the upper bound every new record would move others to the next page.
            "created_before": in_milliseconds(span.end),
        }
        paging = NumberedPages(self._settings.page_size, finely=finely)
        largest_total = 0
        last = False
        while not last:
            number = paging.number
            place = {"page": str(number), "page_size": str(paging.size)}
            try:
                data = await self._peer.get(
                    PATH,
                    {**params, **place},
                    _read_first if number == 1 else _read,
                    background=background,
                    finely=finely,
                )
            except (Retryable, WalkBroken) as error:
                paging.failed(error)
                continue
            gaps = ((window, UNREADABLE),) if paging.passed_over else ()
            if data is None:  # rows were deleted, and with them the announced page
                yield Page([], last=True, shrunk=True, gaps=gaps)
                return
            events, pages, shown = texts(data.events), data.total_pages, data.current_page
            last = not events if pages is None else number >= pages
            if not events and (not last or (data.events is None and data.total)):
                raise WalkBroken(
                    f"Bland AI announces {pages} pages, but page {number} of {window.start} .. "
                    f"{window.end} is empty",
                    reason="no_progress",
                )
            if not last and shown is not None and shown != number:
                raise WalkBroken(
                    f"Bland AI was asked for page {number} and returned page {shown}",
                    reason="repeated_page",
                )
            if not last and paging.is_capped(len(events)):
                continue
            paging.read()
            largest_total = max(largest_total, data.total or 0)
            fewer = data.total is not None and data.total < largest_total
            beyond = pages is not None and number > max(pages, 1)
            yield Page(
                events,
                last=last,
                total=data.total,
                shrunk=fewer or beyond,
                gaps=gaps if last else (),
            )

    async def close(self) -> None:
        """Release connections."""
        await self._peer.aclose()


# --- replies -----------------------------------------------------------------

_ENTERPRISE = (
    "audit logs are an Enterprise feature of Bland AI, which Bland must enable for the "
    "organisation, and the key must be one of its admins or owners"
)

_REFUSALS = {
    "AUTH_FAILURE": "check the key, and whether it has been deleted",
    "UNAUTHORIZED": "check the key; it must be one of an admin or owner of the organisation",
    "FEATURE_NOT_ENABLED": _ENTERPRISE,
}

_HINTS = {403: _ENTERPRISE, 404: f"if the address is right: {_ENTERPRISE}"}


def _read(reply: Reply) -> _Data | None:
    """Return the page in *reply*, None if the walk has gone past the last page."""
    if reply.status == 404 and _error_of(reply)[0] == "NOT_FOUND":
        return None
    return _read_first(reply, promised=True)


def _read_first(reply: Reply, *, promised: bool = False) -> _Data:
    """Return the page in *reply*. Raises the error for any other reply."""
    if reply.status != 200:
        code, message = _error_of(reply)
        hint = _REFUSALS.get(code, _HINTS.get(reply.status, ""))
        check(reply, message=_format_error(code, message), hint=hint)
    answer = decode(reply, _Answer, promised=promised)
    if answer.errors or answer.data is None:
        raise _inner_error(reply, *_first_error(answer.errors, answer.message))
    return answer.data


def _inner_error(reply: Reply, code: str, message: str) -> Refused | Retryable:
    """Return the error to raise for a reply of 200 that contains errors."""
    text = f"{reply.status} from {reply.where} with an error inside: {_format_error(code, message)}"
    if "rate limit" in message.lower() or "RATE_LIMIT" in code:
        return Retryable(text, reason="rate_limited")
    if not (code or message) or code.startswith("INTERNAL"):
        return Retryable(text, reason="bad_reply")
    hint = _REFUSALS.get(code)
    return Refused(f"{text}; {hint}") if hint else Refused(text, of_request=True)


def _format_error(code: str, message: str) -> str:
    return scrub(f"{message} ({code})" if code else message, 200)


def _error_of(reply: Reply) -> tuple[str, str]:
    """Return the vendor's code and message for a failure, either of which may be empty."""
    body = reply.object() or {}
    return _first_error(body.get("errors"), body.get("message"))


def _first_error(errors: Any, message: Any) -> tuple[str, str]:
    """
    Return code and message of the first of *errors*, else *message*.

    Both forms occur: ``{"data": null, "errors": [{"error": "CODE", "message": "..."}]}`` and the
    older ``{"status": "error", "message": "..."}``.
    """
    error = errors[0] if isinstance(errors, list) and errors else errors
    if isinstance(error, dict):
        code, message = error.get("error"), error.get("message")
        return code if isinstance(code, str) else "", message if isinstance(message, str) else ""
    text = error if isinstance(error, str) else message
    return "", text if isinstance(text, str) else ""


def build(name: str, settings: Settings, metrics: Metrics, clock: Clock) -> Source:
    """Return the source that the configuration calls *name*."""

    def identity() -> dict[str, str]:
        key = settings.api_key.reveal()
        scheme = settings.auth_scheme
        return {"authorization": f"{scheme} {key}" if scheme else key}

    peer = Peer.of_source(name, settings, metrics, clock, headers=identity, secret=settings.api_key)
    return Source(settings, peer)
