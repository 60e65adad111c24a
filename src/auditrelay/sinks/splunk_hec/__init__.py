"""
Send events to a Splunk HTTP Event Collector (HEC).

HEC reads a request as a stream: when it refuses event N it has already indexed those before it,
and drops those after it. It does not deduplicate, so every event carries its uid as the indexed
field ``event_id``. The form is ``cim`` by default.

A 200 means that Splunk has queued a batch in memory. With ``ack`` it is asked afterwards whether
the batch is indexed ("indexer acknowledgement"), and only then is the batch delivered.

Other products speak the protocol too, under another path, with another scheme in the header of the
token or with parameters, and some cannot be asked for their health or answer a request without
events in other words: ``path``, ``auth_scheme``, ``params`` and ``check``. What counts as success
is the same for all.

Protocol: help.splunk.com, "Format events for HTTP Event Collector", "Troubleshoot HTTP Event
Collector" and "About HTTP Event Collector Indexer Acknowledgment"; replies and their codes as
listed there for 10.4.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple, Self

import orjson
from pydantic import Field, field_validator, model_validator

from auditrelay.clock import Clock
from auditrelay.errors import Refused, Rejected, Retryable, code_of
from auditrelay.events import AuditEvent
from auditrelay.events.forms import FORMS, SPLICED, cim
from auditrelay.events.forms.derived import Derived, RenderContext
from auditrelay.events.marks import NO_MARKS
from auditrelay.events.page import Page
from auditrelay.events.timestamps import epoch_seconds
from auditrelay.http.credentials import KeyCredentials
from auditrelay.http.peer import Peer
from auditrelay.http.replies import Reply
from auditrelay.settings import Proves, SinkSettings
from auditrelay.settings.addresses import Address
from auditrelay.settings.secrets import Secret
from auditrelay.settings.values import Duration, Labels, Size
from auditrelay.sinks import AckId, Counts, Form, Item, Limits, Rejection, Rendered, Verdict
from auditrelay.sinks._requests import (
    MAX_ANSWER_BYTES,
    body_of,
    clean,
    dump,
    error_for,
    is_proof,
    unexpected_body,
    unproven,
)
from auditrelay.sinks.splunk_hec.channel import Channel
from auditrelay.telemetry.metrics import Metrics

_COLLECTOR = "/services/collector"
_EVENT_PATH = f"{_COLLECTOR}/event"

EVENT_BYTES = 5 * 1024 * 1024
"""maxEventSize; HEC refuses a larger event with code 6, and the rest of its batch with it."""

_ACCEPTED_WITH_WARNING = (24, 25)

_EVENT_ERRORS = {
    5: "no_data",
    6: "invalid_data_format",
    12: "event_required",
    13: "event_blank",
    15: "invalid_fields",
}

_NOT_TAKEN = frozenset({9, 18, 19, 20, 23, 26, 27})
"""Busy, unhealthy, shutting down, full: HEC says so before it takes anything of a request."""

_NO_DATA = 5

_INCORRECT_INDEX = 7

_INVALID_CHANNEL = 11

_ACK_CHANNEL_FULL = 27

_CONFIGURATION_ERRORS = {
    1: "the token is disabled: enable it in Splunk",
    2: "no token arrived: check the proxies between auditrelay and Splunk",
    3: "check token",
    4: "the token is unknown to Splunk: check token",
    10: "the token requires indexer acknowledgement: set ack = true, or switch useACK off for it",
    11: "the token requires indexer acknowledgement: set ack = true, or switch useACK off for it",
    14: "the token does not acknowledge: switch useACK on for it, or set ack = false",
    16: "check the proxies between auditrelay and Splunk: the token was sent in a header",
    21: "the token is unknown to Splunk: check token",
    22: "the token is disabled: enable it in Splunk",
}

_CHANNEL_WAS_SENT = (
    "a channel was sent (X-Splunk-Request-Channel): check the proxies between auditrelay and Splunk"
)

_ADVICE = "check url, and the proxies between auditrelay and Splunk"


class Answer(NamedTuple):
    """A response of HEC, decoded; empty where the reply is not one."""

    reply: Reply
    text: str
    """Message and code, fit to be shown; empty if the reply is not from HEC."""
    code: int | None
    number: int | None
    """The index of the invalid event, counted from 0."""
    body: Mapping[str, Any]
    """The whole response."""


class Settings(SinkSettings):
    """The keys of a ``splunk_hec`` sink."""

    type: Literal["splunk_hec"]
    url: Address
    """Scheme, host and port of the collector: ``https://splunk.example.com:8088``."""
    token: Secret
    auth_scheme: Literal["Splunk", "Bearer"] = "Splunk"
    """What stands before the token in the header Authorization."""
    path: str = _EVENT_PATH
    """Where events are sent to."""
    params: Labels = Field({})
    """Parameters in the address of each request that carries events."""
    check: Literal["hec", "health", "none"] = "hec"
    """How the sink is checked: health and token as at Splunk, the health alone, or not at all."""
    index: str | None = Field(None, min_length=1, max_length=255)
    """Where Splunk stores the events; by default the index of the token."""
    sourcetype: str | None = Field(None, min_length=1)
    """By default ``auditrelay:<vendor>:audit``; with a form other than cim, that form for audit."""
    source: str | None = Field(None, min_length=1)
    """By default ``auditrelay:<source>``."""
    host: str | None = Field(None, min_length=1)
    """By default the host of the vendor's API."""
    ack: bool = False
    """Whether events count as delivered only once Splunk has acknowledged them as indexed."""
    ack_timeout: Duration = Field(timedelta(minutes=5), gt=timedelta(0))
    """Events that are not acknowledged by then are resent."""
    format: Form = "cim"
    batch_bytes: Size = Field(2_000_000, le=838_860_800)
    """At most [http_input] max_content_length of limits.conf, as Splunk 9 and 10 ship it."""

    @property
    def addresses(self) -> Mapping[str, str]:
        """The collector's address."""
        return {"url": self.url}

    @property
    def proves(self) -> Proves:
        """An acknowledged batch is indexed; otherwise it was put into a queue in memory."""
        return "stored" if self.ack else "taken"

    @property
    def health_path(self) -> str:
        """Where the collector is asked for its health."""
        return f"{_COLLECTOR if self.path == _EVENT_PATH else self.path}/health"

    @field_validator("url")
    @classmethod
    def _is_the_root(cls, url: str) -> str:
        if _COLLECTOR in url:
            raise ValueError(
                f"leave out {_COLLECTOR} and what follows; it is added (another path: path)"
            )
        return url

    @field_validator("path")
    @classmethod
    def _is_a_path(cls, path: str) -> str:
        if not re.fullmatch(r"(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)+", path, re.ASCII):
            raise ValueError(
                f"{path!r} is not a path: write {_EVENT_PATH!r}; parameters go into params"
            )
        return path

    @field_validator("index")
    @classmethod
    def _is_a_name(cls, index: str | None) -> str | None:
        if index is not None and (not index.isprintable() or index != index.strip()):
            raise ValueError(f"{index!r} is not a name: no line ends, no blanks around it")
        return index

    @model_validator(mode="after")
    def _acknowledges_where_splunk_does(self) -> Self:
        if self.ack and self.path != _EVENT_PATH:
            raise ValueError(
                f"ack: only Splunk acknowledges, at {_COLLECTOR}/ack: leave out path, or set "
                "ack = false"
            )
        return self


