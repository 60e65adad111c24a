"""Commands run in the process of the tests here: what they set up ends with each test."""

from collections.abc import Iterator

import pytest
from tests.support.logged import log_plainly


@pytest.fixture(autouse=True)
def _unconfigured_log() -> Iterator[None]:
    """Undo a command's log, whose stream is closed when the command has ended."""
    yield
    log_plainly()
