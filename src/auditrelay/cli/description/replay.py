"""
Replay a conversation: the engine asks a vendor on loopback, which answers from the recorded one.

It answers request n with reply n, and only if the request is the recorded one.
"""

import asyncio
import difflib
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import msgspec
from pydantic import ValidationError

from auditrelay.cli.description.conversations import (
    ABOUT,
    ANY,
    EVENTS,
    Conversation,
    Expected,
    Pair,
    Reply,
    Request,
    json_of,
)
from auditrelay.cli.json_text import printable
from auditrelay.clock import Clock
from auditrelay.descriptions import FOLDER, REST
from auditrelay.descriptions.load import Description
from auditrelay.descriptions.model import Feed, OAuth2Auth
from auditrelay.descriptions.settings import DescribedSettings, settings_class
from auditrelay.descriptions.vendor import vendor_of
from auditrelay.errors import ConfigError, Refused, RelayError, Retryable, WalkBroken
from auditrelay.events import AuditEvent
from auditrelay.events.normalize import Normalizer
from auditrelay.sandbox.messages import Request as Asked
from auditrelay.sandbox.messages import Response
from auditrelay.sandbox.server import Double
from auditrelay.settings.wording import dotted, explained
from auditrelay.sources import Source, described
from auditrelay.telemetry.humanize import count
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval, micros

SOURCE: Final = "example"
"""The name of the source in the events."""

_ERRORS: Final = {"refused": Refused, "retry": Retryable, "broken": WalkBroken}

_DIVERGED: Final = Response(400, b"this is not what was recorded", {"Content-Type": "text/plain"})


@dataclass(frozen=True)
class Replayed:
    """
    What came of a conversation: its events, or the error that ended it.

    *problems* are what differs from what was recorded, each a text of one line or a diff.
    """

    conversation: Conversation
    events: list[AuditEvent] = field(default_factory=list)
    error: RelayError | None = None
    problems: tuple[str, ...] = ()
    asked_as_recorded: bool = True

    @property
    def line(self) -> str:
        """What came of it, in a few words."""
        if self.problems:
            return "differs"
        if self.error is not None:
            return f"ok, {self.error}"
        return f"ok, {count(len(self.events), 'event')}"


