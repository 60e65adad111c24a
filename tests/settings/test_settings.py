"""The bounds of values, and keys that depend on each other."""

from pathlib import Path

import pytest
from tests.support.settings import error_of


def test_an_overlap_as_long_as_the_window_is_refused() -> None:
    assert "the checkpoint never advances" in error_of(overlap="1h", max_window="1h")


def test_a_client_certificate_needs_its_key(tmp_path: Path) -> None:
    (tmp_path / "c.pem").touch()
    assert "client_cert and client_key: set both or neither" in error_of(
        client_cert=tmp_path / "c.pem"
    )


def test_a_certificate_that_cannot_be_read_is_named() -> None:
    assert "ca_file: cannot read /nonexistent.pem" in error_of(ca_file="/nonexistent.pem")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("poll_interval", "0s"),
        ("overlap", "0s"),
        ("initial_lookback", "31d"),
        ("max_window", "31d"),
        ("resweep", ["1h", "0s"]),
        ("catch_up_limit", "0s"),
        ("page_size", 0),
        ("requests_per_minute", 0),
        ("timeout", "0s"),
        ("redact", "of"),
        ("redact", 3),
        ("tags", {"a": 1}),
        ("tags", "not json"),
    ],
)
def test_a_value_out_of_its_bounds_is_refused(key: str, value: object) -> None:
    assert error_of(**{key: value}).startswith(key)
