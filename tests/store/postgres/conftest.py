"""A database with the tables of the state."""

from collections.abc import Callable

import pytest
from tests.support.shared_state import make_schema


@pytest.fixture
def prepare() -> Callable[[str], object] | None:
    return make_schema
