"""
Grafana Loki's push API, which stores the valid lines of a request that it refuses.

After ``pkg/distributor`` of Loki 3: what is refused line by line, what is refused as a whole, and
statuses that do not say what is stored.
"""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from auditrelay.sandbox.messages import Request, Response
from auditrelay.sandbox.receivers import Receiver
from auditrelay.sandbox.receivers.description import Item

_LONGEST_LINE = 256 * 1024
_OLDEST = 7 * 24 * 3600
_NEWEST = 10 * 60
_BEHIND = 3600
_MOST_METADATA = 128
_BYTES_OF_METADATA = 64 * 1024


class Loki(Receiver):
    """A tenant; ``blocked`` answers 260, and stores nothing."""

    NAME: ClassVar = "loki"
    SECRET_KEY: ClassVar = "password"  # noqa: S105  # the name of a key
    GIVEN: ClassVar = {"user": "sandbox", "tenant": "audit"}
    INDEXES_OLD_EVENTS: ClassVar = False

    blocked = False
    most_streams = 5000
    bad_uids: frozenset[str | None] = frozenset()
    """Events that it refuses, for a reason of its own."""

    def __init__(
        self, *, clock: Callable[[], float] = time.time, seed: int = 0, file: Path | None = None
    ) -> None:
        super().__init__(clock=clock, seed=seed, file=file)
        self._newest: dict[str, float] = {}
        self._lines: set[tuple[str, str, str]] = set()

    @property
    def streams(self) -> set[str]:
        """The labels of all streams, as JSON."""
        return set(self._newest)

    def problem(self, item: Item) -> str | None:
        """Return why a line is refused."""
        _, line, *metadata = item.value
        at, now = item.at or 0.0, self.clock()
        when = datetime.fromtimestamp(at, UTC).isoformat()
        if item.uid in self.bad_uids:
            return "stream is not accepted"
        if len(line.encode(errors="surrogatepass")) > _LONGEST_LINE:
            return "Max entry size '262144' bytes exceeded"
        if any(_is_too_much(each) for each in metadata):
            return "structured metadata is too large"
        newest = self._newest.get(_key(item), at)
        for is_wrong, why in (
            (at < now - _OLDEST, "entry has timestamp too old"),
            (at > now + _NEWEST, "entry has timestamp too new"),
            (at < newest - _BEHIND, "entry too far behind, entry timestamp is"),
        ):
            if is_wrong:
                return f"{why}: {when}"
        return None

    def conclude(self, good: list[Item], bad: list[tuple[Item, str]]) -> Response:
        """Store the valid lines, whatever the status; an identical line once."""
        if self.blocked:
            return Response(260, b"ingestion blocked for user audit")
        room = self.most_streams - len(self._newest)
        new = list(dict.fromkeys(_key(item) for item in good if _key(item) not in self._newest))
        over = set(new[max(room, 0) :])
        for item in good:
            if (key := _key(item)) in over:
                continue
            self._newest[key] = max(self._newest.get(key, 0.0), item.at or 0.0)
            same = (key, item.value[0], item.value[1])
            if same not in self._lines:
                self._lines.add(same)
                self.store([item])
        if over:
            return _text(429, "Maximum active stream limit exceeded, reduce the number of streams")
        if bad:
            return _text(400, bad[0][1])
        return Response(204)

    def checked(self) -> Response:
        """Answer to a request without streams."""
        return _text(422, "error at least one valid stream is required for ingestion")

    def malformed(self, why: str) -> Response:
        """Answer to what cannot be read."""
        return _text(400, f"loghttp.PushRequest.Streams: {why}")

    def refusal(self, status: int, why: str) -> Response:
        """Answer in plain text."""
        return _text(status, why)

    def _refused_credentials(self, request: Request) -> Response | None:
        if not request.headers.get("x-scope-orgid"):
            return _text(401, "no org id")
        return super()._refused_credentials(request)


def _key(item: Item) -> str:
    return json.dumps(item.labels, sort_keys=True)


def _is_too_much(metadata: Any) -> bool:
    if not isinstance(metadata, dict):
        return True
    texts = [*metadata, *metadata.values()]
    return (
        len(metadata) > _MOST_METADATA
        or not all(isinstance(text, str) for text in texts)
        or sum(map(len, texts)) > _BYTES_OF_METADATA
    )


def _text(status: int, text: str) -> Response:
    return Response(status, f"{text}\n".encode(), {"Content-Type": "text/plain; charset=utf-8"})
