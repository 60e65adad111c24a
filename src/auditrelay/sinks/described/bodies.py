"""Put items together as the body of a request: a list, lines, within a skeleton, by streams."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from auditrelay.descriptions import holes
from auditrelay.descriptions.receiver import skeleton
from auditrelay.descriptions.receiver.model import ReceiverFile
from auditrelay.sinks._requests import body_of, dump

CONTENT_TYPES: Final = {
    "array": "application/json",
    "ndjson": "application/x-ndjson",
    "wrapped": "application/json",
    "single": "application/json",
}
"""The type of a body of each shape, if the description gives none."""

_LONGEST_NAME: Final = 64
"""Characters of the name of a source; that of a vendor is shorter."""


class Bodies:
    """The bodies of requests to one receiver; *values* fill holes in the labels of streams."""

    def __init__(self, file: ReceiverFile, values: Mapping[str, str]) -> None:
        self._start, self._between, self._end = _brackets(file)
        self._streams = None if file.streams is None else _Streams(file, values)
        self.content_type = file.request.content_type or CONTENT_TYPES[file.body.shape]

    @property
    def around(self) -> int:
        """Bytes of a body beside its items and one for each of them."""
        # A list of n items has n - 1 commas.
        return len(self._start) + len(self._end) - len(self._between)

    @property
    def overhead(self) -> int:
        """Bytes that an item can add to a body beyond its own."""
        return len(self._between) + (0 if self._streams is None else self._streams.most_around)

    def labels(self, source: str, vendor: str, late: str | None) -> bytes | None:
        """Return the labels of the stream of an event; None if there are no streams."""
        return None if self._streams is None else self._streams.labels(source, vendor, late)

    async def body(
        self,
        texts: Sequence[bytes],
        labels: Sequence[bytes | None],
        compression: Literal["gzip", "none"],
    ) -> tuple[bytes, dict[str, str]]:
        """Return the body with the items *texts*, each in the stream of its *labels*; headers."""
        parts = texts if self._streams is None else self._streams.grouped(texts, labels)
        content, headers = await body_of(
            parts, compression, start=self._start, between=self._between, end=self._end
        )
        headers["Content-Type"] = self.content_type
        return content, headers


def _brackets(file: ReceiverFile) -> tuple[bytes, bytes, bytes]:
    """Return what stands before, between and after the items of a body."""
    match file.body.shape:
        case "array":
            return b"[", b",", b"]"
        case "ndjson":
            return b"", b"\n", b"\n"
        case "single":
            return b"", b"", b""
    start, _, end = skeleton.cut(skeleton.parse(file.body.skeleton or "", ("items",)), ("items",))
    return start + b"[", b",", b"]" + end


class _Streams:
    """The table ``[streams]``."""

    def __init__(self, file: ReceiverFile, values: Mapping[str, str]) -> None:
        assert file.streams is not None  # noqa: S101  # Bodies has looked
        self._labels = file.streams.labels
        self._values = values
        value = skeleton.parse(file.streams.skeleton, ("labels", "items"))
        self._start, first, self._middle, _, self._end = skeleton.cut(value, ("labels", "items"))
        self._labels_first = first == b"$labels"
        self._known: dict[tuple[str, str, str | None], bytes] = {}
        longest = self._written("s" * _LONGEST_NAME, "v" * _LONGEST_NAME, "2000-01-01T00")
        self.most_around = len(self._of(longest, [])) + 1

    def labels(self, source: str, vendor: str, late: str | None) -> bytes:
        """Return the labels as JSON: one object for all events of a stream."""
        key = (source, vendor, late)
        if key not in self._known:
            if len(self._known) > 10_000:  # hours of a long backfill
                self._known.clear()
            self._known[key] = self._written(source, vendor, late)
        return self._known[key]

    def grouped(self, texts: Sequence[bytes], labels: Sequence[bytes | None]) -> list[bytes]:
        """Return a stream for each of the *labels*, with the items that have them."""
        by_labels: dict[bytes, list[bytes]] = {}
        for text, each in zip(texts, labels, strict=True):
            by_labels.setdefault(each or b"{}", []).append(text)
        return [self._of(each, items) for each, items in by_labels.items()]

    def _of(self, labels: bytes, items: Sequence[bytes]) -> bytes:
        both = (labels, b"[" + b",".join(items) + b"]")
        first, second = both if self._labels_first else both[::-1]
        return b"".join((self._start, first, self._middle, second, self._end))

    def _written(self, source: str, vendor: str, late: str | None) -> bytes:
        values = {**self._values, "source": source, "vendor": vendor}
        filled = {name: holes.fill(text, values) for name, text in self._labels.items()}
        return dump(filled if late is None else {**filled, "late": late})
