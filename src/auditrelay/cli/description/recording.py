"""Make an example of a description from a live source: two pages, scrubbed."""

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import httpx

from auditrelay.cli.description.conversations import ABOUT, ANY
from auditrelay.cli.description.scrubbing import (
    Scrubber,
    api_address,
    example_secret,
    example_setting,
    token_address,
)
from auditrelay.cli.probes import Findings, probe
from auditrelay.clock import Clock
from auditrelay.descriptions.model import HeaderAuth, HeadersAuth, OAuth2Auth
from auditrelay.descriptions.places import find, parse_path
from auditrelay.descriptions.settings import DescribedSettings
from auditrelay.descriptions.times import writer
from auditrelay.descriptions.vendor import vendor_of
from auditrelay.errors import ConfigError, Rejected
from auditrelay.events import AuditEvent
from auditrelay.events.normalize import Normalizer
from auditrelay.http.headers import link
from auditrelay.http.replies import Reply
from auditrelay.sources import Source, described
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import EPOCH, Interval, iso, micros, moment

NAME: Final = "two_pages"
"""The folder of the conversation."""

SIZE: Final = 2
"""Records of a page."""

_EVENTS: Final = 3
"""Events of the window: more than are on a page."""

_BACK: Final = tuple(timedelta(hours=hours) for hours in (1, 24, 7 * 24, 30 * 24))


@dataclass
class Recorded:
    """What was found and written: the *files* by name, the words *kept* in replies, by path."""

    findings: Findings
    files: dict[str, str] = field(default_factory=dict)
    kept: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class _Heard:
    """Requests and replies, as they came."""

    exchanges: list[tuple[httpx.Request, Reply]] = field(default_factory=list)

    def __call__(self, request: httpx.Request, reply: Reply) -> None:
        self.exchanges.append((request, reply))


