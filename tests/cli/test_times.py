"""How a command parses a time."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from auditrelay.cli.times import parse_time
from auditrelay.errors import ConfigError

NOW = datetime(2026, 3, 2, 15, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-03-01T00:00:00Z", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-03-01T02:00:00+02:00", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-02-28T19:00:00-05:00", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-03-01 00:00:00.25Z", datetime(2026, 3, 1, 0, 0, 0, 250_000, tzinfo=UTC)),
        ("2026-03-01T00:00Z", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
        ("20260301", datetime(2026, 3, 1, tzinfo=UTC)),
        ("36h", NOW - timedelta(hours=36)),
        ("7d", NOW - timedelta(days=7)),
        ("90m", NOW - timedelta(minutes=90)),
        ("0s", NOW),
    ],
)
def test_a_time_is_a_moment_a_day_or_how_long_ago(text: str, at: datetime) -> None:
    found = parse_time("--from", text, NOW)
    assert found == at
    assert found.utcoffset() == timedelta(0)


def test_what_is_given_in_another_zone_comes_out_in_utc() -> None:
    east = NOW.astimezone(timezone(timedelta(hours=9)))
    assert parse_time("--from", east.isoformat(), NOW).isoformat() == NOW.isoformat()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("2026-03-01T00:00:00", "has no offset: write 2026-03-01T00:00:00Z for UTC"),
        ("yesterday", "--to: 'yesterday' is not a time: write 2026-03-01T00:00:00Z"),
        ("", "--to: '' is not a time"),
        ("2026-02-30", "--to: '2026-02-30' is not a time"),
        ("1d12h", "is not a time"),
        ("-3h", "is not a time"),
        ("1772323200", "is not a time"),
        ("99999999999999d", "is not a time"),
        ("4000000d", "is not a time"),
        ("0001-01-01T00:00:00+14:00", "is not a time"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_by_the_name_of_its_option(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_time("--to", text, NOW)
    assert words in str(caught.value)
