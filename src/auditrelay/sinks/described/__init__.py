"""
Send events to a receiver that a description describes: the shipped ones, and the type ``http``.

``writing`` makes items of events, ``bodies`` requests of items, ``answers`` judges what comes back,
``auth`` identifies us. What a description is silent about is as for every sink.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from auditrelay.clock import Clock
from auditrelay.descriptions import holes
from auditrelay.descriptions.receiver.settings import DescribedSinkSettings
from auditrelay.errors import Refused, Rejected, RelayError, Retryable, TooLarge, code_of
from auditrelay.events.forms.derived import RenderContext
from auditrelay.events.marks import NO_MARKS
from auditrelay.events.page import Page
from auditrelay.events.timestamps import iso_us
from auditrelay.http.peer import Peer
from auditrelay.http.replies import Reply
from auditrelay.sinks import ANY_AGE, Counts, Item, Limits, Rejection, Rendered, Unfit, Verdict
from auditrelay.sinks._requests import MAX_ANSWER_BYTES
from auditrelay.sinks.described.answers import Answer, Answers, Isolate, Where
from auditrelay.sinks.described.auth import credentials
from auditrelay.sinks.described.bodies import Bodies
from auditrelay.sinks.described.writing import Writer
from auditrelay.telemetry.humanize import span
from auditrelay.telemetry.metrics import Metrics

_TRANSIT_TIME: Final = timedelta(minutes=1)
"""How long an event may take to reach the receiver's clock."""
_MICROSECOND: Final = timedelta(microseconds=1)
_RESTAMPED_FOR: Final = _TRANSIT_TIME // _MICROSECOND
"""How long the time of rendering counts as that of sending."""
_HIDDEN_PATH: Final = "/***"
"""In the place of an address that is a secret."""


class _Kept(NamedTuple):
    """What has to be known of an item when it is sent."""

    labels: bytes | None
    restamped: bool


def build(name: str, settings: DescribedSinkSettings, metrics: Metrics, clock: Clock) -> "Sink":
    """Return the sink that the configuration calls *name*."""
    return Sink(name, settings, metrics, clock)


