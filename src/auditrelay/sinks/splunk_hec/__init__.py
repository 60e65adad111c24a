"""
Send events to a Splunk HTTP Event Collector (HEC).

HEC reads a request as a stream: when it refuses event N it has already indexed those before it,
and drops those after it. It has no key that would make sending twice harmless, so every event
carries its uid as the indexed field ``event_id``. The form is ``cim`` unless the configuration
says otherwise.

A 200 says that Splunk has put a batch into a queue in memory. With ``ack`` it is asked afterwards
whether the batch is indexed ("indexer acknowledgement"), and only that counts.

Protocol: help.splunk.com, "Format events for HTTP Event Collector", "Troubleshoot HTTP Event
Collector" and "About HTTP Event Collector Indexer Acknowledgment"; replies and their codes as
listed there for 10.4.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

import orjson
from pydantic import Field, field_validator

from auditrelay.errors import Refused, Rejected, Retryable, code_of
from auditrelay.events import AuditEvent
from auditrelay.events.forms import FORMS, cim
from auditrelay.events.marks import NO_MARKS
from auditrelay.events.timestamps import epoch_seconds
from auditrelay.http.peer import Peer
from auditrelay.http.replies import Reply
from auditrelay.settings import SinkSettings
from auditrelay.settings.addresses import Address
from auditrelay.settings.secrets import Secret
from auditrelay.settings.values import Duration, Size
from auditrelay.sinks import Form, Item, Known, Limits, Receipt, Rejection, Verdict
from auditrelay.sinks._requests import dump, fault, only, packed, unproven, without_oversized, words
from auditrelay.sinks.splunk_hec.channel import Channel
from auditrelay.telemetry.metrics import Metrics

EVENT_BYTES = 5 * 1024 * 1024
"""maxEventSize; a larger event is refused with code 6, and the rest of its batch with it."""


_TAKEN_WITH_A_WARNING = (24, 25)


_ABOUT_EVENTS = {
    5: "no_data",
    6: "invalid_data_format",
    12: "event_required",
    13: "event_blank",
    15: "invalid_fields",
}


_NO_DATA = 5


_INCORRECT_INDEX = 7


_INVALID_CHANNEL = 11


_ACK_CHANNEL_FULL = 27


_CONFIGURATION = {
    1: "the token is disabled: enable it in Splunk",
    2: "no token arrived: check what stands between here and Splunk",
    3: "check token",
    4: "Splunk does not know the token: check token",
    10: "the token demands indexer acknowledgement: set ack = true, or switch useACK off for it",
    11: "the token demands indexer acknowledgement: set ack = true, or switch useACK off for it",
    14: "the token does not acknowledge: switch useACK on for it, or set ack = false",
    16: "check what stands between here and Splunk: the token was sent in a header",
    21: "Splunk does not know the token: check token",
    22: "the token is disabled: enable it in Splunk",
}


_CHANNEL_WAS_SENT = (
    "a channel was sent (X-Splunk-Request-Channel): check what stands between here and Splunk"
)


_ADVICE = "check url, and what stands between here and Splunk"


class Answer(NamedTuple):
    """What HEC says in a reply, as far as it says it."""

    reply: Reply
    text: str
    """Its words and their code, fit to be shown; empty if the reply is not HEC's."""
    code: int | None
    number: int | None
    """The event that is to blame, counted from the first of the request."""
    body: Mapping[str, Any]
    """All that the reply holds, decoded."""


class Settings(SinkSettings):
    """The keys of a ``splunk_hec`` sink."""

    type: Literal["splunk_hec"]
    url: Address
    """Scheme, host and port of the collector: ``https://splunk.example.com:8088``."""
    token: Secret
    index: str | None = None
    """Where Splunk stores the events; by default the token's own index."""
    sourcetype: str | None = Field(None, min_length=1)
    """By default ``auditrelay:<vendor>:audit``, or the form instead of audit if it is not cim."""
    source: str | None = Field(None, min_length=1)
    """By default ``auditrelay:<source>``."""
    host: str | None = Field(None, min_length=1)
    """By default the host of the vendor's API."""
    ack: bool = False
    """Whether events count as delivered only when Splunk says that they are indexed."""
    ack_timeout: Duration = Field(timedelta(minutes=5), gt=timedelta(0))
    """What is not indexed by then is sent again."""
    format: Form = "cim"
    batch_bytes: Size = Field(2_000_000, le=838_860_800)
    """At most [http_input] max_content_length of limits.conf, as Splunk 9 and 10 ship it."""

    @property
    def addresses(self) -> Mapping[str, str]:
        """The collector's address."""
        return {"url": self.url}

    @field_validator("url")
    @classmethod
    def _is_the_root(cls, url: str) -> str:
        if "/services/collector" in url:
            raise ValueError("leave out /services/collector and what follows; it is added")
        return url

    @field_validator("index")
    @classmethod
    def _is_an_index(cls, index: str | None) -> str | None:
        if index is not None and not re.fullmatch(r"_?[a-z0-9][a-z0-9_-]*", index, re.ASCII):
            raise ValueError(
                f"{index!r} is not the name of an index: lower-case letters, digits, _ and -, "
                "the first a letter or a digit"
            )
        return index