EXAMPLE = """\
[sinks.splunk]
type = "splunk_hec"

# Scheme, host and port of the HTTP Event Collector; its path is added.
url = "https://splunk.example.com:8088"
token = "${env:SPLUNK_HEC_TOKEN}"
# For products that speak the protocol otherwise than Splunk (docs/hec-relatives.md): the
# scheme of the token ("Bearer"), the path, parameters such as { logGroup = "audit" }, and how
# `auditrelay check` asks: "hec", "health" (that alone), or "none".
# auth_scheme = "Splunk"
# path = "/services/collector/event"
# params = {}
# check = "hec"
# The index. By default the token's own.
# index = "audit"  # no default
# By default auditrelay:<vendor>:audit.
# sourcetype = "auditrelay:cekura:audit"  # no default
# By default auditrelay:<name of the source>.
# source = "auditrelay:acme-voice"  # no default
# By default the host of the vendor's API.
# host = "api.cekura.ai"  # no default
# true: events count as delivered only when Splunk says that they are indexed. The token must have
# useACK ("Enable indexer acknowledgement") switched on; on Splunk Cloud only for Firehose.
# ack = false
# What is not acknowledged by then is sent again, and counted as a possible duplicate.
# ack_timeout = "5m"
# format = "cim"
# batch_bytes = "2MB"
"""
"""Its table in config.example.toml: every key, those with a default commented out."""


