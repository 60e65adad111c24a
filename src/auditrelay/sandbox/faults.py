"""
Faults of single requests, and the script that chooses the requests.

::

    double.faults.add(too_many(retry_after="2"), path="/v1/audit/logs", nth=3)
    double.faults.add(store_then_reset(), method="POST", times=5)
    double.faults.add(hang(), chance=0.01, times=None)

A fault is a matcher and an action. The first fault that matches a request applies to it; later
faults do not count that request.
"""

import random
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Literal

from auditrelay.sandbox.messages import Request, Response

_BLOCK = 64 * 1024

HTML = b"<html><head><title>%b</title></head><body><h1>%b</h1><hr>nginx</body></html>\r\n"


@dataclass(frozen=True, slots=True)
class Action:
    """
    What happens to one request, in the order of the fields.

    Wait *delay* seconds; process the request (store) if *process*; *answer* replaces the reply; the
    *ending* is the reply, a reset, or silence until the client gives up. *drip* is a number of
    bytes and the pause in seconds after each such piece. *close* closes the connection afterwards,
    with or without announcing it in a header, or resets it.
    """

    delay: float = 0.0
    process: bool = True
    answer: Callable[[Request, Response], Response] | None = None
    ending: Literal["reply", "reset", "hang"] = "reply"
    drip: tuple[int, float] | None = None
    close: Literal["", "announced", "silent", "reset"] = ""


NO_FAULT = Action()
"""The action of a request that no fault matches."""


@dataclass(slots=True)
class Fault:
    """A matcher, its action, how often it may still apply, and how often it did."""

    action: Action
    method: str | None
    path: str | None
    nth: Collection[int] | None
    when: Callable[[Request], bool] | None
    chance: float
    remaining: int | None
    matched: int = 0
    applied: int = 0

    def matches(self, request: Request) -> bool:
        """Return whether *request* has the method, path and content that this fault is for."""
        return (
            (self.method is None or request.method == self.method)
            and (self.path is None or fnmatchcase(request.path, self.path))
            and (self.when is None or self.when(request))
        )


class Faults:
    """The fault script of one double; *seed* makes random faults the same on every run."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)  # noqa: S311  # repeatable, not secret
        self._script: list[Fault] = []

    def add(
        self,
        action: Action,
        *,
        method: str | None = None,
        path: str | None = None,
        nth: int | Collection[int] | None = None,
        when: Callable[[Request], bool] | None = None,
        times: int | None = 1,
        chance: float = 1.0,
    ) -> Fault:
        """
        Apply *action* to requests that match all given conditions.

        *path* is a shell pattern. *nth* counts from 1 the requests that match *method*, *path* and
        *when* after this call. It applies *times* times (None: always), with probability *chance*.
        """
        if isinstance(nth, int):
            nth = (nth,)
        if nth is not None and times == 1:
            times = len(nth)
        fault = Fault(action, method, path, nth, when, chance, times)
        self._script.append(fault)
        return fault

    def clear(self) -> None:
        """Remove all faults."""
        self._script.clear()

    def pick(self, request: Request) -> Action:
        """Return the action for *request*; NO_FAULT if no fault applies."""
        for fault in self._script:
            if fault.remaining == 0 or not fault.matches(request):
                continue
            fault.matched += 1
            if fault.nth is not None and fault.matched not in fault.nth:
                continue
            if fault.chance < 1.0 and self._random.random() >= fault.chance:
                continue
            fault.applied += 1
            if fault.remaining is not None:
                fault.remaining -= 1
            return fault.action
        return NO_FAULT


def delay(seconds: float) -> Action:
    """Answer as usual, *seconds* late."""
    return Action(delay=seconds)


def hang(*, process: bool = False) -> Action:
    """Never answer; with *process* the request is processed all the same."""
    return Action(process=process, ending="hang")


def drip(*, size: int = 1, seconds: float = 0.05) -> Action:
    """Answer as usual, *size* bytes at a time with a pause of *seconds* after each."""
    return Action(drip=(size, seconds))


def reset() -> Action:
    """Break the connection before the request is processed."""
    return Action(process=False, ending="reset")


def store_then_reset() -> Action:
    """Process the request, then break the connection instead of answering."""
    return Action(ending="reset")


def answer(
    status: int,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    *,
    process: bool = False,
) -> Action:
    """Answer *status*, *body* and *headers* to any request; with *process* store it too."""

    def made(_request: Request, response: Response) -> Response:
        return replace(response, status=status, body=body, headers=dict(headers or {}))

    return Action(process=process, answer=made)


def rewrite(change: Callable[[Request, Response], Response]) -> Action:
    """Process as usual and pass the answer through *change*."""
    return Action(answer=change)


def fails_at(text: bytes, how: str = "500") -> Action:
    """
    Fail wherever the answer would have *text*: a record that cannot be served.

    *how*: a status, or "html" (with a status of 200), or "broken" JSON.
    """

    def made(_request: Request, response: Response) -> Response:
        if text not in response.body:
            return response
        if how == "html":
            return replace(response, body=HTML % (b"Sorry", b"Sorry"))
        if how == "broken":
            return replace(response, body=response.body[:-1])
        return replace(response, status=int(how), body=b"")

    return Action(answer=made)


def too_many(*, retry_after: str | float | datetime | None = None, body: bytes = b"") -> Action:
    """Answer 429; *retry_after* in seconds, as an HTTP date, or not at all."""
    headers = {"Content-Type": "application/json"}
    if isinstance(retry_after, datetime):
        headers["Retry-After"] = format_datetime(retry_after.astimezone(UTC), usegmt=True)
    elif retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return answer(429, body, headers)


def too_many_until(clock: Callable[[], float], seconds: float) -> Action:
    """Answer 429 with the HTTP date *seconds* after the *clock* at the time of the request."""

    def made(_request: Request, response: Response) -> Response:
        until = datetime.fromtimestamp(clock(), UTC) + timedelta(seconds=seconds)
        headers = {"Retry-After": format_datetime(until, usegmt=True)}
        return replace(response, status=429, body=b"", headers=headers)

    return Action(process=False, answer=made)


def html(status: int = 502, *, process: bool = False) -> Action:
    """Answer a proxy's HTML page; with status 200 it is a captive portal."""
    title = str(status).encode()
    return answer(
        status, HTML % (title, title), {"Content-Type": "text/html; charset=utf-8"}, process=process
    )