def build(name: str, settings: Settings, metrics: Metrics) -> "Sink":
    """Return the sink that the configuration calls *name*."""
    return Sink(name, settings, metrics)


class Sink:
    """One HTTP Event Collector and one token."""

    recognises_duplicates = False

    def __init__(self, name: str, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._form = FORMS[settings.format]
        self._kind = "audit" if settings.format == "cim" else settings.format
        self._channel: Channel | None = None
        self._opening = asyncio.Lock()
        self._peer = Peer(
            name,
            settings,
            base_url=settings.url,
            headers=lambda: {"Authorization": f"Splunk {settings.token.reveal()}"},
            secrets=[settings.token],
            metrics=metrics,
        )

    @property
    def limits(self) -> Limits:
        """As configured; no event above Splunk's own maximum."""
        return Limits(self._settings.batch_events, self._settings.batch_bytes, EVENT_BYTES)

    def render(self, event: AuditEvent, *, marks: Mapping[str, object] = NO_MARKS) -> bytes:
        """
        Return *event* in HEC's envelope.

        Its time is spelled out of integers, since Splunk refuses an exponent. What describes the
        event stands on each one: within a request, Splunk lets it stick to those that follow.
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
        envelope["event"] = self._form(event, marks=marks)
        fields = envelope["fields"] = cim.indexed(event)
        if settings.format != "cim":
            del fields["cim_model"]  # it would promise keys that other forms do not have
        return dump(envelope)

    async def send(self, batch: Sequence[Item]) -> Verdict:
        """Offer *batch*; events above maxEventSize are rejected without being sent."""
        return await without_oversized(batch, EVENT_BYTES, self._send)

    async def _send(self, batch: Sequence[Item]) -> Verdict:
        if not self._settings.ack:
            answer = _read(await self._post(batch))
            verdict = self._judge(answer, len(batch))
        else:
            channel = await self._open_channel()
            with channel.flight():
                answer = _read(await self._post(batch, channel))
                verdict = self._judge(answer, len(batch), channel)
        suspect = _suspect(answer, len(batch))
        return verdict if suspect is None else await self._resend(suspect, batch, verdict)

    async def _resend(self, suspect: int, batch: Sequence[Item], verdict: Verdict) -> Verdict:
        """
        Send the event at index *suspect* once more, alone, and return what that adds to *verdict*.

        If it is taken after all it is there twice, but whichever event it was, nothing is lost. If
        this cannot be found out now, it is offered again with the others.
        """
        try:
            alone = await only([suspect], batch, self._send)
        except Rejected as error:
            alone = Verdict(rejected=(Rejection.of(error, suspect),))
        except Retryable as error:
            return replace(verdict, because=error, doubtful=verdict.doubtful + error.sent)
        except Refused as error:
            # It cannot be raised: those before the suspect are in. If it lasts, the next request
            # meets it.
            because = Retryable(str(error), reason=code_of(error))
            return replace(verdict, because=because, doubtful=verdict.doubtful + error.sent)
        retry = tuple(index for index in verdict.retry if index != suspect)
        return replace(alone, retry=retry, doubtful=verdict.doubtful)

    async def _post(self, batch: Sequence[Item], channel: "Channel | None" = None) -> Reply:
        # No name holds the body: once packed it goes, or it would lie beside its texts till the
        # reply.
        content, headers = await packed(
            b"\n".join([item.text for item in batch]), self._settings.compression
        )
        headers["Content-Type"] = "application/json"
        if channel is not None:
            headers["X-Splunk-Request-Channel"] = channel.id
            headers |= channel.cookies
        reply = await self._peer.request(
            "POST", "/services/collector/event", headers=headers, content=content
        )
        if channel is not None:
            channel.keep_cookies(reply)
        return reply

    async def _open_channel(self) -> "Channel":
        """
        Return the channel in use, or a new one.

        A new one is asked about first, once. That shows, before anything is stored, whether the
        token acknowledges; and a load balancer sets its cookie then, before several requests at a
        time could each be sent to a node of its own.
        """
        async with self._opening:
            if self._channel is None or self._channel.retired:
                channel = Channel(self._ask, self._settings.ack_timeout)
                try:
                    await self._ask(channel, [0], new=True)
                except Retryable as error:  # whatever came of it, no event was sent
                    raise Retryable(
                        str(error), reason=error.reason, retry_after=error.retry_after
                    ) from error
                self._channel = channel
            return self._channel

    async def _ask(
        self, channel: "Channel", numbers: Sequence[int], *, new: bool = False
    ) -> set[int]:
        """Return which of *numbers* are indexed. Raises Retryable or Refused."""
        reply = await self._peer.request(
            "POST",
            "/services/collector/ack",
            params={"channel": channel.id},
            headers={"Content-Type": "application/json", **channel.cookies},
            content=orjson.dumps({"acks": list(numbers)}),
        )
        channel.keep_cookies(reply)
        answer = _read(reply)
        text, code = answer.text, answer.code
        if reply.status == 200:
            acks = answer.body.get("acks")
            if not isinstance(acks, dict):
                raise unproven(reply, "HEC's")
            return {number for number in numbers if acks.get(str(number)) is True}
        if new and code == _INVALID_CHANNEL:
            return set()  # nothing was sent on it yet; the token is fine, or it would be code 14
        if code in _CONFIGURATION and 400 <= reply.status < 500:
            raise Refused(
                f"{reply.where}: {text}; {self._advice(code, channel)}", status=reply.status
            )
        error = fault(reply, said=text)
        if isinstance(error, Rejected):
            raise Refused(f"{error}; {_ADVICE}, or set ack = false", status=error.status)
        raise error

    def _advice(self, code: int, channel: "Channel | None") -> str:
        if channel is not None and code in (10, 11):
            return _CHANNEL_WAS_SENT
        return _CONFIGURATION[code]

    def _judge(self, answer: Answer, count: int, channel: "Channel | None" = None) -> Verdict:
        """Return what the *answer* to a batch of *count* events says of each, or raise."""
        reply, text, code, number, _ = answer
        if reply.status == 200:
            return self._taken(answer, channel)
        if code in _CONFIGURATION and 400 <= reply.status < 500:
            raise Refused(
                f"{reply.where}: {text}; {self._advice(code, channel)}", status=reply.status
            )
        if reply.status != 400:
            if channel is not None and code == _ACK_CHANNEL_FULL:
                channel.retire()
            error = fault(reply, said=text)
            if isinstance(error, Retryable) and number is not None and 0 < number < count:
                # It filled up in the middle of the batch: what came before is indexed.
                return _partly(number, number, count, channel, because=error)
            raise error
        if code == _INCORRECT_INDEX:
            return self._incorrect_index(answer, count, channel)
        if code is None or (number is None and code not in _ABOUT_EVENTS):
            raise Refused(f"{reply.where}: {text or 'not an answer of HEC'}; {_ADVICE}", status=400)
        reason = _ABOUT_EVENTS.get(code, f"hec_{code}")
        if number is None or not 0 <= number < count:
            raise Rejected(f"{reply.where}: {text}", reason=reason, status=400)
        bad = Rejection(number, reason, text, 400)
        return _partly(number, number + 1, count, channel, rejected=(bad,))

    def _taken(self, answer: Answer, channel: "Channel | None") -> Verdict:
        warned = answer.code in _TAKEN_WITH_A_WARNING
        if answer.code != 0 and not warned:
            raise unproven(answer.reply, "HEC's")
        receipt = None if channel is None else self._receipt(answer, channel)
        return Verdict(warnings=(answer.text,) if warned else (), crowded=warned, receipt=receipt)

    def _receipt(self, answer: Answer, channel: "Channel") -> Receipt:
        """Return where the batch that was taken with *answer* will be acknowledged."""
        reply, number = answer.reply, answer.body.get("ackId")
        if type(number) is not int:
            channel.retire()
            raise Refused(
                f"{reply.where}: it took the events and gave no ackId, so they can never be "
                "acknowledged; switch useACK on for the token, or set ack = false",
                status=200,
                sent=True,
            )
        if not channel.issued(number):
            raise Retryable(
                f"{reply.where}: ackId {number} a second time: Splunk was started anew, or "
                "another node answered; what was not acknowledged is sent again",
                reason="channel_lost",
                sent=True,
            )
        return Receipt(channel, number)

    def _incorrect_index(self, answer: Answer, count: int, channel: "Channel | None") -> Verdict:
        """
        Return what code 7 says for sure: those before the suspect are in, and no others.

        Raises Refused where the configuration names the index: every event has it, so every event
        would be refused.
        """
        reply, text, _, number, _ = answer
        suspect = _suspect(answer, count)
        if self._settings.index is not None and (suspect == 0 or count == 1):
            raise Refused(
                f"{reply.where}: {text}; index: {self._settings.index!r} does not exist, or the "
                "token may not write to it",
                status=400,
            )
        if count == 1:
            return Verdict(rejected=(Rejection(0, "incorrect_index", text, 400),))
        if suspect is None:
            raise Rejected(f"{reply.where}: {text}", reason="incorrect_index", status=400)
        verdict = _partly(suspect, suspect, count, channel)
        return replace(verdict, doubtful=verdict.doubtful + bool(number))

    async def check(self) -> str:
        """
        Ask after HEC's health, then prove the token with a request that holds no event.

        Splunk looks at the token first and answers "No data" (code 5) only to one that it knows.
        With ``ack``, a channel is opened, which shows that the token acknowledges. That indexers
        will do so, and that a load balancer keeps to its cookies, only an event can show.
        """
        ack = self._settings.ack
        health = await self._peer.request(
            "GET", "/services/collector/health", params={"ack": "true"} if ack else None
        )
        if health.status != 200:
            self._judge(_read(health), 0)
        channel = None
        if ack:
            channel = Channel(self._ask, self._settings.ack_timeout)
            await self._ask(channel, [0], new=True)
        answer = _read(await self._post([], channel))
        if answer.code != _NO_DATA:
            self._judge(answer, 0, channel)
            raise unproven(answer.reply, "HEC's")
        well = f"HEC at {self._settings.url} is healthy and knows the token"
        return f"{well}, which acknowledges" if ack else well

    def foresee(self, start: datetime, end: datetime, now: datetime) -> str | None:  # noqa: ARG002
        """Nothing: an event of any age is taken."""
        return None

    def query(self, event: Known) -> Sequence[str]:
        """Return the search that finds *event* in Splunk."""
        index = self._settings.index or "*"
        return (f"SPL: search index={index} event_id::{event.uid}",)

    async def close(self) -> None:
        """Close the connections."""
        await self._peer.aclose()


def _suspect(answer: Answer, count: int) -> int | None:
    """
    Return the index of the event that, of *count*, may have named a wrong index (code 7).

    The number is one too high (seen on 10.4.2), or is not, so it is this event or the next. None:
    nothing is in doubt.
    """
    number = answer.number
    if answer.reply.status != 400 or answer.code != _INCORRECT_INDEX or number is None:
        return None
    return max(number - 1, 0) if count > 1 and 0 <= number <= count else None


def _partly(stored: int, rest: int, count: int, channel: Channel | None, **said: Any) -> Verdict:
    """
    Return the verdict on a batch of which Splunk took the first *stored*, and not from *rest* on.

    On a channel they got no number, so they can never be acknowledged: they are sent again, behind
    the others, so that one more bad event among those does not have them stored a third time.
    """
    retry = tuple(range(rest, count))
    if channel is None:
        return Verdict(retry=retry, **said)
    return Verdict(retry=(*retry, *range(stored)), doubtful=stored, **said)


def _read(reply: Reply) -> Answer:
    """Return what *reply* says; nothing, if it is not a JSON object."""
    body = reply.object()
    if not body:
        return Answer(reply, "", None, None, {})
    code, number = body.get("code"), body.get("invalid-event-number")
    return Answer(
        reply,
        words(f"{body.get('text')} (code {code})"),
        code if type(code) is int else None,
        number if type(number) is int else None,
        body,
    )
