"""A vendor that is described by a few tables, and a server that answers from a script."""

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.support.described import class_of

from auditrelay.clock import Clock
from auditrelay.descriptions.model import DescriptionFile, Feed, feed_of
from auditrelay.descriptions.settings import DescribedSettings
from auditrelay.sandbox.messages import Request, Response, json_response
from auditrelay.sandbox.server import Double
from auditrelay.sources import described
from auditrelay.sources.described.source import Source
from auditrelay.telemetry.metrics import Metrics

PATH = "/v1/events"

FILE = """
vendor = "acme"
product = "Acme"
docs = ["https://acme.example/docs"]
checked = 2026-11-01
evidence = "documentation"

[settings.account]
about = "The account."
example = "a1"
scope = true

[secrets.token]
about = "The token."

[auth]
kind = "header"
prefix = "Bearer "
secret = "token"

[request]
base_url = "https://api.acme.example"
path = "/v1/events"

[time]
start = "query:from"
end = "query:to"

[pages]
kind = "cursor"
from = "body:next"
to = "query:cursor"
size = "query:limit"
largest = 100

[records]
at = "events"
id = "id"
time = "at"

[errors]
words = ["error.message", "message"]

[event]
action = "type"
"""


def feed(**tables: Mapping[str, Any] | None) -> Feed:
    """
    Return the feed of FILE with these *tables* changed: given keys replace those of the table.

    A key that is None is left out; so is a table that is None.
    """
    file = tomllib.loads(FILE)
    for name, changes in tables.items():
        if changes is None:
            del file[name]
            continue
        table = {**file.get(name, {}), **changes}
        file[name] = {key: value for key, value in table.items() if value is not None}
    return feed_of(DescriptionFile(**file), None)


def settings(feed: Feed, **keys: Any) -> DescribedSettings:
    """Return settings of *feed* with these *keys*."""
    given = {"type": "acme", "token": "t0ken", "account": "a1", "timeout": "5s", **keys}
    return class_of(feed).model_validate(given)


def source(feed: Feed, url: str, clock: Clock, name: str = "acme", **keys: Any) -> Source:
    """Return the source of *feed*, which asks *url*."""
    return described.build(name, settings(feed, base_url=url, **keys), Metrics(), clock)


Answer = Response | Callable[[Request], Response]


class Scripted(Double):
    """Answers the requests with *script*, one after the other; the last answer comes again."""

    def __init__(self, *script: Answer, clock: Callable[[], float]) -> None:
        super().__init__(clock=clock)
        self.script: list[Answer] = list(script)
        self.asked: list[Request] = []

    def respond(self, request: Request) -> Response:
        self.asked.append(request)
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return answer if isinstance(answer, Response) else answer(request)

    @property
    def queries(self) -> list[dict[str, str]]:
        """The parameters of each request."""
        return [request.query for request in self.asked]

    @property
    def bodies(self) -> list[Any]:
        """The body of each request, decoded; None if it has none."""
        return [json.loads(request.body) if request.body else None for request in self.asked]


def pairs(request: Request) -> list[tuple[str, str]]:
    """Return the parameters of *request* as they came, also one that came twice."""
    return parse_qsl(urlsplit(request.target).query, keep_blank_values=True)


def record(number: int, at: datetime | None = None, **more: Any) -> dict[str, Any]:
    """Return a made-up record."""
    moment = at or datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(seconds=number)
    return {"id": f"e{number}", "at": moment.isoformat(), "type": "user.create", **more}


def page(numbers: Sequence[int] | Sequence[dict[str, Any]], **more: Any) -> Response:
    """Return a page with records of these *numbers*, and *more* keys."""
    events = [record(each) if isinstance(each, int) else each for each in numbers]
    return json_response(200, {"events": events, **more})


def ids(pages: Sequence[Any]) -> list[str]:
    """Return the ids of all records of *pages*."""
    return [json.loads(record)["id"] for each in pages for record in each.records]
