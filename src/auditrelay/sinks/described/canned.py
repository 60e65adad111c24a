"""What a description takes answers for: those that any receiver may give, and its own examples."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple

import httpx

from auditrelay.descriptions.receiver.model import Example, ReceiverFile
from auditrelay.errors import Refused, Rejected, Retryable
from auditrelay.http.replies import Reply
from auditrelay.sinks.described.answers import Answers, Isolate

Word = Literal["done", "retry", "hold", "split", "isolate", "reject"]

UID: Final = "example"
"""The uid of the one event of the request that a canned answer is for."""

_HTML: Final = b"<!doctype html><title>Sign in</title>"
_ANSWERS: Final = (
    (200, b"", "an empty body"),
    (200, _HTML, "a web page"),
    *((status, b"", "") for status in (202, 204, 301, 400, 401, 403, 404, 408, 413, 429, 500, 503)),
)

_AT: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""When the answers came: any time will do."""


class Taken(NamedTuple):
    """An answer in words, and what it is taken for."""

    answer: str
    word: Word
    possibly_stored: bool
    """Whether the events may be stored although they are sent again."""


def canned(file: ReceiverFile) -> Iterator[Taken]:
    """Yield what each of a set of answers, which any receiver may give, is taken for."""
    answers = Answers(file)
    for status, body, about in _ANSWERS:
        kind = "text/html" if body is _HTML else "application/json"
        reply = _reply(file, status, body, {"content-type": kind})
        yield Taken(f"{status} with {about}" if about else str(status), *_judged(answers, reply))


def of_example(file: ReceiverFile, example: Example) -> Taken:
    """Return what *example* is taken for."""
    reply = _reply(file, example.status, example.body.encode(), example.headers)
    body = example.body if len(example.body) <= 60 else example.body[:59] + "…"
    return Taken(f"{example.status} {body}".rstrip(), *_judged(Answers(file), reply))


def _reply(file: ReceiverFile, status: int, body: bytes, headers: dict[str, str]) -> Reply:
    where = f"{file.request.method} of events"
    return Reply(status, httpx.Headers(headers), body, where, _AT)


def _judged(answers: Answers, reply: Reply) -> tuple[Word, bool]:
    """Return what *reply* to a request with one event is taken for, and whether it is unsure."""
    try:
        outcome = answers.outcome(reply, [UID])
    except Retryable as error:
        return "retry", error.sent
    except Refused as error:
        return "hold", error.sent
    except Rejected:
        return "split", False
    if isinstance(outcome, Isolate):
        return "isolate", bool(outcome.stored)
    if outcome.rejected:
        return "reject", False
    return ("retry" if outcome.retry else "done"), bool(outcome.counts.possibly_stored)
