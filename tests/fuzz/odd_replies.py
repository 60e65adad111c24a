"""Replies that no sane peer gives: a true reply of a double, changed at random places."""

import json
import random
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from auditrelay.sandbox import faults
from auditrelay.sandbox.messages import Request, Response
from auditrelay.sandbox.server import Double

NUMBERS: Final = (
    *("0", "-1", "1", "9", "2147483648", "99999999999", "18446744073709551616", "9" * 5000),
    *(
        "1e308",
        "-1e308",
        "1e999",
        "0.5",
        "inf",
        "nan",
        "0x10",
        "1_000",
        "+5",
        "\u0661".encode().decode("latin-1"),
    ),
)

DATES: Final = (
    "Thu, 01 Jan 1970 00:00:00 GMT",
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "Mon, 01 Jan 0001 00:00:00 GMT",
    "Thu, 32 Foo 2026 99:99:99 GMT",
    "Thu, 01 Jan 2026 12:00:00 +9999",
    "Thursday, 01-Jan-26 12:00:00 GMT",
    "2026-01-01T12:00:00Z",
)

TEXTS: Final = (
    *("", " ", "none", "\xff\xfe", "a" * 20_000, "%s%n", "../../etc/passwd", "=?utf-8?q?x?="),
    *("gzip", "GZIP, identity", "br", "gzip, gzip", "UTF-8", ",", "gzip;q=0", "identity,"),
    *("text/html", "application/json; charset=utf-16", "application/x-ndjson", ";;;"),
)

NAMES: Final = (
    *(
        "Age",
        "Date",
        "Retry-After",
        "Content-Type",
        "Content-Encoding",
        "Content-Length",
        "Expires",
    ),
    *("Set-Cookie", "Location", "X-RateLimit-Remaining", "X-RateLimit-Reset", "RateLimit", "Link"),
    *("Transfer-Encoding", "Connection", "Vary", "WWW-Authenticate", "X-elastic-product", "X-Odd"),
)

STATUSES: Final = (
    *(200, 200, 200, 200, 201, 202, 204, 206, 207, 226, 299, 300, 301, 302, 304, 307, 308),
    *(400, 401, 402, 403, 404, 405, 406, 408, 409, 410, 411, 413, 414, 415, 416, 418, 422, 423),
    *(425, 426, 429, 431, 451, 499, 500, 501, 502, 503, 504, 505, 507, 508, 511, 520, 524, 529),
    *(530, 598, 599, 600, 700, 999),
)

VALUES: Final[tuple[Any, ...]] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        10**18,
        10**400,
        1e308,
        -0.0,
        0.5,
        "",
        " ",
        "0",
        "null",
        "false",
    ),
    *(
        "9" * 400,
        "a" * 9000,
        "\x00",
        "\ud800",
        "\u202e",
        "\ufeff",
        "\U0001f600",
        "{",
        '{"a":',
        "[]",
    ),
    *("9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00Z", "2026-02-30T25:61:61Z", "1767268800"),
    *("2026-01-01T12:00:00+99:99", "Thu, 01 Jan 2026 12:00:00 GMT", "-292277022657-01-27"),
    *([], {}, [[]], [None], [0], {"": ""}, {"a\x00b": 1}, {"$date": 1}, {"a": {"b": {"c": []}}}),
)

BODIES: Final = (
    *(b"", b" ", b"null", b"[]", b"{}", b'""', b"0", b"true", b"OK", b"NaN", b"[", b'{"', b"\x00"),
    *(b"\xff\xfe[\x00]\x00", b"\xef\xbb\xbf{}", b"<html><body>Sign in</body></html>", b"<?xml ?>"),
    *(b"[" * 2000, b"[" * 100_000, b'{"a":' * 3000 + b"1" + b"}" * 3000, b'{"a":1,"a":2,"a":3}'),
    *(b'{"data":null}', b'{"data":[null]}', b'{"errors":[]}', b'{"code":0}', b'{"items":{}}'),
    *(
        b'{"text":"Success","code":0}',
        b'{"errors":false,"items":[]}',
        b"\x1f\x8b\x08\x00",
        b"{}\n{}",
    ),
)


