"""Durations, sizes, lists and tables, as written in a configuration."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.settings import Product, vendor

from auditrelay.settings.values import format_duration, parse_duration, parse_size


@given(st.integers(0, 36500 * 24 * 3600 * 1000))
def test_every_duration_is_read_back_as_it_was_written(milliseconds: int) -> None:
    value = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(value)) == value


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0), ("250ms", 0.25), ("90s", 90), ("5m", 300), ("36h", 129600), ("7d", 604800)],
)
def test_a_duration_is_a_whole_number_and_one_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


def test_a_duration_is_shown_in_its_largest_whole_unit() -> None:
    shown = [format_duration(timedelta(seconds=s)) for s in (0, 0.25, 90, 120, 7200, 172800)]
    assert shown == ["0s", "250ms", "90s", "2m", "2h", "2d"]


@pytest.mark.parametrize(
    "text", ["", "5", "m", "1.5h", "-1s", "5 m", "5M", "1h30m", "٣s", "9" * 5000 + "s", 30, True]
)
def test_a_malformed_duration_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match=r'is not a duration.*such as "5m"'):
        parse_duration(text)


@pytest.mark.parametrize("text", ["36501d", "999999999999999d", "999999999999999h"])
def test_a_duration_of_more_than_a_century_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="longer than a century"):
        parse_duration(text)


@given(st.integers(0, 10**12), st.sampled_from(["", "B", "KB", "MB", "GB", "KiB", "MiB", "GiB"]))
def test_a_size_is_its_number_times_its_unit(number: int, unit: str) -> None:
    powers = {"K": 1, "M": 2, "G": 3}
    factor = (1024 if "i" in unit else 1000) ** powers.get(unit[:1], 0)
    assert (
        parse_size(f"{number}{unit}")
        == parse_size(f"{number} {unit}".rstrip())
        == (number * factor)
    )


@pytest.mark.parametrize("text", ["", "2gib", "1.5GB", "-1", "GB", "2 G B", None, True, "9" * 5000])
def test_a_malformed_size_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match=r'is not a size.*such as "2GiB"'):
        parse_size(text)


def test_lists_and_tables_can_be_given_as_text() -> None:
    settings = vendor(resweep="1h, 24h,", redact='["*pin*"]', tags='{"env": "prod"}')
    assert settings.resweep == [timedelta(hours=1), timedelta(hours=24)]
    assert settings.redact == ["*pin*"]
    assert settings.tags == {"env": "prod"}
    for text in ('["a", "b-*"]', "a, b-*"):
        assert Product.model_validate({"sources": text}).sources == ["a", "b-*"]
    assert vendor(resweep="").resweep == []
