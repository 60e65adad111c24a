"""The address of a shared store: what it may say, and that nothing else decides how we connect."""

import os
import re
import shutil
import socket
import threading
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg.pq import Conninfo
from tests.support.certificates import certify, revocation
from tests.support.guarded import OWNER
from tests.support.postgres import Server, absent, programs

from auditrelay.errors import StateError
from auditrelay.settings.secrets import Resolved, SecretAddress
from auditrelay.store.postgres.address import Address

PASSWORD = "p@ss/w?rd#1%41:x"
"""Every character that means something in an address."""


def address(text: str, environ: Mapping[str, str] | None = None) -> Address:
    return Address(SecretAddress(text if environ is None else Resolved(text, environ)))


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    """A server that asks for the password."""
    found = programs()
    if found is None:
        absent("PostgreSQL")
    server = Server(found, password=PASSWORD)
    yield server
    server.close()


# --- what it may say ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "safe", "schema"),
    [
        ("postgresql://relay@db1/audit", "postgresql://relay@db1/audit", "auditrelay"),
        ("postgres://relay:hunter2@db1/audit", "postgresql://relay@db1/audit", "auditrelay"),
        ("POSTGRESQL://r:hunter2@db1:5432/audit", "postgresql://r@db1/audit", "auditrelay"),
        (
            "postgresql://relay:hunter2@db1:6432,db-2.example.com,[2001:db8::1]:7/a%20b?schema=x",
            "postgresql://relay@db1:6432,db-2.example.com,[2001:db8::1]:7/a%20b?schema=x",
            "x",
        ),
        (
            "postgresql://r%40d:hunt%40er2@%2Frun%2Fpg/audit?connect_timeout=2&sslmode=verify-full",
            "postgresql://r%40d@%2Frun%2Fpg/audit",
            "auditrelay",
        ),
    ],
)
def test_an_address_is_shown_without_its_password(text: str, safe: str, schema: str) -> None:
    made = address(text)
    assert (made.safe, made.schema) == (safe, schema)
    assert "hunt" not in repr(made) + repr(made._parts)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("mysql://u:hunter2@h/d", "is not an address of PostgreSQL: write"),
        ("hunter2", "is not an address of PostgreSQL"),
        ("host=h password=hunter2", "is not an address of PostgreSQL"),
        ("sqlite:///hunter2", "is not an address of PostgreSQL"),
        ("postgresql://h/d", "names no user"),
        ("postgresql://relay:hunter2", "names no user"),
        ("postgresql://:hunter2@h/d", "names no user"),
        ("postgresql://u:hunter2@/d", "names no host"),
        ("postgresql://u:hunter2@h,/d", "names no host"),
        ("postgresql://u:hunter2@h", "names no database"),
        ("postgresql://u:hunter2@h/?schema=x", "names no database"),
        ("postgresql://u:hunt/er2@h/d", "percent-encoded"),
        ("postgresql://u:hunt?er2@h/d", "percent-encoded"),
        ("postgresql://u:hunt#er2@h/d", "percent-encoded"),
        ("postgresql://u:hunter%2@h/d", "the password has a % that begins no %XX"),
        ("postgresql://u:hunter2%00@h/d", "the password has a control character"),
        ("postgresql://u:hunter2%ff@h/d", "the password is not text in UTF-8"),
        ("postgresql://u%0A:hunter2@h/d", "the user has a control character"),
        ("postgresql://u:hunter2@h_;x/d", "a host is malformed"),
        ("postgresql://u:hunter2@[h]/d", "a host is malformed"),
        ("postgresql://u:hunter2@[::1/d", "a host is malformed"),
        ("postgresql://u:hunter2@h:/d", "a port is malformed"),
        ("postgresql://u:hunter2@h:0/d", "a port is malformed"),
        ("postgresql://u:hunter2@h:65536/d", "a port is malformed"),
        ("postgresql://u:hunter2@h:hunter2/d", "a port is malformed"),
        ("postgresql://u@h/d?sslmode=require", "sslmode: TLS is always verified"),
        ("postgresql://u@127.0.0.1/d?sslmode=prefer", "sslmode: TLS is always verified"),
        ("postgresql://u@h/d?options=-cx%3D1", "has an unknown key options behind"),
        ("postgresql://u@h/d?password=hunter2", "has an unknown key password behind"),
        ("postgresql://u@h/d?target_session_attrs=any", "unknown key target_session_attrs behind"),
        ("postgresql://u@h/d?hunter2=1", "has an unknown key behind the question mark"),
        ("postgresql://u@h/d?schema=Audit", "schema: must be a name of small letters"),
        ("postgresql://u@h/d?schema=pg_x", "schema: must be a name"),
        ("postgresql://u@h/d?schema=", "schema: must be a name"),
        ("postgresql://u@h/d?schema=a&schema=b", "schema is there twice"),
        ("postgresql://u@h/d?connect_timeout=1", "connect_timeout: must be a whole number"),
        ("postgresql://u@h/d?connect_timeout=61", "connect_timeout: must be"),
        ("postgresql://u@h/d?connect_timeout=10s", "connect_timeout: must be"),
        ("postgresql://u@h/d?sslrootcert=/no/such", "sslrootcert: cannot read /no/such"),
        ("postgresql://u@h/d?sslcert=/dev/null", "sslcert and sslkey: set both or neither"),
    ],
)
def test_what_is_no_address_of_ours_is_refused_without_showing_any_of_it(
    text: str, problem: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)) as caught:
        address(text)
    assert "hunt" not in str(caught.value)


