"""The server that sleeps replaces a part of uvicorn, so that part must be what it was."""

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
def test_what_is_replaced_of_uvicorn_is_what_it_was(
    method: Callable[..., Any], digest: str
) -> None:
    found = hashlib.sha256(inspect.getsource(method).encode()).hexdigest()[:16]
    assert found == digest, (
        f"uvicorn {uvicorn.__version__} has another {method.__qualname__} than {WRITTEN_AGAINST}: "
        "read it, see whether status/idle_server.py still does all that it did, and then write "
        f"version and digest ({found}) here"
    )
