"""``auditrelay setup postgres`` and the shared store in ``auditrelay check``."""

import re
from pathlib import Path

import psycopg
import pytest
from tests.support.daemon import Ended, command, configure

pytestmark = pytest.mark.process

SOURCES = {"exports": {"type": "cencori", "mode": "files", "directory": "/nowhere"}}
SINKS = {"out": {"type": "file", "path": "-"}}


@pytest.fixture
def service(database: str) -> str:
    """The address of *database* for the role of the service, which may make nothing."""
    run(
        database,
        "drop role if exists service_role",
        "create role service_role login password 'hunter2-service'",
    )
    return database.replace("//postgres@", "//service_role:hunter2-service@")


def run(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def tables(url: str, schema: str = "auditrelay") -> set[str]:
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(
            "select relname from pg_class where relnamespace = to_regnamespace(%s) and"
            " relkind = 'r'",
            (schema,),
        )
        return {name for (name,) in found}


def config(folder: Path, store: str) -> Path:
    return configure(folder, SOURCES, SINKS, store=store)


async def setup(folder: Path, store: str, *words: str, owner: str | None = None) -> Ended:
    environ = {} if owner is None else {"AUDITRELAY_STORE": owner}
    return await command(config(folder, store), "setup", "postgres", *words, environ=environ)


async def test_the_owner_makes_the_tables_and_the_service_is_granted_what_is_shown(
    tmp_path: Path, database: str, service: str
) -> None:
    refused = await setup(tmp_path, service)
    assert refused.status == 3
    assert "run auditrelay setup postgres as a role that may" in refused.stderr
    assert tables(database) == set()

    made = await setup(tmp_path, service, owner=database)
    assert (made.status, made.stderr) == (0, "")
    assert re.match(r"postgresql://postgres@\S+: the schema auditrelay is made\n", made.stdout)
    assert {"meta", "spool", "lease", "replica"} <= tables(database)

    checked = await command(config(tmp_path, service), "check")
    assert checked.status == 1
    assert " store " in checked.stdout
    text = " ".join(checked.stdout.split())
    assert "the role service_role lacks usage on the schema auditrelay;" in text

    granted = made.stdout.partition("no more:\n\n")[2].replace('"relay"', "service_role")
    run(database, *filter(None, granted.strip().split(";")))
    again = await setup(tmp_path, service)
    assert (again.status, again.stderr) == (0, "")
    assert ": the schema auditrelay is there, and of this version\n" in again.stdout

    checked = await command(config(tmp_path, service), "check")
    assert re.search(r"store +│ postgresql │ ok +│ PostgreSQL \d", checked.stdout)
    assert "Notes on store:\n" in checked.stdout
    assert "  fsync is off: " in checked.stdout
    shown = made.stdout + again.stdout + checked.stdout + checked.stderr + refused.stderr
    assert "hunter2" not in shown


async def test_what_is_printed_makes_the_same_tables(tmp_path: Path, database: str) -> None:
    unreachable = "postgresql://relay@127.0.0.1:1/audit?schema=printed"
    shown = await setup(tmp_path, unreachable, "--print")
    assert (shown.status, shown.stderr) == (0, "")
    sql, _, rights = shown.stdout.partition("-- The role of the service")
    assert 'to "relay";' in rights
    run(database, sql)
    made = await setup(tmp_path, f"{database}?schema=made")
    assert made.status == 0
    assert tables(database, "printed") == tables(database, "made") != set()
    there = await setup(tmp_path, f"{database}?schema=printed")
    assert ": the schema printed is there, and of this version\n" in there.stdout


async def test_errors_name_what_to_change_and_not_the_password(
    tmp_path: Path, database: str
) -> None:
    gone = await setup(tmp_path, "postgresql://relay:hunter2-x@127.0.0.1:1/audit")
    assert gone.status == 3
    assert "port 1 failed" in gone.stderr
    sqlite = await command(configure(tmp_path, SOURCES, SINKS), "setup", "postgres")
    assert sqlite.status == 2
    assert "store: is missing" in sqlite.stderr
    wrong = await setup(tmp_path, "postgresql://relay:hunter2-x@db1/audit?sslmode=require")
    assert wrong.status == 2
    assert "store: sslmode: TLS is always verified" in wrong.stderr
    for ended in (gone, sqlite, wrong):
        assert "hunter2" not in ended.stdout + ended.stderr
        assert "Traceback" not in ended.stderr


async def test_check_shows_that_the_store_cannot_be_reached_and_offline_that_it_was_not_asked(
    tmp_path: Path,
) -> None:
    file = config(tmp_path, "postgresql://relay:hunter2-x@127.0.0.1:1/audit")
    ended = await command(file, "check")
    assert ended.status == 1
    assert "cannot be reached" in " ".join(ended.stdout.split())
    assert "hunter2" not in ended.stdout + ended.stderr
    offline = await command(file, "check", "--offline")
    assert offline.status == 0
    assert re.search(r"store +│ postgresql │ valid +│ not queried", offline.stdout)
