"""The idle server replaces a part of uvicorn, which must not have changed."""

import hashlib
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

WRITTEN_AGAINST = "0.54.0"
"""The version of uvicorn whose loop ``status/idle_server.py`` replaces."""


@pytest.mark.parametrize(
    ("method", "digest"),
    [
        (uvicorn.Server.main_loop, "afccb353a119333f"),
        (uvicorn.Server.on_tick, "60ea49b06ccf68c1"),
        (H11Protocol.data_received, "e03b145518ca44aa"),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_the_replaced_part_of_uvicorn_has_not_changed(
    method: Callable[..., Any], digest: str
) -> None:
    found = hashlib.sha256(inspect.getsource(method).encode()).hexdigest()[:16]
    assert found == digest, (
        f"uvicorn {uvicorn.__version__} has another {method.__qualname__} than {WRITTEN_AGAINST}: "
        "read it, check that status/idle_server.py still does all of it, and then update version "
        f"and digest ({found}) here"
    )
