"""Times on the command line."""

import contextlib
from datetime import UTC, date, datetime

from auditrelay.errors import ConfigError
from auditrelay.settings.values import parse_duration


def parse_time(option: str, text: str, now: datetime) -> datetime:
    """
    Parse *text* as a time: ISO 8601 with an offset, a bare date (UTC), or a duration ago.

    Raises ConfigError that names the *option*.
    """
    with contextlib.suppress(ValueError):
        return now - parse_duration(text)
    with contextlib.suppress(ValueError):
        day = date.fromisoformat(text)
        return datetime(day.year, day.month, day.day, tzinfo=UTC)
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is not None:
            return at.astimezone(UTC)
    except (ValueError, OverflowError):  # some times in the year 1 cannot be converted to UTC
        raise ConfigError(
            f"{option}: {text!r} is not a time: write 2026-03-01T00:00:00Z, 2026-03-01, or how "
            "long ago, such as 36h"
        ) from None
    raise ConfigError(f"{option}: {text!r} has no offset: write {text}Z for UTC")