def empty(status: int = 200, *, process: bool = False) -> Action:
    """Answer *status* with an empty body."""
    return answer(status, process=process)


def redirect(to: str, status: int = 302) -> Action:
    """Send the client to the same path and query of *to* (scheme and host, no slash)."""

    def made(request: Request, response: Response) -> Response:
        headers = {"Location": f"{to}{request.target}"}
        return replace(response, status=status, body=b"", headers=headers)

    return Action(process=False, answer=made)


def truncated(*, keep: float = 0.5, honest_length: bool = False, reset: bool = False) -> Action:
    """
    Answer only the first part (*keep* of 1) of the real reply.

    Without *honest_length*, Content-Length is that of the whole reply and the connection closes
    early, or is reset with *reset*; with it, the reply is complete HTTP and only its text is cut.
    """

    def made(_request: Request, response: Response) -> Response:
        body = response.body[: int(len(response.body) * keep)]
        headers = dict(response.headers)
        if not honest_length:
            headers["Content-Length"] = str(len(response.body) + 1)
        return replace(response, body=body, headers=headers)

    close: Literal["", "silent", "reset"] = "reset" if reset else "silent"
    return Action(answer=made, close="" if honest_length else close)


def wrong_type(kind: str = "text/plain") -> Action:
    """Answer as usual, but under the Content-Type *kind*."""

    def made(_request: Request, response: Response) -> Response:
        return replace(response, headers={**response.headers, "Content-Type": kind})

    return Action(answer=made)


def huge(size: int) -> Action:
    """Answer 200 with *size* bytes of one endless JSON string, never whole in memory."""

    def body() -> Iterator[bytes]:
        yield b'{"data":"'
        for sent in range(9, size, _BLOCK):
            yield b"x" * min(_BLOCK, size - sent)

    def made(_request: Request, response: Response) -> Response:
        headers = {"Content-Type": "application/json", "Content-Length": str(size)}
        return replace(response, status=200, headers=headers, chunks=body())

    return Action(process=False, answer=made)


def gzipped() -> Action:
    """Answer as usual, gzip-encoded."""

    def made(_request: Request, response: Response) -> Response:
        body = zlib.compress(response.body, wbits=31)
        return replace(
            response, body=body, headers={**response.headers, "Content-Encoding": "gzip"}
        )

    return Action(answer=made)


def gzip_bomb(size: int) -> Action:
    """Answer 200 with a small gzip body that decodes to *size* bytes."""

    def made(_request: Request, response: Response) -> Response:
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        return replace(response, status=200, body=_bomb(size), headers=headers)

    return Action(process=False, answer=made)


@lru_cache(maxsize=4)
def _bomb(size: int) -> bytes:
    stream = zlib.compressobj(9, wbits=31)
    parts = [stream.compress(b'{"data":"')]
    parts += [stream.compress(b"x" * min(_BLOCK, size - at)) for at in range(9, size, _BLOCK)]
    return b"".join([*parts, stream.flush()])


def chunked(size: int = 1000) -> Action:
    """Answer as usual, in chunked coding with pieces of *size* bytes."""

    def made(_request: Request, response: Response) -> Response:
        body = response.body
        pieces = [body[start : start + size] for start in range(0, len(body), size)]
        return replace(response, chunks=pieces, chunked=True)

    return Action(answer=made)


def close(*, announced: bool = False) -> Action:
    """Answer as usual, then close the keep-alive connection."""
    return Action(close="announced" if announced else "silent")
