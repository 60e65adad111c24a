"""The service has one heap for all its threads, and returns what is free once it rests."""

import asyncio
import platform
import subprocess
import sys

import pytest

from auditrelay.service import heap

COUNT_HEAPS = """
import ctypes, sys, tempfile, threading
from auditrelay.service.heap import tune_heap

if sys.argv[1] == "tuned":
    tune_heap()
start, end = threading.Barrier(5), threading.Barrier(5)

def work():
    start.wait()
    kept = [bytearray(5000) for _ in range(100)]
    end.wait()

for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
start.wait()
end.wait()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile() as report:
    stream = ctypes.c_void_p(libc.fopen(report.name.encode(), b"w"))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    print(report.read().count(b"<heap nr="))
"""


@pytest.mark.process
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these options")
def test_threads_share_one_heap() -> None:
    heaps = {
        mode: int(subprocess.check_output([sys.executable, "-c", COUNT_HEAPS, mode]))
        for mode in ("usual", "tuned")
    }
    assert heaps["usual"] > 1
    assert heaps["tuned"] == 1


async def test_memory_is_returned_while_events_come_and_once_after_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(heap, "REST", 0.05)
    monkeypatch.setattr(heap, "return_free_memory", lambda: calls.append(None))
    used = heap.Heap()
    for _ in range(5):
        used.used()
    assert calls == []
    while not calls:  # however short the pauses are in which events come
        used.used()
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.2)
    assert len(calls) == 2, "once more for what came since, and then no more"
    used.used()
    used.close()
    await asyncio.sleep(0.1)
    assert len(calls) == 2
