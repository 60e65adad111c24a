"""Settings: what cannot work is refused."""

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError
from tests.sources.cencori.dashboards import HOUR, make_settings


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cookie": "two\nlines"}, "cookie"),
        ({"cookie": "session=abc"}, "has no cookie sb-"),
        ({"cookie": None}, "cookie: is missing; mode"),
        ({"organization_slug": None}, "organization_slug: is missing"),
        ({"organization_slug": "acme/x"}, "not the slug"),
        ({"organization_slug": "Acme Labs"}, "not the slug"),
        ({"organization_slug": ""}, "not the slug"),
        ({"directory": "/x"}, "directory: is only for mode"),
        ({"mode": "files"}, "directory: is missing"),
        ({"mode": "files", "directory": "/x"}, "cookie: is only for mode"),
        ({"mode": "api"}, "mode"),
        ({"mode": None}, "mode"),
        ({"page_size": 101}, "page_size"),
        ({"page_size": 0}, "page_size"),
        ({"max_window": "31d"}, "max_window"),
        ({"overlap": "0s"}, "overlap"),
        ({"base_url": "http://cencori.example"}, "plain http"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        make_settings(**change)
    assert len(caught.value.errors()) == 1
    assert "abc" not in str(caught.value.errors(include_input=False, include_context=False))


def test_the_first_window_fits_into_what_the_smallest_plan_shows() -> None:
    made = make_settings()
    assert made.initial_lookback + HOUR < timedelta(days=7)
