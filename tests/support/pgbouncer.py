"""A pgbouncer between clients and a server of the tests, in transaction mode."""

import shutil
import signal
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from tests.support.guarded import HOST, OWNER, Guarded
from tests.support.postgres import Server, absent

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")

_CONFIGURATION = """
[databases]
* = host={host} port={server} user={owner}
[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
max_client_conn = 500
pidfile = pid
"""


class Pooler:
    """
    A pgbouncer in front of *server*: many clients, two connections for each database.

    A connection is a client's for the time of a transaction, so what one sets for its session is
    another's afterwards.
    """

    def __init__(self, server: Server, program: str) -> None:
        self._program = program
        self._server = server
        self._guarded = Guarded("bouncer", lock="pid", end=signal.SIGTERM)
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Start it and wait until it serves; its port stays what it was."""
        self._guarded.start(self._command, self._serves)

    def _command(self, port: int) -> list[str]:
        written = self._guarded.folder / "pgbouncer.ini"
        written.write_text(
            _CONFIGURATION.format(host=HOST, owner=OWNER, server=self._server.port, port=port)
        )
        self._guarded.own(written)
        return [self._program, str(written)]

    def _serves(self, pid: int) -> bool:
        return f"[{pid}] LOG process up" in self._guarded.log()

    def restart(self) -> None:
        """End it at once, which breaks all connections, and start it again."""
        self._guarded.stop(signal.SIGTERM)
        self.start()

    def through(self, address: str) -> str:
        """Return the URL *address* with the pooler in the place of the server."""
        parts = urlsplit(address)
        user, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{user}{at}{HOST}:{self._guarded.port}").geturl()

    def close(self) -> None:
        """End it at once, and remove its folder."""
        self._guarded.close()


@pytest.fixture
def pgbouncer(postgres: Server) -> Iterator[Pooler]:
    """A pooler in front of the server of :func:`tests.support.postgres.database`."""
    if PROGRAM is None:
        absent("pgbouncer")
    pooler = Pooler(postgres, PROGRAM)
    yield pooler
    pooler.close()