@pytest.mark.parametrize(
    ("hosts", "sslmode"),
    [
        ("db1", "verify-full"),
        ("10.0.0.1", "verify-full"),
        ("localhost,db1", "verify-full"),
        ("127.0.0.1,[2001:db8::1]", "verify-full"),
        ("localhost", "disable"),
        ("127.1.2.3,[::1]", "disable"),
        ("%2Frun%2Fpostgresql", "disable"),
    ],
)
def test_tls_is_verified_unless_every_host_is_this_machine(hosts: str, sslmode: str) -> None:
    parameters = address(f"postgresql://u@{hosts}/d")._parts.parameters
    assert parameters["sslmode"] == sslmode
    authorities = parameters.get("sslrootcert")
    assert authorities is not None if sslmode == "verify-full" else authorities is None
    asked = address(f"postgresql://u@{hosts}/d?sslmode=verify-full")._parts.parameters
    assert asked["sslmode"] == "verify-full"


# --- references ---------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize("written", ["whole", "encoded", "password", "pair", "folder"])
def test_what_a_reference_stands_for_is_taken_as_it_is(
    written: str, guarded: Server, tmp_path: Path
) -> None:
    encoded, end = quote(PASSWORD, safe=""), f"127.0.0.1:{guarded.port}/postgres"
    text, value = {
        "whole": ("${file:FILE}", f"postgresql://postgres:{encoded}@{end}\n"),
        "encoded": (
            f"postgresql://postgres:{encoded}@${{file:FILE}}/postgres",
            end.partition("/")[0],
        ),
        "password": (f"postgresql://postgres:${{file:FILE}}@{end}", f"{PASSWORD}\n"),
        "pair": (f"postgresql://${{file:FILE}}@{end}", f"postgres:{PASSWORD}"),
        "folder": (f"postgresql://postgres:{encoded}@${{file:FILE}}:{guarded.port}/postgres", None),
    }[written]
    file = tmp_path / "secret"
    file.write_text(str(guarded.folder) if value is None else value)
    made = address(text.replace("FILE", str(file)), {})
    assert made._secret.hidden[0] == PASSWORD
    with made.connect("test") as connection:
        assert connection.info.user == OWNER


@pytest.mark.process
def test_a_password_in_a_file_is_read_again_for_every_connection(
    guarded: Server, tmp_path: Path
) -> None:
    with psycopg.connect(guarded.address(), autocommit=True) as owner:
        owner.execute("create role rotated login password 'first-password'")
    file = tmp_path / "password"
    file.write_text("first-password\n")
    made = address(f"postgresql://rotated:${{file:{file}}}@127.0.0.1:{guarded.port}/postgres", {})
    made.connect("test").close()
    with psycopg.connect(guarded.address(), autocommit=True) as owner:
        owner.execute("alter role rotated password 'second-password'")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        made.connect("test")
    file.write_text("second-password\n")
    made.connect("test").close()
    file.unlink()
    made.connect("test").close()  # it may be being replaced