class OddReplies:
    """Changes replies at random, as *seed* says: the same changes for the same requests."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.last: Response | None = None
        """The last changed reply, to be shown when it has found something."""

    def play_at(self, double: Double, share: float = 0.8) -> None:
        """Change *share* of the replies of *double* from now on."""
        double.faults.clear()
        for action in (faults.reset(), faults.store_then_reset(), faults.truncated(reset=True)):
            double.faults.add(action, times=None, chance=share / 60)
        double.faults.add(faults.rewrite(self.change), times=None, chance=share)

    def change(self, request: Request, response: Response) -> Response:
        """Return *response* with one to three things changed."""
        changes: tuple[Callable[[Response], Response], ...] = (
            *(self._status, self._header, self._header, self._header, self._body, self._cut),
            *(self._json, self._json, self._json, self._json, self._coding, self._repeat),
            *(self._bytes,),
        )
        if request.method == "HEAD":
            return response
        for change in self.random.choices(changes, k=self.random.choice((1, 1, 1, 2, 3))):
            response = change(response)
        self.last = response
        return response

    def _status(self, response: Response) -> Response:
        return replace(response, status=self.random.choice(STATUSES))

    def _header(self, response: Response) -> Response:
        name = self.random.choice(NAMES)
        if name == "Content-Length" and self.random.random() < 0.95:
            return response  # mostly a reply that does not come to its end: slow
        value = self.random.choice(self.random.choice((NUMBERS, DATES, TEXTS)))
        return replace(response, headers={**response.headers, name: value})

    def _body(self, response: Response) -> Response:
        return replace(response, body=self.random.choice(BODIES))

    def _cut(self, response: Response) -> Response:
        return replace(response, body=response.body[: self.random.randint(0, len(response.body))])

    def _bytes(self, response: Response) -> Response:
        body = bytearray(response.body)
        for _ in range(self.random.randint(1, 4) if body else 0):
            body[self.random.randrange(len(body))] = self.random.randrange(256)
        return replace(response, body=bytes(body))

    def _coding(self, response: Response) -> Response:
        label = self.random.choice(("gzip", "gzip", "x-gzip", "deflate", "br", "identity", "zstd"))
        body = response.body
        if self.random.random() < 0.7:
            body = zlib.compress(body, wbits=31)
        if self.random.random() < 0.2:
            body = body[: self.random.randint(0, len(body))]
        return replace(response, body=body, headers={**response.headers, "Content-Encoding": label})

    def _repeat(self, response: Response) -> Response:
        """Repeat the records of the reply, or its whole text."""
        return self._in_json(response, lambda lists, _: self._longer(lists))

    def _json(self, response: Response) -> Response:
        """Change a value, or take a key away, anywhere in the reply."""
        return self._in_json(response, lambda _, places: self._other(places))

    def _in_json(
        self, response: Response, change: Callable[[list[list[Any]], list[Any]], None]
    ) -> Response:
        try:
            document = json.loads(response.body)
        except (ValueError, RecursionError):
            return response
        holders = _holders(document if isinstance(document, dict | list) else {"": document})
        change([each for each in holders if isinstance(each, list)], holders)
        text = json.dumps(document, ensure_ascii=self.random.random() < 0.5)
        return replace(response, body=text.encode("utf-8", "surrogatepass"))

    def _longer(self, lists: list[list[Any]]) -> None:
        if lists:
            chosen = self.random.choice(lists)
            chosen *= self.random.choice((2, 3, 50))

    def _other(self, holders: list[Any]) -> None:
        holder = self.random.choice(holders) if holders else None
        if not holder:
            return
        key = self.random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        match self.random.randrange(5):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[self.random.choice(("", "a\x00b", "__proto__", str(key) * 50))] = holder[key]
            case _:
                holder[key] = self.random.choice(VALUES)


def _holders(document: dict[str, Any] | list[Any]) -> list[Any]:
    """Return all objects and lists of *document*."""
    found: list[Any] = [document]
    for holder in found:  # which grows
        inside = holder.values() if isinstance(holder, dict) else holder
        found.extend(each for each in inside if isinstance(each, dict | list))
    return found