class Sink:
    """One account at a receiver that is described."""

    def __init__(
        self, name: str, settings: DescribedSinkSettings, metrics: Metrics, clock: Clock
    ) -> None:
        file = settings.RECEIVER
        self._settings = settings
        self._file = file
        self._answers = Answers(file)
        self.deduplicates = self._answers.deduplicates
        self._writer = Writer(file, settings.format)
        self._bodies = Bodies(file, settings.values)
        self._times = _Times(settings)
        values = settings.values
        self._params = _filled(file.request.params, values)
        self._headers = _filled(file.request.headers, values)
        self._target = settings.target
        self._path = _HIDDEN_PATH if settings.secret_address is not None else self._target.path
        self._peer = Peer(
            name,
            settings,
            base_url=self._target.base,
            credentials=credentials(name, settings, metrics, clock),
            metrics=metrics,
            clock=clock,
            max_body_bytes=MAX_ANSWER_BYTES if file.items is None else None,
        )

    @property
    def limits(self) -> Limits:
        """As configured, within what the description says that the receiver takes."""
        settings, bodies = self._settings, self._bodies
        return Limits(
            settings.batch_events,
            settings.batch_bytes - bodies.around,
            bodies.overhead,
            self._file.limits.event_bytes,
        )

    def render(
        self, page: Page, now: int, *, marks: Mapping[str, object] = NO_MARKS
    ) -> list[Rendered]:
        """Return each event of *page* as an item that the receiver can find if it is sent *now*."""
        times = self._times
        found = [times.is_found(now - at) for at in page.at]
        restamped = [not each for each in found]
        items = self._writer.items(page, RenderContext(now, marks), restamped)
        rendered = []
        for row, (text, too_much) in enumerate(items):
            at, is_found = page.at[row], found[row]
            labels, ages = self._stream(page, row, now if is_found else at)
            if not is_found:
                ages = (now - at - _RESTAMPED_FOR, now - at + _RESTAMPED_FOR)
                if times.dead_letter:
                    rendered.append(Rendered(b"", None, ages, times.unfit(at, now)))
                    continue
            elif times.found_ages is not None:
                ages = (max(ages[0], times.found_ages[0]), min(ages[1], times.found_ages[1]))
            unfit = None if too_much is None else Unfit("too_large", too_much)
            rendered.append(Rendered(text, _Kept(labels, not is_found), ages, unfit))
        return rendered

    def _stream(self, page: Page, row: int, now: int) -> tuple[bytes | None, tuple[int, int]]:
        """
        Return the labels of the stream of an event that is sent *now*, and at which ages it is so.

        One that is restamped is not late: it has the time of sending.
        """
        streams = self._file.streams
        if streams is None:
            return None, ANY_AGE
        sort, at = page.sorts[page.sort[row]], page.at[row]
        if streams.spread is None:
            return self._bodies.labels(sort.source, sort.vendor, None), ANY_AGE
        spread = streams.spread // _MICROSECOND
        is_late = now - at > spread
        late = iso_us(at)[:13] if is_late else None
        ages = (spread + 1, ANY_AGE[1]) if is_late else (ANY_AGE[0], spread)
        return self._bodies.labels(sort.source, sort.vendor, late), ages

    async def send(self, batch: Sequence[Item]) -> Verdict:
        """Send *batch*; each event alone if the answer does not say which one it refuses."""
        outcome = await self._send(batch)
        if isinstance(outcome, Isolate):
            outcome = await self._each_alone(batch, outcome)
        restamped = sum(1 for item in batch if isinstance(item.key, _Kept) and item.key.restamped)
        if not restamped:
            return outcome
        return replace(outcome, counts=replace(outcome.counts, restamped=restamped))

    async def _send(self, batch: Sequence[Item]) -> Verdict | Isolate:
        labels = [item.key.labels if isinstance(item.key, _Kept) else None for item in batch]
        content, headers = await self._bodies.body(
            [item.text for item in batch], labels, self._settings.compression
        )
        most = self._file.limits.wire_bytes
        if most is not None and len(content) > most:
            raise TooLarge(
                f"{len(content):,} bytes to send; {self._file.product} takes at most {most:,}",
                reason="too_large",
            )
        key = self._file.key
        if key is not None and key.header is not None:
            headers[key.header] = batch[0].uid
        reply = await self._post(content, headers)
        return self._answers.outcome(reply, [item.uid for item in batch])

    async def _post(self, content: bytes, headers: Mapping[str, str]) -> Reply:
        return await self._peer.request(
            self._file.request.method,
            self._path,
            params=self._params or None,
            headers={**self._headers, **headers},
            content=content,
            status_counts=True,
            has_events=True,
        )

    async def _each_alone(self, batch: Sequence[Item], why: Isolate) -> Verdict:
        """Send each event of *batch* alone, once, and return what became of each."""
        if len(batch) == 1:
            return Verdict(rejected=(why.rejection(),))
        rejected: list[Rejection] = []
        again: list[int] = []
        reason: Retryable | None = None
        for index, item in enumerate(batch):
            try:
                verdict = await self._alone(item)
            except (Retryable, Refused) as error:
                # What has been settled stays so. If it lasts, the next request says it again.
                again += range(index, len(batch))
                reason = Retryable(
                    str(error),
                    reason=code_of(error),
                    retry_after=getattr(error, "retry_after", None),
                    sent=error.sent,
                )
                break
            verdict = verdict.within([index])
            rejected += verdict.rejected
            again += verdict.retry
            reason = reason or verdict.retry_reason
        stored = min(why.stored, len(batch) - len(rejected))
        if reason is not None:
            stored = max(stored, int(reason.sent))
        counts = Counts(possibly_stored=0 if self.deduplicates else stored)
        return Verdict(tuple(rejected), tuple(again), reason, counts=counts)

    async def _alone(self, item: Item) -> Verdict:
        try:
            outcome = await self._send([item])
        except Rejected as error:
            return Verdict(rejected=(Rejection.of(error),))
        return outcome if isinstance(outcome, Verdict) else Verdict(rejected=(outcome.rejection(),))

    async def check(self) -> str:
        """Make the description's harmless request; without one, none."""
        check, product = self._file.check, self._file.product
        if check is None:
            return (
                f"not asked: there is no harmless request to {product}; only an event tests "
                f"{self._target.base} and the credentials"
            )
        base, path = self._target.base, self._path
        if check.url is not None:
            base, path = self._settings.target_of(check.url)
        headers = {}
        if check.body is not None:
            headers["Content-Type"] = self._bodies.content_type
        reply = await self._peer.request(
            check.method,
            path,
            base_url=base,
            headers={**self._headers, **headers},
            content=None if check.body is None else check.body.encode(),
            status_counts=True,
        )
        if not self._answers.is_as_expected(reply, check.statuses, Where(check.where)):
            raise self._not_expected(reply)
        return f"{product} at {base} answers as it must"

    def _not_expected(self, reply: Reply) -> RelayError:
        error = self._answers.error(Answer(reply))
        if isinstance(error, Rejected):
            return Refused(f"{error}; it is not what the check must get", status=error.status)
        error.sent = False  # type: ignore[attr-defined]  # Retryable and Refused have it: no event was
        return error

    def backfill_notice(self, start: datetime, end: datetime, now: datetime) -> str | None:
        """Warn if a part of the range is older than what the receiver can find."""
        age = self._file.age
        if age.oldest is None or start >= now - age.oldest:
            return None
        outside = min(end, now - age.oldest)
        share = f"the first {span(outside - start)} of {span(end - start)}"
        if outside == end:
            share = f"all {span(end - start)}"
        effect = (
            "their events become dead letters (too_old)"
            if age.then == "dead_letter"
            else "their events are restamped with the time of sending, and keep their own in "
            "auditrelay.original_timestamp"
        )
        return (
            f"{share} are more than {span(age.oldest)} ago, which {self._file.product} does not "
            f"take: {effect}"
        )

    def query(self, uid: str) -> Sequence[str]:
        """Return the search that finds the event *uid*."""
        search = self._file.find or "{uid}"
        return (
            f"{self._file.product}: {holes.fill(search, {**self._settings.values, 'uid': uid})}",
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._peer.aclose()


def _filled(texts: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """Return *texts* with their holes filled, without those that an empty setting leaves empty."""
    filled = {key: (text, holes.fill(text, values)) for key, text in texts.items()}
    return {key: made for key, (text, made) in filled.items() if made or not text}


class _Times:
    """Which ages of an event a receiver can find, and what becomes of the others."""

    def __init__(self, settings: DescribedSinkSettings) -> None:
        file = settings.RECEIVER
        self._age = file.age
        self._product = file.product
        self.dead_letter = file.age.then == "dead_letter"
        oldest, newest = file.age.oldest, file.age.newest
        self.found_ages: tuple[int, int] | None = None
        if oldest is not None or newest is not None:
            self.found_ages = (
                ANY_AGE[0] if newest is None else -(newest - _TRANSIT_TIME) // _MICROSECOND,
                ANY_AGE[1] if oldest is None else (oldest - _TRANSIT_TIME) // _MICROSECOND,
            )

    def is_found(self, age: int) -> bool:
        """Return whether an event of the *age* (microseconds) can be found as it is."""
        return self.found_ages is None or self.found_ages[0] <= age <= self.found_ages[1]

    def unfit(self, at: int, now: int) -> Unfit:
        """Return why an event of the time *at* must not be sent *now*."""
        happened, age = iso_us(at), self._age
        if at < now and age.oldest is not None:
            why = f"happened at {happened}, more than {span(age.oldest)} ago"
            return Unfit("too_old", f"{why}: {self._product} would not take it")
        ahead = "" if age.newest is None else f", more than {span(age.newest)} ahead"
        why = f"happens at {happened}{ahead}: {self._product} would not take it"
        return Unfit("in_future", f"{why}; is the clock here right?")