def build(name: str, settings: Settings, metrics: Metrics, clock: Clock) -> "Sink":
    """Return the sink that the configuration calls *name*."""
    return Sink(name, settings, metrics, clock)


class Sink:
    """One HTTP Event Collector and one token."""

    deduplicates = False

    def __init__(self, name: str, settings: Settings, metrics: Metrics, clock: Clock) -> None:
        self._settings = settings
        self._form = FORMS[settings.format]
        self._envelopes = Derived(self._envelope, SPLICED[settings.format])
        self._kind = "audit" if settings.format == "cim" else settings.format
        self._channel: Channel | None = None
        self._opening = asyncio.Lock()
        self._peer = Peer(
            name,
            settings,
            base_url=settings.url,
            credentials=KeyCredentials(
                lambda: {"Authorization": f"{settings.auth_scheme} {settings.token.reveal()}"},
                [settings.token],
            ),
            metrics=metrics,
            clock=clock,
            max_body_bytes=MAX_ANSWER_BYTES,
        )

    @property
    def limits(self) -> Limits:
        """As configured; no event above Splunk's own maximum."""
        settings = self._settings
        return Limits(settings.batch_events, settings.batch_bytes, event_bytes=EVENT_BYTES)

    def render(
        self, page: Page, now: int, *, marks: Mapping[str, object] = NO_MARKS
    ) -> list[Rendered]:
        """Return each event of *page* in HEC's envelope."""
        return list(map(Rendered, self._envelopes.texts(page, RenderContext(now, marks))))

    def _envelope(self, event: AuditEvent, context: RenderContext) -> bytes:
        """
        Return *event* in HEC's envelope.

        The time is formatted from integers, since Splunk refuses an exponent. Each envelope has all
        its metadata: within a request, Splunk carries a missing key over from the event before.
        """
        settings = self._settings
        envelope: dict[str, Any] = {
            "time": orjson.Fragment(epoch_seconds(event.at)),
            "host": settings.host or event.api_host or "auditrelay",
            "source": settings.source or f"auditrelay:{event.source}",
            "sourcetype": settings.sourcetype or f"auditrelay:{event.vendor}:{self._kind}",
        }
        if settings.index is not None:
            envelope["index"] = settings.index
        envelope["event"] = self._form(event, marks=context.marks)
        fields = envelope["fields"] = cim.indexed(event)
        if settings.format != "cim":
            del fields["cim_model"]  # it announces keys that other forms do not have
        return dump(envelope)

    async def send(self, batch: Sequence[Item]) -> Verdict:
        """Send *batch*; if HEC leaves open which event it refuses, that one once more alone."""
        if not self._settings.ack:
            answer = _parse(await self._post(batch))
            verdict = self._verdict(answer, len(batch))
        else:
            channel = await self._open_channel()
            with channel.request():
                answer = _parse(await self._post(batch, channel))
                verdict = self._verdict(answer, len(batch), channel)
        suspect = _suspect(answer, len(batch))
        return verdict if suspect is None else await self._resend_suspect(suspect, batch, verdict)

    async def _resend_suspect(
        self, suspect: int, batch: Sequence[Item], verdict: Verdict
    ) -> Verdict:
        """
        Resend the event at index *suspect* alone, and return *verdict* with the outcome of that.

        If HEC accepts it after all it is stored twice, but whichever event was refused, nothing is
        lost. If the outcome cannot be found out now, it is resent with the others.
        """
        try:
            alone = (await self.send([batch[suspect]])).within([suspect])
        except Rejected as error:
            alone = Verdict(rejected=(Rejection.of(error, suspect),))
        except Retryable as error:
            return replace(verdict, retry_reason=error, counts=_also_stored(verdict, error))
        except Refused as error:
            # It cannot be raised: the events before the suspect are stored. If it lasts, the next
            # request raises it.
            reason = Retryable(str(error), reason=code_of(error))
            return replace(verdict, retry_reason=reason, counts=_also_stored(verdict, error))
        retry = tuple(index for index in verdict.retry if index != suspect)
        return replace(alone, retry=retry, counts=verdict.counts)

    async def _post(self, batch: Sequence[Item], channel: "Channel | None" = None) -> Reply:
        content, headers = await body_of(
            [item.text for item in batch], self._settings.compression, between=b"\n"
        )
        headers["Content-Type"] = "application/json"
        if channel is not None:
            headers["X-Splunk-Request-Channel"] = channel.id
            headers |= channel.cookie_header
        reply = await self._peer.request(
            "POST",
            self._settings.path,
            params=self._settings.params or None,
            headers=headers,
            content=content,
            status_counts=True,
            has_events=bool(batch),
        )
        # A connection that breaks may hold the next time. A body that is none proves as little as
        # one of another product: sent again, the events would be stored again each time.
        if reply.unread is not None and reply.unread.reason in ("timeout", "reset"):
            raise reply.unread
        if channel is not None:
            channel.keep_cookies(reply)
        return reply

    async def _open_channel(self) -> Channel:
        """
        Return the channel in use, or a new one.

        A new one is polled once first. That shows, before anything is stored, whether the token
        acknowledges; and a load balancer sets its cookie then, before concurrent requests could
        each reach a different node.
        """
        async with self._opening:
            if self._channel is None or self._channel.retired:
                channel = Channel(self._poll_acks, self._settings.ack_timeout)
                try:
                    await self._poll_acks(channel, [0], new=True)
                except (Retryable, Refused) as error:
                    error.sent = False  # whatever its outcome, no event was
                    raise
                self._channel = channel
            return self._channel

    async def _poll_acks(
        self, channel: Channel, numbers: Sequence[int], *, new: bool = False
    ) -> set[int]:
        """Return which of *numbers* are indexed. Raises Retryable or Refused."""
        reply = await self._peer.request(
            "POST",
            f"{_COLLECTOR}/ack",
            params={"channel": channel.id},
            headers={"Content-Type": "application/json", **channel.cookie_header},
            content=orjson.dumps({"acks": list(numbers)}),
        )
        channel.keep_cookies(reply)
        answer = _parse(reply)
        text, code = answer.text, answer.code
        if reply.status == 200:
            acks = answer.body.get("acks")
            if not isinstance(acks, dict):
                raise unexpected_body(reply, "HEC")
            return {number for number in numbers if acks.get(str(number)) is True}
        if new and code == _INVALID_CHANNEL:
            return set()  # nothing was sent on it yet; a bad token would get code 14
        if code in _CONFIGURATION_ERRORS and 400 <= reply.status < 500:
            raise Refused(
                f"{reply.where}: {text}; {self._advice(code, channel)}", status=reply.status
            )
        error = error_for(reply, message=text)
        if isinstance(error, Rejected):
            raise Refused(f"{error}; {_ADVICE}, or set ack = false", status=error.status)
        raise error

    def _advice(self, code: int, channel: "Channel | None") -> str:
        if channel is not None and code in (10, 11):
            return _CHANNEL_WAS_SENT
        return _CONFIGURATION_ERRORS[code]

    def _verdict(self, answer: Answer, count: int, channel: "Channel | None" = None) -> Verdict:
        """Return the verdict in the *answer* to a batch of *count* events, or raise."""
        reply, text, code, number, _ = answer
        if 200 <= reply.status < 300:
            return self._accepted(answer, channel)
        if code in _CONFIGURATION_ERRORS and 400 <= reply.status < 500:
            raise Refused(
                f"{reply.where}: {text}; {self._advice(code, channel)}", status=reply.status
            )
        if reply.status != 400:
            if channel is not None and code == _ACK_CHANNEL_FULL:
                channel.retire()
            error = error_for(reply, message=text, not_stored=_is_not_taken(code))
            if isinstance(error, Retryable) and number is not None and 0 < number < count:
                # Splunk's queue filled up within the batch: the events before are indexed.
                return _partial(number, number, count, channel, retry_reason=error)
            raise error
        if code == _INCORRECT_INDEX:
            return self._incorrect_index(answer, count, channel)
        if code is None or (number is None and code not in _EVENT_ERRORS):
            raise Refused(
                f"400 from {reply.where}: {text or 'not a response of HEC'}; {_ADVICE}",
                status=400,
                sent=code is None,
                of_request=code is None,
            )
        reason = _EVENT_ERRORS.get(code, f"hec_{code}")
        if number is None or not 0 <= number < count:
            raise Rejected(f"{reply.where}: {text}", reason=reason, status=400)
        bad = Rejection(number, reason, text, 400)
        return _partial(number, number + 1, count, channel, rejected=(bad,))

    def _accepted(self, answer: Answer, channel: "Channel | None") -> Verdict:
        warned = answer.code in _ACCEPTED_WITH_WARNING
        if answer.reply.status != 200 or (answer.code != 0 and not warned):
            raise _unproven(answer.reply)
        ack_id = None if channel is None else self._ack_id(answer, channel)
        return Verdict(warnings=(answer.text,) if warned else (), throttled=warned, ack_id=ack_id)

    def _ack_id(self, answer: Answer, channel: Channel) -> AckId:
        """Return where the batch that was accepted with *answer* will be acknowledged."""
        reply, number = answer.reply, answer.body.get("ackId")
        if type(number) is not int or not 0 <= number < 2**63:
            channel.retire()
            raise Refused(
                f"{reply.where}: it accepted the events without an ackId, so they can never be "
                "acknowledged; switch useACK on for the token, or set ack = false",
                status=200,
                sent=True,
            )
        if not channel.register(number):
            raise Retryable(
                f"{reply.where}: ackId {number} a second time: Splunk was restarted, or another "
                "node answered; events without acknowledgement are resent",
                reason="channel_lost",
                sent=True,
            )
        return AckId(channel, number)

    def _incorrect_index(self, answer: Answer, count: int, channel: "Channel | None") -> Verdict:
        """
        Return what code 7 proves: the events before the suspect are stored, and no others.

        Raises Refused if none is stored: every event goes to the same index, that of ``index`` or
        the token's own, so every event would be refused.
        """
        reply, text, _, number, _ = answer
        suspect = _suspect(answer, count)
        if not suspect:
            index = self._settings.index
            named = f"index: {index!r}" if index else "the default index of the token"
            raise Refused(
                f"{reply.where}: {text}; {named} does not exist, or the token may not write to it",
                status=400,
                # Unless it is the number of the first event, the first may be stored.
                sent=count > 1 and number != 0,
            )
        verdict = _partial(suspect, suspect, count, channel)
        stored = verdict.counts.possibly_stored + bool(number)
        return replace(verdict, counts=Counts(possibly_stored=stored))

    async def check(self) -> str:
        """
        Check the health of HEC, then test the token with a request without events.

        Splunk checks the token first and answers "No data" (code 5) only to a valid one. With
        ``ack``, a channel is opened, which proves that the token acknowledges. That the indexers
        do, and that a load balancer is sticky, only an event can prove.

        With ``check = "health"`` the token is not tested, and with "none" nothing is asked.
        """
        settings = self._settings
        ack = settings.ack
        if settings.check == "none":
            return f'not asked (check = "none"): only an event tests {settings.url} and the token'
        health = await self._peer.request(
            "GET",
            settings.health_path,
            params={"ack": "true"} if ack else None,
            status_counts=True,
        )
        if not is_proof(health):
            self._verdict(_parse(health), 0)
        if settings.check == "health":
            address = f"{settings.url}{settings.health_path}"
            return f"{address} is healthy; only an event tests the token (check)"
        channel = None
        if ack:
            channel = Channel(self._poll_acks, self._settings.ack_timeout)
            await self._poll_acks(channel, [0], new=True)
        answer = _parse(await self._post([], channel))
        if answer.code != _NO_DATA:
            self._verdict(answer, 0, channel)
            raise _unproven(answer.reply)
        healthy = f"HEC at {self._settings.url} is healthy and accepts the token"
        return f"{healthy}, which acknowledges" if ack else healthy

    def backfill_notice(self, start: datetime, end: datetime, now: datetime) -> str | None:  # noqa: ARG002
        """Give no notice: Splunk indexes an event of any age."""
        return None

    def query(self, uid: str) -> Sequence[str]:
        """Return the search that finds the event *uid* in Splunk."""
        index = self._settings.index or "*"
        return (f"SPL: search index={index} event_id::{uid}",)

    async def close(self) -> None:
        """Close the connections."""
        await self._peer.aclose()


