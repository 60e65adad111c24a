"""
Send events to Datadog's log intake.

A request is accepted whole or not at all, and Datadog does not deduplicate; every event carries its
uid as ``evt.id``. Any 2xx is a success, whatever its body: Datadog's own is 202 with ``{}``, and
what speaks its protocol (Vector, a proxy of your own) answers otherwise. A web page is none.

The form is ``datadog`` (standard attributes) by default; any other form is put under its own name,
so that time, source, service, tags and ``evt.id`` stay where Datadog looks for them.

Datadog answers 202 to a log that is older than 18 hours or more than 2 hours ahead, and then does
not index it (docs.datadoghq.com/logs/log_configuration/processors/#log-date-remapper). So a log
depends on when it is sent: outside of that range it is restamped with the time of sending, its own
time in an attribute, or becomes a dead letter.

Protocol: docs.datadoghq.com/api/latest/logs/#send-logs and .../authentication/#validate-api-key.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from auditrelay.clock import Clock
from auditrelay.errors import Refused, Rejected, RelayError, Retryable, TooLarge
from auditrelay.events import AuditEvent
from auditrelay.events.forms import FORMS, SPLICED, datadog
from auditrelay.events.forms.derived import Derived, RenderContext
from auditrelay.events.marks import NO_MARKS
from auditrelay.events.page import Page
from auditrelay.events.timestamps import iso_ms, iso_us
from auditrelay.http.credentials import KeyCredentials
from auditrelay.http.peer import Peer
from auditrelay.http.replies import Reply
from auditrelay.settings import SinkSettings
from auditrelay.settings.addresses import Address
from auditrelay.settings.secrets import Secret
from auditrelay.settings.values import Duration, Size
from auditrelay.sinks import Counts, Form, Item, Limits, Rendered, Unfit, Verdict
from auditrelay.sinks._requests import (
    MAX_ANSWER_BYTES,
    body_of,
    dump,
    error_for,
    foreign,
    is_proof,
    unproven,
)
from auditrelay.telemetry.humanize import span
from auditrelay.telemetry.metrics import Metrics

EVENT_BYTES = 1_000_000
"""Datadog silently truncates a larger log."""

REQUEST_BYTES = 5_000_000
_MAX_AHEAD = timedelta(hours=2)
_TRANSIT_TIME = timedelta(minutes=1)
"""How long a log may take to reach Datadog's clock."""
_MICROSECOND = timedelta(microseconds=1)
_RESTAMPED_FOR = _TRANSIT_TIME // _MICROSECOND
"""How long the time of rendering counts as that of sending."""
_RESTAMPED = "restamped"
"""The key of a log that was rendered with another time than its own."""
_BRACKETS = 1
"""A list of n logs has n - 1 commas and two brackets: this much above one byte a log."""

SITES = (
    "datadoghq.com",
    "us3.datadoghq.com",
    "us5.datadoghq.com",
    "ap1.datadoghq.com",
    "ap2.datadoghq.com",
    "uk1.datadoghq.com",
    "datadoghq.eu",
    "ddog-gov.com",
    "us2.ddog-gov.com",
)
"""
The sites that Datadog's own client lists (github.com/DataDog/datadog-api-client-python); used for
hints only, since Datadog opens new ones.
"""

_SITE_ALIASES = {
    **dict.fromkeys(("us", "us1", "us1.datadoghq.com", "us.datadoghq.com"), "datadoghq.com"),
    **dict.fromkeys(("eu", "eu1", "eu1.datadoghq.eu", "eu.datadoghq.com"), "datadoghq.eu"),
    "eu1.datadoghq.com": "datadoghq.eu",
    "us1-fed": "ddog-gov.com",
    "us2-fed": "us2.ddog-gov.com",
    **{site.partition(".")[0]: site for site in SITES if site.count(".") == 2},
}
"""What people write instead: Datadog's documentation names its sites US1, EU1, US1-FED..."""


def _tags(value: object) -> object:
    """Read tags from a list, a table or a comma-separated text; return ``key:value`` texts."""
    if isinstance(value, str):
        value = value.split(",")
    if isinstance(value, dict):
        value = [f"{key}:{each}" for key, each in value.items()]
    if isinstance(value, list):
        for tag in value:
            if not isinstance(tag, str) or not tag.strip() or "," in tag or len(tag) > 200:
                raise ValueError(
                    f"{tag!r} is not a tag: write key:value, at most 200 characters, no comma"
                )
        return [tag.strip() for tag in value]
    return value