class _SameTime(Clock):
    """A clock like another one, which has no token yet: sources with one clock share theirs."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        super().__init__()

    def now(self) -> datetime:
        return self._clock.now()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)


async def record(name: str, settings: DescribedSettings, clock: Clock) -> Recorded:
    """
    Return the files of a conversation with the source *name*, which has *settings*.

    Raises what probes and walks raise, and Rejected if it does not have enough events.
    """
    feed = settings.FEED
    source = described.build(name, settings, Metrics(sources=[name]), clock)
    try:
        normalize = Normalizer.of(name, settings, vendor=vendor_of(feed), scope=source.scope)
        now = clock.now()
        findings = await probe(source, settings, normalize, now, thorough=True)
        window = _window(settings, await _newest(source, settings, normalize, now))
    finally:
        await source.close()
    heard = _Heard()
    small = settings if feed.pages.size is None else settings.model_copy(update={"page_size": SIZE})
    own = _SameTime(clock)
    source = described.build(name, small, Metrics(sources=[name]), own, heard=heard)
    asked_at = own.now()
    try:
        async with aclosing(source.walk(window)) as pages:
            async for page in pages:
                if page.last:
                    break
    finally:
        await source.close()
    made = _Writer(small, heard.exchanges, window, asked_at)
    return Recorded(findings, made.files(), made.kept)


async def _newest(
    source: Source, settings: DescribedSettings, normalize: Normalizer, now: datetime
) -> list[AuditEvent]:
    """Return a few events, the newest first."""
    found: dict[str, AuditEvent] = {}
    end = now - settings.settle
    for back in _BACK:
        window = Interval(end - min(back, settings.max_window), end)
        async with aclosing(source.walk(window)) as pages:
            async for page in pages:
                found |= {event.uid: event for event in normalize(page.records, micros(now))}
                if len(found) > 1000:  # enough to choose from
                    break
        if len({event.at for event in found.values()}) >= _EVENTS:
            break
    return sorted(found.values(), key=lambda event: event.at, reverse=True)


def _window(settings: DescribedSettings, events: list[AuditEvent]) -> Interval:
    """Return a window with a few of *events*. Raises Rejected if there are too few."""
    granule = writer(settings.FEED.time.format).granule
    if len(events) < SIZE:
        raise Rejected(
            f"there {'is one event' if events else 'are no events'} in the last 30 days, and an "
            "example needs two pages: do something that is audited, and record again",
            reason="too_few_events",
        )
    start = moment(events[min(_EVENTS, len(events)) - 1].at)
    end = moment(events[0].at) + timedelta(microseconds=1)
    return Interval(start - (start - EPOCH) % granule, end + (EPOCH - end) % granule)


class _Writer:
    """Writes *exchanges* as the files of a conversation, scrubbed."""

    def __init__(
        self,
        settings: DescribedSettings,
        exchanges: list[tuple[httpx.Request, Reply]],
        window: Interval,
        asked_at: datetime,
    ) -> None:
        self._settings = settings
        self._feed = settings.FEED
        self._exchanges = exchanges
        self._window = window
        self._asked_at = asked_at
        self._scrubber = Scrubber(secrets.token_bytes(32), settings)
        self._records = find(parse_path(self._feed.records.at))
        self.kept: dict[str, list[str]] = {}
        self._asked: dict[str, str] = {}

    def files(self) -> dict[str, str]:
        """Return the text of each file. Raises Rejected if an identity is left in one."""
        for request, reply in self._exchanges:
            if self._is_token(request):
                continue
            body = _json(reply.body)
            found = self._records(body) if self._feed.records.at else body
            self._scrubber.learn(found if isinstance(found, list) else [], self._cursors(reply))
            self._asked = self._asked or dict(parse_qsl(_query(request)))
        files = {ABOUT: self._about()}
        for number, (request, reply) in enumerate(self._exchanges, 1):
            files[f"{number}.request.json"] = _text(self._request(request))
            files[f"{number}.reply.json"] = _text(self._reply(request, reply))
        for name, text in files.items():
            if self._scrubber.is_left_in(text):
                raise Rejected(
                    f"nothing was written: an identity or a secret would be in {name}; make "
                    "the example by hand",
                    reason="not_scrubbed",
                )
        return files

    def _is_token(self, request: httpx.Request) -> bool:
        auth = self._feed.auth
        if not isinstance(auth, OAuth2Auth):
            return False
        parts = urlsplit(self._settings.token_address)
        return request.url.path == parts.path and request.url.netloc.decode() == parts.netloc

    def _cursors(self, reply: Reply) -> Iterator[Any]:
        spot = self._feed.pages.from_
        if spot is None or self._feed.pages.kind == "url":
            return
        value: Any = None
        if spot.place == "header":
            value = reply.headers.get(spot.name)
            value = _json(value.encode()) if value and value[0] in "[{" else value
        elif spot.place == "body" and spot.path is not None:
            value = find(spot.path)(_json(reply.body))
        elif spot.place == "last" and spot.path is not None:
            body = _json(reply.body)
            found = self._records(body) if self._feed.records.at else body
            value = find(spot.path)(found[-1]) if isinstance(found, list) and found else None
        if value is not None:
            yield value

    # --- the files

    def _about(self) -> str:
        feed = self._feed
        lines = ['evidence = "recorded"', 'about = "Two pages of a live account, scrubbed."']
        if feed.name is not None:
            lines.append(f'feed = "{feed.name}"')
        if feed.pages.size is not None:
            lines.append(f"page_size = {self._settings.page_size}")
        lines += [f"now = {iso(self._asked_at)}", "", "[settings]"]
        for name in feed.settings:
            lines.append(f"{name} = {json.dumps(example_setting(self._settings, name))}")
        lines += ["", "[secrets]"]
        lines += [
            f"{name} = {json.dumps(example_secret(name))}"
            for name in feed.secrets
            if self._settings.secret(name).reveal()
        ]
        window = self._window
        lines += ["", "[window]", f"start = {iso(window.start)}", f"end = {iso(window.end)}", ""]
        return "\n".join(lines)

    def _request(self, request: httpx.Request) -> dict[str, Any]:
        is_token = self._is_token(request)
        made: dict[str, Any] = {"method": request.method}
        if is_token:
            token, api = (
                urlsplit(address)
                for address in (token_address(self._settings), api_address(self._settings))
            )
            if token.hostname != api.hostname:
                made["host"] = token.hostname
            made["path"] = token.path
        else:
            made["path"] = self._scrubber.path(request.url.raw_path.decode().partition("?")[0])
        pairs = parse_qsl(_query(request), keep_blank_values=True)
        made["query"] = self._scrubber.query(pairs, self._asked)
        content = request.content
        if is_token and b"grant_type=" in content and content[:1] not in b"{[":
            form = parse_qsl(content.decode(), keep_blank_values=True)
            made["form"] = [
                [name, ANY if name == "assertion" else self._scrubber.form(text)]
                for name, text in form
            ]
        else:
            body = _json(content) if content else None
            made["body"] = self._body_of_ours(body)
        made["headers"] = {} if is_token else self._identity(request)
        return made

    def _body_of_ours(self, value: Any) -> Any:
        """Return a body that we sent: only settings, secrets and cursors in it are others'."""
        if isinstance(value, dict):
            return {key: self._body_of_ours(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self._body_of_ours(each) for each in value]
        if isinstance(value, str):
            return self._scrubber.known(value)
        return self._scrubber.value(value)

    def _identity(self, request: httpx.Request) -> dict[str, str]:
        """Return the headers by which the vendor knows us, without the secrets."""
        auth = self._feed.auth
        if isinstance(auth, HeaderAuth):
            return {auth.header: f"{auth.prefix}{example_secret(auth.secret)}"}
        if isinstance(auth, HeadersAuth):
            return {
                header: example_secret(name)
                for header, name in auth.headers.items()
                if header.lower() in request.headers
            }
        return {"authorization": ANY}

    def _reply(self, request: httpx.Request, reply: Reply) -> dict[str, Any]:
        body = _json(reply.body)
        if self._is_token(request):
            life = body.get("expires_in") if isinstance(body, dict) else None
            token = {"access_token": "example-access-token", "token_type": "Bearer"}
            return {
                "status": reply.status,
                "headers": {},
                "body": {**token, **({} if life is None else {"expires_in": life})},
            }
        clean = self._scrubber.value(body)
        self._keep(clean, "")
        headers = {}
        for spot in self._spots():
            value = reply.headers.get(spot)
            if value is not None:
                headers[spot] = self._scrubber.text(value)
        pages = self._feed.pages
        if pages.kind == "url" and pages.from_ is not None:
            self._put_address(pages.from_, reply, body, clean, headers)
        elif pages.from_ is not None and pages.from_.place == "body" and pages.from_.path:
            # Its key may look like that of a secret; and what it is replaced by is asked with.
            cursor = find(pages.from_.path)(body)
            if cursor is not None:
                _put(clean, pages.from_.path, self._scrubber.plain(cursor))
        return {"status": reply.status, "headers": headers, "body": clean}

    def _spots(self) -> list[str]:
        pages = self._feed.pages
        spots = (pages.from_, pages.more, pages.count, pages.total)
        return [spot.name for spot in spots if spot is not None and spot.place == "header"]

    def _put_address(
        self, spot: Any, reply: Reply, body: Any, clean: Any, headers: dict[str, str]
    ) -> None:
        """Put the scrubbed address of the next page where it stood."""
        if spot.place == "link":
            address = link(reply.headers, spot.name, self._feed.pages.says)
            if address:
                made = self._scrubber.next_address(address, self._asked)
                said = "".join(f'; {key}="{text}"' for key, text in self._feed.pages.says.items())
                headers["link"] = f'<{made}>; rel="{spot.name}"{said}'
        elif spot.place == "header":
            if headers.get(spot.name):
                address = reply.headers[spot.name]
                headers[spot.name] = self._scrubber.next_address(address, self._asked)
        elif spot.path is not None:
            address = find(spot.path)(body)
            if isinstance(address, str) and address:
                _put(clean, spot.path, self._scrubber.next_address(address, self._asked))

    def _keep(self, value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, each in value.items():
                self._keep(each, f"{path}.{key}" if path else key)
        elif isinstance(value, list):
            for each in value:
                self._keep(each, path)
        elif value is not None and str(value) not in (found := self.kept.setdefault(path, [])):
            found.append(str(value))


def _put(body: Any, path: Any, value: Any) -> None:
    """Put *value* at the *path* of a *body* that has something there."""
    *way, last = map(str, path.steps)
    for key in way:
        body = body.get(key) if isinstance(body, dict) else None
    if isinstance(body, dict):
        body[last] = value


def _query(request: httpx.Request) -> str:
    return request.url.query.decode()


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content.decode("utf-8", "replace")


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def write(recorded: Recorded, out: Path) -> list[Path]:
    """Write the files into a new folder in *out*; return them. Raises ConfigError."""
    folder = out / NAME
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise ConfigError(f"{folder}: exists already; not overwritten") from error
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made: {error.strerror}") from error
    written = []
    for name, text in recorded.files.items():
        file = folder / name
        file.write_text(text, "utf-8")
        written.append(file)
    return written
