"""
Import what the service is built on without those of its parts that nothing here uses.

uvicorn imports its command line (click, and processes that reload), APScheduler a pool of
processes, the metrics library a server. That is 1.5 MB of a service at rest, and 20 ms of its
start. This module must be imported before any other use of them. A part that is imported later is
whole.
"""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType


@contextlib.contextmanager
def _empty(*modules: str) -> Iterator[None]:
    """Let *modules* be empty in the block, unless they are loaded: each name in them is a class."""
    emptied = [name for name in modules if name not in sys.modules]
    for name in emptied:
        module = sys.modules[name] = ModuleType(name)
        module.__getattr__ = lambda each: type(each, (), {})  # type: ignore[method-assign]  # PEP 562
    try:
        yield
    finally:
        for name in emptied:
            del sys.modules[name]


with _empty("uvicorn.main", "concurrent.futures.process", "http.server", "wsgiref.simple_server"):
    importlib.import_module("uvicorn")
    importlib.import_module("apscheduler.schedulers.asyncio")
    importlib.import_module("prometheus_client")