def _suspect(answer: Answer, count: int) -> int | None:
    """
    Return the index, of *count* events, of the one that may name a wrong index (code 7).

    The number that Splunk reports may be one too high (seen on 10.4.2), so it is this event or the
    next. None: no event is uncertain.
    """
    number = answer.number
    if answer.reply.status != 400 or answer.code != _INCORRECT_INDEX or number is None:
        return None
    return max(number - 1, 0) if count > 1 and 0 <= number <= count else None


def _unproven(reply: Reply) -> Refused:
    """Return the error for a success in other words than those of HEC."""
    return unproven(reply, 'a HEC, which answers {"text":"Success","code":0}')


def _is_not_taken(code: int | None) -> bool:
    """Return whether *code* is HEC's own word that it stored nothing, or only what it numbers."""
    return code in _NOT_TAKEN or code in _CONFIGURATION_ERRORS


def _partial(stored: int, rest: int, count: int, channel: Channel | None, **fields: Any) -> Verdict:
    """
    Return the verdict on a batch of which Splunk stored the first *stored*, none from *rest* on.

    On a channel the stored ones got no ackId, so they can never be acknowledged: they are resent,
    behind the others, so that one more bad event among those does not store them a third time.
    """
    retry = tuple(range(rest, count))
    if channel is None:
        return Verdict(retry=retry, **fields)
    counts = Counts(possibly_stored=stored)
    return Verdict(retry=(*retry, *range(stored)), counts=counts, **fields)


def _also_stored(verdict: Verdict, error: Retryable | Refused) -> Counts:
    """Return the counts of *verdict* with the suspect, if it may be stored despite *error*."""
    return Counts(possibly_stored=verdict.counts.possibly_stored + error.sent)


def _words(text: Any, code: Any) -> str:
    """Return what an answer says; nothing if it is not in the words of HEC."""
    if text is None and code is None:
        return ""
    return clean(f"{text} (code {code})")


def _parse(reply: Reply) -> Answer:
    """Decode *reply*; the answer is empty if it is not a JSON object."""
    body = reply.object()
    if not body:
        return Answer(reply, "", None, None, {})
    code, number = body.get("code"), body.get("invalid-event-number")
    return Answer(
        reply,
        _words(body.get("text"), code),
        code if type(code) is int else None,
        number if type(number) is int else None,
        body,
    )
