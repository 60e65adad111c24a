"""What benchmarks of a shared store have in common: a server of their own, and what it has used."""

import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psycopg

sys.path.append(str(Path(__file__).parents[1]))

from tests.support.postgres import Server, programs

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Options:
    """How much is to be measured."""

    events: int
    repeat: int
    known: int
    minutes: float
    kills: int


def started() -> Server:
    """Start a server whose commits are on disk."""
    found = programs()
    if found is None:
        sys.exit("there is no PostgreSQL here; tests/README.md says how to get it")
    return Server(found, fsync=True, settings={"max_wal_size": "1GB"})


def server_cpu(server: Server) -> float:
    """Return the CPU seconds of all processes of *server* so far, those that have ended too."""
    first = _postmaster(server)
    others = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    return process_cpu(first, ended=True) + sum(process_cpu(int(each)) for each in others)


@cache
def _postmaster(server: Server) -> int:
    return server.pids()[0]


def process_cpu(pid: int, *, ended: bool = False) -> float:
    """Return the CPU seconds of a process so far, with those of its *ended* children or without."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(map(int, fields[11:15] if ended else fields[11:13])) / _TICK


def connected(server: Server, database: str) -> psycopg.Connection[tuple[Any, ...]]:
    """Return a connection to *database*, which sees the tables of the state."""
    connection = psycopg.connect(server.address(database), autocommit=True)
    connection.execute("set search_path to auditrelay")
    return connection


def number(connection: psycopg.Connection[tuple[Any, ...]], sql: str) -> int:
    """Return the one number that *sql* finds."""
    row = connection.execute(sql.encode()).fetchone()
    assert row is not None
    return int(row[0])


WAL = "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"
COMMITS = "select sum(xact_commit) from pg_stat_database where datname = current_database()"