def test_a_file_that_names_another_database_later_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "address"
    file.write_text("postgresql://u:hunter2@127.0.0.1:1/d")
    made = address(f"${{file:{file}}}", {})
    for other in ("postgresql://u:hunter2@127.0.0.1:1/e", "postgresql://u@[::1]/d?schema=x"):
        file.write_text(other)
        with pytest.raises(StateError, match="names another database or schema") as caught:
            made.connect("test")
        assert "hunter2" not in str(caught.value)
    file.write_text("no address")
    with pytest.raises(psycopg.OperationalError, match="port 1 failed"):
        made.connect("test")
    assert made.safe == "postgresql://u@127.0.0.1:1/d"


# --- what else could decide ---------------------------------------------------------------------


def bogus() -> dict[str, str]:
    """Return every variable that libpq follows, with a value that would break the connection."""
    named = {option.envvar.decode(): "bogus" for option in Conninfo.get_defaults() if option.envvar}
    assert {"PGHOST", "PGPASSWORD", "PGOPTIONS", "PGSSLMODE", "PGAPPNAME", "PGSERVICE"} <= set(
        named
    )
    return {**named, "PGTZ": "bogus", "PGDATESTYLE": "bogus", "PGGEQO": "bogus"}


@pytest.mark.process
@pytest.mark.parametrize("variable", [*sorted(bogus()), "all"])
def test_no_variable_of_libpq_decides_anything(
    variable: str, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in bogus().items():
        if variable in (name, "all"):
            monkeypatch.setenv(name, value)
    made = address(f"postgresql://postgres@127.0.0.1:{postgres.port}/postgres")
    with made.connect("auditrelay a") as connection:
        assert connection.execute(
            "select name, setting from pg_settings where source in ('client', 'session') order by 1"
        ).fetchall() == [("application_name", "auditrelay a"), ("client_encoding", "UTF8")]
        (host, name, user) = connection.execute(
            "select host(inet_server_addr()), current_database(), current_user"
        ).fetchone() or (None, None, None)
        assert (host, name, user) == ("127.0.0.1", "postgres", OWNER)
        assert connection.autocommit
        assert connection.prepare_threshold is None


@pytest.mark.process
def test_neither_a_service_file_nor_the_home_folder_decides_anything(
    guarded: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".pgpass").write_text(f"*:*:*:*:{PASSWORD.replace(':', chr(92) + ':')}\n")
    (tmp_path / ".pgpass").chmod(0o600)
    (tmp_path / ".pg_service.conf").write_text(f"[ours]\nhost=127.0.0.1\nport={guarded.port}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    end = f"127.0.0.1:{guarded.port}/postgres"
    # With libpq's own rules that is enough.
    psycopg.connect(f"postgresql://postgres@{end}").close()
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        address(f"postgresql://postgres@{end}").connect("test")
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / ".pgpass"))
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        address(f"postgresql://postgres@{end}").connect("test")
    monkeypatch.setenv("PGSERVICE", "ours")
    with pytest.raises(psycopg.OperationalError, match="port 1 failed"):
        address("postgresql://postgres@127.0.0.1:1/postgres").connect("test")


# --- TLS ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server with TLS, and the folder of its certificate for 127.0.0.1."""
    found = programs()
    if found is None:
        absent("PostgreSQL")
    folder = certify(tmp_path_factory.mktemp("tls"), user=OWNER)
    server = Server(found)
    for name in ("cert.pem", "key.pem"):
        copy = shutil.copy(folder / name, server.folder / "data")
        Path(copy).chmod(0o600)
        if os.geteuid() == 0:
            shutil.chown(copy, OWNER)
    with (server.folder / "data/postgresql.conf").open("a") as file:
        file.write("ssl = on\nssl_cert_file = 'cert.pem'\nssl_key_file = 'key.pem'\n")
        file.write("ssl_ca_file = 'cert.pem'\n")
    server.restart()
    yield server, folder
    server.close()