def updated(replayed: Replayed) -> Replayed:
    """
    Write ``events.json`` with what came, and return *replayed* without what that mends.

    Nothing is written where a request differs, or an error is expected.
    """
    conversation = replayed.conversation
    wanted = conversation.about.expect is None and replayed.error is None
    if not (wanted and replayed.problems and replayed.asked_as_recorded):
        return replayed
    file = conversation.folder / EVENTS
    try:
        file.write_text(events_text(replayed.events), "utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from error
    return replace(replayed, problems=())


def replay(description: Description, conversation: Conversation) -> Replayed:
    """Replay *conversation*, in no time. Raises ConfigError for settings that are wrong."""
    return asyncio.run(run(description, conversation))


async def run(description: Description, conversation: Conversation) -> Replayed:
    """Do what :func:`replay` does, in a loop that runs."""
    about = conversation.about
    try:
        feed = description.feed(about.feed)
    except ConfigError as error:
        raise ConfigError(f"{conversation.folder / ABOUT}: {error}") from error
    settings = _settings(description, feed, conversation, {})
    clock = _Clock(about.now or about.window.end + timedelta(hours=1))
    script = _Script(conversation, clock)
    async with AsyncExitStack() as stack:
        addresses = {}
        by_host: dict[str | None, str] = {}
        for key, address in settings.addresses.items():
            parts = urlsplit(address)
            host = parts.hostname
            if host not in by_host:
                double = _Host(script, None if key == "base_url" else host, clock)
                by_host[host] = (await stack.enter_async_context(double)).url
            addresses[key] = by_host[host] + parts.path
        here = _settings(description, feed, conversation, addresses)
        source = described.build(SOURCE, here, Metrics(sources=[SOURCE]), clock)
        stack.push_async_callback(source.close)
        # The vendor's own host is in its events, not the one of this conversation.
        normalize = Normalizer.of(SOURCE, settings, vendor=vendor_of(feed), scope=source.scope)
        window = Interval(about.window.start, about.window.end)
        events, failure = await _walk(source, normalize, window, clock)
    problems = script.problems or _unmet(about.expect, failure, script.waited)
    if not problems and about.expect is None:
        problems = _other_events(conversation, events)
    return Replayed(
        conversation,
        events,
        failure,
        tuple(problems),
        asked_as_recorded=not script.problems,
    )


async def _walk(
    source: Source, normalize: Normalizer, window: Interval, clock: Clock
) -> tuple[list[AuditEvent], RelayError | None]:
    fetched = micros(clock.now())
    events: dict[str, AuditEvent] = {}
    try:
        async with aclosing(source.walk(window)) as pages:
            async for page in pages:
                for event in normalize(page.records, fetched):
                    events.setdefault(event.uid, event)
    except (Refused, Retryable, WalkBroken) as error:
        return list(events.values()), error
    return list(events.values()), None


# --- settings ----------------------------------------------------------------


def _settings(
    description: Description, feed: Feed, conversation: Conversation, addresses: dict[str, str]
) -> DescribedSettings:
    """Return the settings of *conversation*, with the vendor at these *addresses*."""
    about = conversation.about
    name = description.path.stem if description.path.parent == FOLDER else REST
    keys: dict[str, Any] = {"type": name, **about.settings, **about.secrets, **addresses}
    if name == REST:
        keys["description"] = description.path
    if feed.name is not None:
        keys["feed"] = feed.name
    if about.page_size is not None:
        keys["page_size"] = about.page_size
    if isinstance(feed.auth, OAuth2Auth) and feed.auth.key in about.secrets:
        keys[feed.auth.key] = _key()
    keys["requests_per_minute"] = None  # waits are the vendor's, here
    model = settings_class(feed, name)
    try:
        return model.model_validate(keys)
    except ValidationError as error:
        file = conversation.folder / ABOUT
        found = [explained(detail, model, keys) for detail in error.errors(include_url=False)]
        raise ConfigError(
            *dict.fromkeys(f"{file}: {dotted(path)}: {sentence}" for path, sentence in found)
        ) from error


@cache
def _key() -> str:
    """Return the file of a service account with a new key: no example can have a real one."""
    # Only a description with such a grant needs the library.
    from cryptography.hazmat.primitives.asymmetric.rsa import (  # noqa: PLC0415
        generate_private_key,
    )
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    key = generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return json.dumps({"private_key": pem.decode(), "client_email": "relay@acme.example"})


# --- the vendor --------------------------------------------------------------


class _Clock(Clock):
    """The time of a conversation: it stands still, and a wait moves it at once."""

    def __init__(self, now: datetime) -> None:
        self._began = now
        self._passed = 0.0
        super().__init__()

    def now(self) -> datetime:
        return self._began + timedelta(seconds=self._passed)

    def monotonic(self) -> float:
        return self._passed

    async def sleep(self, seconds: float) -> None:
        self._passed += seconds
        await asyncio.sleep(0)


class _Host(Double):
    """One host of a conversation; None is the API's."""

    def __init__(self, script: "_Script", host: str | None, clock: Clock) -> None:
        super().__init__(clock=lambda: clock.now().timestamp())
        self._script = script
        self._host = host

    def respond(self, request: Asked) -> Response:
        return self._script.answer(request, self._host)


class _Script:
    """The exchanges of a conversation, of which the next one is expected."""

    def __init__(self, conversation: Conversation, clock: Clock) -> None:
        self._exchanges = conversation.exchanges
        expect, (_, last) = conversation.about.expect, conversation.exchanges[-1]
        # Where another error, or none, is expected, a refusal is shown instead of its repetition.
        self._repeats = expect.error == "retry" if expect is not None else last.status >= 400
        self._clock = clock
        self._done = 0
        self._differs: str | None = None
        self._last_asked: list[float] = []

    def answer(self, request: Asked, host: str | None) -> Response:
        """Return the reply to *request* at *host*."""
        if self._differs is not None:
            return _DIVERGED
        number, last = self._done + 1, len(self._exchanges)
        if number > last and self._repeats:
            number = last  # it tries the same a few times before it gives up
        if number > last:
            self._differs = (
                f"request {number} is not recorded: {request.method} {printable(request.target)}"
            )
            return _DIVERGED
        expected, reply = self._exchanges[number - 1]
        wanted, asked = _comparable(expected, request, host)
        if wanted != asked:
            self._differs = difference(wanted, asked, f"{number}.request.json", "what was asked")
            return _DIVERGED
        if number == last:
            self._last_asked.append(self._clock.monotonic())
        self._done = number
        return _response(reply)

    @property
    def problems(self) -> list[str]:
        """What was asked otherwise than recorded, or not at all."""
        if self._differs is not None:
            return [self._differs]
        if self._done < len(self._exchanges):
            return [f"request {self._done + 1} is recorded, and was not made"]
        return []

    @property
    def waited(self) -> float | None:
        """The seconds after which the last request was made again, if it was."""
        first, *more = self._last_asked or [0.0]
        return more[0] - first if more else None


def _comparable(
    expected: Request, request: Asked, host: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the *expected* request, and the one that came at *host*, in one form."""
    address = urlsplit(request.target)
    query = parse_qsl(address.query, keep_blank_values=True)
    wanted: dict[str, Any] = {
        "method": expected.method,
        "host": expected.host,
        "path": expected.path,
        "query": sorted(map(list, expected.query)),
    }
    asked: dict[str, Any] = {
        "method": request.method,
        "host": host,
        "path": address.path,
        "query": sorted(map(list, query)),
    }
    if expected.form is None:
        wanted["body"], asked["body"] = expected.body, _body(request.body)
    else:
        form = parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True)
        wanted["form"] = sorted(_filled(expected.form, form))
        asked["form"] = sorted(map(list, form))
    names = {name.lower(): value for name, value in expected.headers.items()}
    came = {name: request.headers[name] for name in names if name in request.headers}
    wanted["headers"] = {
        name: came.get(name, ANY) if value == ANY else value for name, value in names.items()
    }
    asked["headers"] = came
    return wanted, asked


def _filled(pairs: Sequence[Pair], came: Sequence[Pair]) -> list[list[str]]:
    """Return *pairs*, with what *came* in place of what may be any text."""
    found = dict(came)
    return [[name, found.get(name, ANY) if text == ANY else text] for name, text in pairs]


def _body(content: bytes) -> Any:
    if not content:
        return None
    try:
        return json.loads(content)
    except ValueError:
        return content.decode("utf-8", "replace")


def _response(reply: Reply) -> Response:
    if isinstance(reply.body, str):
        text = reply.body.encode("utf-8", "surrogatepass")
        return Response(reply.status, text, {"Content-Type": "text/plain", **reply.headers})
    text = json.dumps(reply.body, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "surrogatepass"
    )
    return Response(reply.status, text, {"Content-Type": "application/json", **reply.headers})


# --- judgement ---------------------------------------------------------------


def _unmet(expect: Expected | None, error: RelayError | None, waited: float | None) -> list[str]:
    """Return how *error*, after *waited* seconds, differs from what was expected."""
    if expect is None:
        return [] if error is None else [f"it failed ({_kind(error)!r}): {error}"]
    if error is None:
        return [f"it did not fail, and {expect.error!r} was expected"]
    if _kind(error) != expect.error:
        return [f"it failed as {_kind(error)!r}, and not as {expect.error!r}: {error}"]
    problems = []
    if expect.words not in str(error):
        problems.append(f"its message does not contain {expect.words!r}: {error}")
    if expect.wait is not None:
        if waited is None:
            waited = getattr(error, "retry_after", None)
        if waited is None or abs(waited - expect.wait) >= 1:
            waits = "at once" if waited is None else f"after {waited:.0f} s"
            problems.append(f"it asks again {waits}, and not after {expect.wait:.0f} s")
    return problems


def _kind(error: RelayError) -> str:
    # What is refused comes first: alone, it is also tried again.
    return next(name for name, kind in _ERRORS.items() if isinstance(error, kind))


def _other_events(conversation: Conversation, events: Sequence[AuditEvent]) -> list[str]:
    if conversation.events is None:
        return [f"{EVENTS} is missing: write it with --update, and read what it says"]
    wanted = json_of(conversation.events, conversation.folder / EVENTS)
    came = [canonical(event) for event in events]
    return [] if _same(wanted, came) else [difference(wanted, came, EVENTS, "what came")]


def _same(one: Any, other: Any) -> bool:
    """Return whether two values are the same JSON: true is not 1."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def difference(wanted: Any, came: Any, wanted_name: str, came_name: str) -> str:
    """Return how the JSON *came* differs from the one that was *wanted*, as lines of a diff."""
    texts = [
        json.dumps(each, indent=1, sort_keys=True, ensure_ascii=False) for each in (wanted, came)
    ]
    old, new = [text.splitlines() for text in texts]
    lines = difflib.unified_diff(old, new, wanted_name, came_name, lineterm="")
    return "\n".join(printable(line) for line in lines)


def canonical(event: AuditEvent) -> dict[str, Any]:
    """Return *event* as JSON values: without what is empty, and when it was fetched."""
    return {
        name: plain
        for name, value in msgspec.structs.asdict(event).items()
        if name != "fetched" and (plain := _plain(value)) not in (None, [], {}, "", False)
    }


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Raw):
        return json.loads(bytes(value))
    if isinstance(value, msgspec.Struct):
        plain = {name: _plain(each) for name, each in msgspec.structs.asdict(value).items()}
        return {name: each for name, each in plain.items() if each is not None}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value


def events_text(events: Sequence[AuditEvent]) -> str:
    """Return *events* as ``events.json`` has them."""
    return json.dumps([canonical(event) for event in events], indent=1, ensure_ascii=False) + "\n"