class Settings(SinkSettings):
    """The keys of a ``datadog`` sink."""

    type: Literal["datadog"]
    site: str = "datadoghq.com"
    """Datadog's site, such as ``us3.datadoghq.com`` or ``datadoghq.eu``."""
    url: Address | None = None
    """Where to send instead: a proxy of your own in front of the intake."""
    api_key: Secret
    service: str | None = Field(None, min_length=1, max_length=100)
    """By default the vendor."""
    max_age: Duration = Field(timedelta(hours=18), gt=timedelta(minutes=1))
    """Datadog would accept an older log and not index it."""
    too_old: Literal["restamp", "dead_letter"] = "restamp"
    """What to do with a log outside the time range that Datadog indexes."""
    tags: Annotated[tuple[str, ...], BeforeValidator(_tags), Field(max_length=80)] = ()
    """Added to every event: ``["env:prod"]`` or ``{ env = "prod" }``."""
    format: Form = "datadog"
    batch_events: int = Field(1000, ge=1, le=1000)
    batch_bytes: Size = Field(4_500_000, le=REQUEST_BYTES)

    @property
    def intake(self) -> str:
        """The address that logs are sent to."""
        return self.url or f"https://http-intake.logs.{self.site}"

    @property
    def api(self) -> str:
        """The address of the API that validates the key."""
        return self.url or f"https://api.{self.site}"

    @property
    def addresses(self) -> Mapping[str, str]:
        """Both addresses."""
        return {"url": self.url} if self.url else {"site": self.intake}

    @field_validator("site")
    @classmethod
    def _is_a_site(cls, site: str) -> str:
        meant = _SITE_ALIASES.get(site.lower())
        if meant is not None:
            raise ValueError(f"{site!r} is no address; the site of that name is {meant!r}")
        if not re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", site, re.ASCII):
            raise ValueError(
                f'{site!r} is not a site: write "datadoghq.com", "us3.datadoghq.com", '
                '"datadoghq.eu"... without https:// and app.'
            )
        if site.startswith(("app.", "api.", "http-intake.")):
            raise ValueError(f"leave out the prefix of the site: {site.partition('.')[2]!r}")
        return site

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        if self.url is not None and "site" in self.model_fields_set:
            raise ValueError("site and url exclude each other: url replaces the site")
        return self


EXAMPLE = """\
[sinks.datadog]
type = "datadog"

api_key = "${env:DD_API_KEY}"
# The site of your organisation, without https:// and app.
# site = "datadoghq.com"
# Instead of site: a proxy of your own in front of the intake.
# url = "https://datadog-proxy.example.com"  # no default
# By default the name of the vendor.
# service = "audit"  # no default
# Tags of every event, such as ["env:prod"] or { env = "prod" }.
# tags = []
# Datadog accepts a log that is older than this, or more than 2 hours ahead, and does not index it.
# max_age = "18h"
# So such a log is sent stamped now, with its own time in evt.original_timestamp ("restamp"), or it
# becomes a dead letter ("dead_letter").
# too_old = "restamp"
# format = "datadog"
# batch_bytes = "4500KB"
"""
"""Its table in config.example.toml: every key, those with a default commented out."""


def build(name: str, settings: Settings, metrics: Metrics, clock: Clock) -> "Sink":
    """Return the sink that the configuration calls *name*."""
    return Sink(name, settings, metrics, clock)