@pytest.mark.process
def test_a_server_is_believed_by_its_certificate_and_name(
    encrypted: tuple[Server, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, folder = encrypted
    ours = f"sslrootcert={folder}/cert.pem"
    plain = f"postgresql://postgres@127.0.0.1:{server.port}/postgres"
    with address(f"postgresql://postgres@127.0.0.1:{server.port}/postgres?{ours}").connect(
        "t"
    ) as made:
        assert made.execute(
            "select ssl, client_dn from pg_stat_ssl where pid = pg_backend_pid()"
        ).fetchone() == (True, None)
    pair = f"{ours}&sslcert={folder}/cert.pem&sslkey={folder}/key.pem"
    with address(f"postgresql://postgres@127.0.0.1:{server.port}/postgres?{pair}").connect(
        "t"
    ) as made:
        assert made.execute(
            "select client_dn from pg_stat_ssl where pid = pg_backend_pid()"
        ).fetchone() == ("/CN=postgres",)
    with pytest.raises(psycopg.OperationalError, match='does not match host name "localhost"'):
        address(f"postgresql://postgres@localhost:{server.port}/postgres?{ours}").connect("t")
    # The home folder is asked for neither authorities nor a certificate of ours.
    home = tmp_path / ".postgresql"
    home.mkdir()
    for name, copied in (("root.crt", "cert.pem"), ("postgresql.crt", "cert.pem")):
        shutil.copy(folder / copied, home / name)
    (home / "root.crl").write_bytes(revocation(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    address(f"{plain}?{ours}").connect("t").close()
    for authorities in ("sslmode=verify-full", "sslrootcert=system"):
        with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
            address(f"{plain}?{authorities}").connect("t")
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "cert.pem"))
    address(f"{plain}?sslrootcert=system").connect("t").close()  # it is the system's now


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.process
def test_no_error_of_a_connection_has_the_password(guarded: Server) -> None:
    wrong = "hunter2-not-this"
    ends = (
        f"127.0.0.1:{guarded.port}/postgres",
        f"[::1]:1,127.0.0.1:{guarded.port}/no",
        "no.invalid./d",
    )
    for end in ends:
        with pytest.raises(psycopg.OperationalError) as caught:
            address(f"postgresql://postgres:{wrong}@{end}").connect("test")
        error = caught.value
        shown = "".join(traceback.TracebackException.from_exception(error).format())
        assert wrong not in shown + repr(error) + repr(vars(error)) + repr(error.__context__)
        assert error.pgconn is None
        assert "\n" not in str(error)


def test_a_password_that_a_server_repeats_is_hidden() -> None:
    """Another program on that port may send back what it was sent."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        parrot = threading.Thread(target=_repeat_the_password, args=(listening,))
        parrot.start()
        end = f"127.0.0.1:{listening.getsockname()[1]}/d"
        with pytest.raises(psycopg.OperationalError, match=r"you said \*\*\*") as caught:
            address(f"postgresql://u:hunter2-secret@{end}").connect("test")
        parrot.join()
    assert "hunter2" not in str(caught.value)


def _repeat_the_password(listening: socket.socket) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(b"R\x00\x00\x00\x08\x00\x00\x00\x03")  # a password in clear text
        password = connection.recv(4096)[5:-1]
        fields = b"SFATAL\x00C28P01\x00Myou said %s\x00\x00" % password
        connection.sendall(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)


@pytest.mark.process
def test_a_database_that_cannot_be_written_to_is_not_connected_to(postgres: Server) -> None:
    postgres.execute("create role reader login")
    postgres.execute("alter role reader set default_transaction_read_only = on")
    made = address(f"postgresql://reader@127.0.0.1:{postgres.port}/postgres")
    with pytest.raises(psycopg.OperationalError, match="read-only"):
        made.connect("test")
    postgres.execute("drop role reader")
