"""How many bytes of events were sent to a sink, before and after compression."""

from typing import Final

from auditrelay.telemetry.metrics import Metrics

_GZIP: Final = b"\x1f\x8b"
"""What a gzipped body begins with, and no JSON, and no protobuf of events."""


def count_sent(metrics: Metrics, sink: str, content: bytes) -> None:
    """Count the body *content* of a request that *sink* was sent, whatever it answered."""
    size = len(content)
    metrics.sent_bytes.labels(sink).inc(size)
    if content.startswith(_GZIP):
        # Its last four bytes say how long it was (RFC 1952, 2.3.1); no body has 4 GiB.
        size = int.from_bytes(content[-4:], "little")
    metrics.sent_uncompressed_bytes.labels(sink).inc(size)
