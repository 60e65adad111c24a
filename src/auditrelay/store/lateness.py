"""Lateness: how long after an event happened it was first seen, in buckets; pure."""

_OLDEST = 30
"""Power of two of the last bucket of lateness: 34 years in seconds."""


def lateness_bucket(age: int) -> int:
    """Return the bucket of an *age* in microseconds: the next power of two, in seconds."""
    seconds = max(0, -(-age // 1_000_000))
    return int(1 << min(_OLDEST, (seconds - 1).bit_length() if seconds > 1 else 0))