class Sink:
    """One Datadog organisation, identified by its API key."""

    deduplicates = False

    def __init__(self, name: str, settings: Settings, metrics: Metrics, clock: Clock) -> None:
        self._settings = settings
        self._tags = ",".join(settings.tags)
        self._logs = Derived(self._log, SPLICED[settings.format])
        self._indexed_ages = (
            -(_MAX_AHEAD - _TRANSIT_TIME) // _MICROSECOND,
            (settings.max_age - _TRANSIT_TIME) // _MICROSECOND,
        )
        self._peer = Peer(
            name,
            settings,
            base_url=settings.intake,
            credentials=KeyCredentials(
                lambda: {"DD-API-KEY": settings.api_key.reveal()}, [settings.api_key]
            ),
            metrics=metrics,
            clock=clock,
            max_body_bytes=MAX_ANSWER_BYTES,
        )

    @property
    def limits(self) -> Limits:
        """As configured, and no log that Datadog would truncate."""
        settings = self._settings
        return Limits(
            settings.batch_events, settings.batch_bytes - _BRACKETS, event_bytes=EVENT_BYTES
        )

    def render(
        self, page: Page, now: int, *, marks: Mapping[str, object] = NO_MARKS
    ) -> list[Rendered]:
        """Return each event of *page* as one log that Datadog indexes if it is sent *now*."""
        youngest, oldest = ages = self._indexed_ages
        indexed = [youngest <= now - at <= oldest for at in page.at]
        texts = self._logs.texts(page, RenderContext(now, marks), indexed)
        rendered = []
        for text, at, as_it_is in zip(texts, page.at, indexed, strict=True):
            if as_it_is:
                rendered.append(Rendered(text, None, ages))
                continue
            about_now = (now - at - _RESTAMPED_FOR, now - at + _RESTAMPED_FOR)
            if self._settings.too_old == "dead_letter":
                rendered.append(Rendered(b"", None, about_now, self._out_of_range(at, now)))
            else:
                rendered.append(Rendered(text, _RESTAMPED, about_now))
        return rendered

    def _log(self, event: AuditEvent, context: RenderContext) -> bytes:
        """Return *event* as one log; unless it is chosen to be indexed as it is, restamped."""
        log = self._with_own_time(event, context.marks)
        if not context.choice:
            log["timestamp"] = iso_ms(context.now)
            log["evt"]["original_timestamp"] = iso_us(event.at)
            log.setdefault("auditrelay", {})["restamped"] = True
        return dump(log)

    def _with_own_time(self, event: AuditEvent, marks: Mapping[str, object]) -> dict[str, Any]:
        log = datadog.render(event, marks=marks)
        form = self._settings.format
        if form != "datadog":
            log = {key: log[key] for key in _KEPT if key in log}
            log["evt"] = {"id": event.uid}
            log[form] = FORMS[form](event, marks=marks)
        if self._settings.service is not None:
            log["service"] = self._settings.service
        if self._tags:
            log["ddtags"] = f"{log['ddtags']},{self._tags}" if log.get("ddtags") else self._tags
        return log

    def _out_of_range(self, at: int, now: int) -> Unfit:
        """Return why Datadog would accept an event of the time *at* and never index it."""
        happened, age = iso_us(at), span(self._settings.max_age)
        if at < now:
            why = f"happened at {happened}, more than {age} ago: Datadog would not index it"
            return Unfit("too_old", why)
        why = f"happens at {happened}, more than {span(_MAX_AHEAD)} ahead: Datadog would not index"
        return Unfit("in_future", f"{why} it; is the clock here right?")

    async def send(self, batch: Sequence[Item]) -> Verdict:
        """Send *batch*: Datadog accepts it whole or not at all."""
        content, headers = await body_of(
            [item.text for item in batch],
            self._settings.compression,
            start=b"[",
            between=b",",
            end=b"]",
        )
        headers["Content-Type"] = "application/json"
        reply = await self._peer.request(
            "POST",
            "/api/v2/logs",
            headers=headers,
            content=content,
            status_counts=True,
            has_events=True,
        )
        if not is_proof(reply):
            raise _datadog_error(reply)
        restamped = sum([item.key is _RESTAMPED for item in batch])
        return Verdict(counts=Counts(restamped=restamped))

    async def check(self) -> str:
        """Ask Datadog whether the key is valid."""
        settings = self._settings
        try:
            reply = await self._peer.request("GET", "/api/v1/validate", base_url=settings.api)
        except Retryable as error:
            if settings.url is not None or settings.site in SITES or error.sent:
                raise
            raise Retryable(
                f"{error}; is {settings.site!r} your site? Known ones are {', '.join(SITES)}",
                reason=error.reason,
            ) from error
        if reply.status != 200:
            raise _datadog_error(reply)
        if (reply.object() or {}).get("valid") is not True:
            raise unproven(reply, "Datadog")
        return f"{settings.url or settings.site} accepts the API key"

    def backfill_notice(self, start: datetime, end: datetime, now: datetime) -> str | None:
        """Warn if a part of the range is older than what Datadog indexes."""
        settings = self._settings
        limit = now - settings.max_age + _TRANSIT_TIME
        if start >= limit:
            return None
        outside = min(end, limit)
        share = span(end - start)
        share = (
            f"all {share}" if outside == end else f"the first {span(outside - start)} of {share}"
        )
        if settings.too_old == "dead_letter":
            effect = "their events become dead letters (too_old)"
        else:
            effect = (
                "their events are restamped with the time of sending, and keep their own in "
                "evt.original_timestamp"
            )
        return (
            f"{share} are more than {span(settings.max_age)} ago, which Datadog does not "
            f"index: {effect} (max_age, too_old)"
        )

    def query(self, uid: str) -> Sequence[str]:
        """Return the search that finds the event *uid* in Datadog's log explorer."""
        return (f"Datadog: @evt.id:{uid}",)

    async def close(self) -> None:
        """Close the connections."""
        await self._peer.aclose()


_KEPT = ("ddsource", "service", "hostname", "ddtags", "message", "status", "timestamp")


def _datadog_error(reply: Reply) -> RelayError:
    """
    Return the error that a refused request means, with Datadog's message.

    Datadog takes a request whole or not at all, and with a 4xx of its own it has not.
    """
    if reply.status < 300:
        return unproven(reply, "Datadog")
    errors = (reply.object() or {}).get("errors")
    own = isinstance(errors, list)
    message = "; ".join(
        str(error.get("detail") or error.get("title")) if isinstance(error, dict) else str(error)
        for error in (errors if isinstance(errors, list) else [])
    )
    error = error_for(
        reply,
        message=message,
        wait=_seconds(reply.headers.get("x-ratelimit-reset")),
        not_stored=own and reply.status < 500,
    )
    # A proxy's limit is for the size of a request: it is made smaller.
    if isinstance(error, Rejected) and not isinstance(error, TooLarge) and not own:
        return foreign(error, "Datadog")
    if isinstance(error, Refused) and reply.status in (401, 403):
        return Refused(
            f"{error}; check also that the key belongs to this site",
            status=reply.status,
            sent=error.sent,
            of_request=error.of_request,
        )
    return error


def _seconds(text: str | None) -> float | None:
    """Read X-RateLimit-Reset: the seconds until the rate limit resets."""
    return float(text) if text is not None and re.fullmatch(r"\d{1,6}(\.\d+)?", text) else None
