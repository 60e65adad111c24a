"""
Measure the two choices behind the spool: a blob a page or a row an event, and the order of uids.

    python benchmarks/store.py [--events 200000]

Every variant commits pages of 1,000 with SQLite in WAL mode and synchronous=FULL, and deduplicates
by uid. "with a busy thread" runs the same while another thread computes, as the event loop does
when pages come fast.
"""

import argparse
import hashlib
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from isal import isal_zlib

from auditrelay.store.sql import known
from auditrelay.store.sql.uids import Uids
from auditrelay.store.sqlite.connection import Connection
from auditrelay.store.sqlite.schema import SINCE_3

PAGE = 1000
DIGESTS = ["00" * 32] * PAGE
UIDS = Uids()
Commit = Callable[[Connection, int, list[bytes], list[bytes]], None]


def row_an_event(db: Connection, first: int, keys: list[bytes], texts: list[bytes]) -> None:
    """One row for each event, its uid unique."""
    db.executemany(
        "insert or ignore into event values (?, ?, ?)",
        zip(range(first, first + PAGE), (key[8:] for key in keys), texts, strict=True),
    )


def blob_and_random_uids(db: Connection, first: int, keys: list[bytes], texts: list[bytes]) -> None:
    """One blob a page, and a row for each uid in the order of uids."""
    db.executemany(
        "insert or ignore into uid values (?, ?)",
        zip((key[8:] for key in keys), range(first, first + PAGE), strict=True),
    )
    db.execute("insert into page values (?, ?)", (first, isal_zlib.compress(b"\n".join(texts), 1)))


def blob_and_clustered_uids(
    db: Connection, first: int, keys: list[bytes], texts: list[bytes]
) -> None:
    """One blob a page, uids in the order of event time, and a log of them: ours."""
    known.find_new(db, UIDS, 1, keys)
    known.remember(db, UIDS, 1, keys, digests=DIGESTS, first=first)
    db.execute("insert into page values (?, ?)", (first, isal_zlib.compress(b"\n".join(texts), 1)))


def measure(commit: Commit, events: int, *, busy: bool = False) -> tuple[float, float, float]:
    """Return microseconds of CPU and of time an event, and megabytes on disk a million events."""
    with tempfile.TemporaryDirectory(prefix="auditrelay-bench-") as folder:
        path = Path(folder, "bench.db")
        db = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, factory=Connection
        )
        db.executescript(
            "pragma journal_mode = wal; pragma synchronous = full;"
            "create table event (position integer primary key, uid blob unique, text blob);"
            "create table uid (uid blob primary key, position integer) without rowid;"
            "create table known (source integer, key blob, position integer, digest blob,"
            f" primary key (source, key)) without rowid; {SINCE_3}"
            "create table page (first integer primary key, events blob)"
        )
        texts = [b'{"id":%d,"filler":"%s"}' % (n, _hex(n) * 10) for n in range(PAGE)]
        pages = [[_key(n) for n in range(first, first + PAGE)] for first in range(0, events, PAGE)]
        done = threading.Event()

        def work() -> None:
            for number, keys in enumerate(pages):
                db.execute("begin immediate")
                commit(db, number * PAGE, keys, texts)
                db.execute("commit")
            done.set()

        began, cpu = time.perf_counter(), time.process_time()
        if busy:
            thread = threading.Thread(target=work)
            thread.start()
            while not done.is_set():
                sum(range(1000))
            thread.join()
        else:
            work()
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        db.execute("pragma wal_checkpoint(truncate)").fetchone()
        db.close()
        return cpu / events * 1e6, took / events * 1e6, path.stat().st_size / events


def _key(number: int) -> bytes:
    return (number * 1_000_000).to_bytes(8) + hashlib.sha256(b"%d" % number).digest()[:20]


def _hex(number: int) -> bytes:
    return hashlib.sha256(b"text %d" % number).hexdigest().encode()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--events", type=int, default=200_000)
    events = parser.parse_args().events
    print("| variant | CPU µs/event | time µs/event | bytes/event | with a busy thread µs/event |")
    print("| --- | --- | --- | --- | --- |")
    for commit in (row_an_event, blob_and_random_uids, blob_and_clustered_uids):
        cpu, took, size = measure(commit, events)
        _, busy, _ = measure(commit, min(events, 5_000), busy=True)
        name = commit.__name__.replace("_", " ")
        print(f"| {name} | {cpu:.2f} | {took:.2f} | {size:.0f} | {busy:.0f} |", flush=True)


if __name__ == "__main__":
    main()
