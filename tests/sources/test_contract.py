"""What is true for every source."""

from datetime import UTC, datetime, timedelta
from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditrelay.settings import SourceSettings
from auditrelay.sources import available, in_milliseconds, widened
from auditrelay.window import Interval

GRANULE = timedelta(milliseconds=1)


def test_every_module_is_a_type() -> None:
    assert {"bland", "cekura"} <= set(available())


@pytest.mark.parametrize("kind", available())
def test_every_source_has_its_settings_and_a_way_to_build_it(kind: str) -> None:
    module = import_module(f"auditrelay.sources.{kind}")
    assert issubclass(module.Settings, SourceSettings)
    assert callable(module.build)
    assert {"scope", "walk", "close"} <= set(dir(module.Source))


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001  # hypothesis wants bounds without a zone
    st.timedeltas(timedelta(microseconds=1), timedelta(days=30)),
)
def test_widened_bounds_contain_the_window_even_if_bounds_are_excluded(
    start: datetime, length: timedelta
) -> None:
    window = Interval(start, start + length)
    asked = widened(window, GRANULE)
    assert timedelta(0) <= window.start - asked.start - GRANULE < GRANULE
    assert timedelta(0) <= asked.end - window.end < GRANULE
    for bound in (asked.start, asked.end):
        assert datetime.fromisoformat(in_milliseconds(bound)) == bound
