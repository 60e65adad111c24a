"""An instance that has not begun."""

from pathlib import Path

import pytest
from tests.status.idle import Idle


@pytest.fixture
def instance(tmp_path: Path) -> Idle:
    return Idle(tmp_path)
