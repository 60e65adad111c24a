"""The values of headers: Retry-After in each of its forms."""

from datetime import UTC, datetime

import httpx
import pytest

from auditrelay.http.headers import MAX_RETRY_AFTER, retry_after

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "120"}, 120),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "-5"}, 0),
        ({"retry-after": "99999999999999"}, MAX_RETRY_AFTER),
        ({"retry-after": "1e400"}, MAX_RETRY_AFTER),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "Sun, 01 Mar 2026 12:00:30 GMT"}, 30),
        ({"retry-after": "Sunday, 01-Mar-26 12:00:30 GMT"}, 30),
        ({"retry-after": "Sun Mar  1 12:00:30 2026"}, 30),
        ({"retry-after": "Sun, 01 Mar 2026 11:00:00 GMT"}, 0),
        ({"retry-after": "Sun, 01 Mar 9999 11:00:00 GMT"}, MAX_RETRY_AFTER),
        ({"retry-after": "Sun, 99 Mar 2026 99:00:00 GMT"}, None),
        ({"retry-after": "Sun, 01 Mar 99999999999999999999 11:00:00 GMT"}, None),
        (  # the peer's clock is an hour behind: what counts is the distance
            {
                "retry-after": "Sun, 01 Mar 2026 11:00:30 GMT",
                "date": "Sun, 01 Mar 2026 11:00:00 GMT",
            },
            30,
        ),
        ({"retry-after": "Sun, 01 Mar 2026 12:00:30 GMT", "date": "yesterday"}, 30),
    ],
)
def test_every_form_of_retry_after_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(httpx.Headers(headers), NOW) == seconds
