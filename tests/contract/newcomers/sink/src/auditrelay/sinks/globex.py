"""Send events to Globex, a SIEM that does not exist: it takes lists, and deduplicates."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from pydantic import Field

from auditrelay.clock import Clock
from auditrelay.errors import RelayError
from auditrelay.events import AuditEvent
from auditrelay.events.forms import FORMS, SPLICED
from auditrelay.events.forms.derived import Derived, RenderContext
from auditrelay.events.marks import NO_MARKS
from auditrelay.events.page import Page
from auditrelay.http.credentials import KeyCredentials
from auditrelay.http.peer import Peer
from auditrelay.http.replies import Reply
from auditrelay.settings import SinkSettings
from auditrelay.settings.addresses import Address
from auditrelay.settings.secrets import Secret
from auditrelay.settings.values import Size
from auditrelay.sinks import Counts, Form, Item, Limits, Rendered, Verdict
from auditrelay.sinks._requests import body_of, dump, error_for, unexpected_body
from auditrelay.telemetry.metrics import Metrics

_BRACKETS = 1
"""A list of n events has n - 1 commas and two brackets: this much above one byte an event."""


class Settings(SinkSettings):
    """The keys of an ``globex`` sink."""

    type: Literal["globex"]
    url: Address
    key: Secret
    format: Form = "ocsf"
    batch_bytes: Size = Field(1_000_000, le=2_000_000)

    @property
    def addresses(self) -> Mapping[str, str]:
        """The one address."""
        return {"url": self.url}


EXAMPLE = """\
[sinks.globex]
type = "globex"

# The address of your account.
url = "https://intake.globex.example"
key = "${env:GLOBEX_KEY}"
# format = "ocsf"
# batch_bytes = "1MB"
"""
"""Its table in config.example.toml: every key, those with a default commented out."""


def build(name: str, settings: Settings, metrics: Metrics, clock: Clock) -> "Sink":
    """Return the sink that the configuration calls *name*."""
    return Sink(name, settings, metrics, clock)


class Sink:
    """One account at Globex."""

    deduplicates = True

    def __init__(self, name: str, settings: Settings, metrics: Metrics, clock: Clock) -> None:
        self._settings = settings
        self._texts = Derived(self._text, SPLICED[settings.format])
        self._peer = Peer(
            name,
            settings,
            base_url=settings.url,
            credentials=KeyCredentials(lambda: {"X-Globex": settings.key.reveal()}, [settings.key]),
            metrics=metrics,
            clock=clock,
        )

    @property
    def limits(self) -> Limits:
        """As configured."""
        settings = self._settings
        most = settings.batch_bytes - _BRACKETS
        return Limits(settings.batch_events, most)

    def render(
        self, page: Page, now: int, *, marks: Mapping[str, object] = NO_MARKS
    ) -> list[Rendered]:
        """Return each event of *page* with its ids."""
        return list(map(Rendered, self._texts.texts(page, RenderContext(now, marks))))

    def _text(self, event: AuditEvent, context: RenderContext) -> bytes:
        form = FORMS[self._settings.format](event, marks=context.marks)
        return dump({"uid": event.uid, "native_id": event.native_id, "event": form})

    async def send(self, batch: Sequence[Item]) -> Verdict:
        """Send *batch*: Globex accepts it whole or not at all."""
        content, headers = await body_of(
            [item.text for item in batch],
            self._settings.compression,
            start=b"[",
            between=b",",
            end=b"]",
        )
        reply = await self._peer.request(
            "POST", "/events", headers=headers, content=content, has_events=True
        )
        if reply.status != 200:
            raise _globex_error(reply)
        answer = reply.object() or {}
        if answer.get("received") != len(batch):
            raise unexpected_body(reply, "Globex")
        return Verdict(counts=Counts(duplicates=answer["known"]))

    async def check(self) -> str:
        """Ask Globex whether it accepts the key."""
        reply = await self._peer.request("GET", "/key")
        if reply.status != 200:
            raise _globex_error(reply)
        if (reply.object() or {}).get("valid") is not True:
            raise unexpected_body(reply, "Globex")
        return f"{self._settings.url} accepts the key"

    def backfill_notice(self, start: datetime, end: datetime, now: datetime) -> str | None:
        """Return None: Globex stores events however old they are."""

    def query(self, uid: str) -> Sequence[str]:
        """Return the search that finds the event *uid*."""
        return (f"Globex: uid={uid}",)

    async def close(self) -> None:
        """Close the connections."""
        await self._peer.aclose()


def _globex_error(reply: Reply) -> RelayError:
    return error_for(reply, message=str((reply.object() or {}).get("error", "")))
