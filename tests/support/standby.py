"""A streaming standby of a server of the tests, which can take over from it."""

import time
from collections.abc import Mapping

from tests.support.guarded import HOST
from tests.support.postgres import Server

_PATIENCE = 60.0


class Standby(Server):
    """
    A standby of *primary*, which streams what that commits; it has a port of its own.

    Stopped and started again while the primary is gone, it lacks what was committed meanwhile.
    """

    def __init__(self, primary: Server) -> None:
        self._primary = primary
        super().__init__(primary.programs)

    def _make(self, settings: Mapping[str, str]) -> None:
        # Those of the primary come with its data.
        self._guarded.run(
            [
                *(str(self.programs / "pg_basebackup"), "--pgdata", str(self._data)),
                *("--dbname", self._primary.address(), "--write-recovery-conf"),
                *("--checkpoint", "fast", "--no-sync"),
            ]
        )
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(f"unix_socket_directories = '{self.folder}'\n")

    def promote(self) -> None:
        """Let it take over: it can be written to when this returns."""
        assert self.execute("select pg_promote(true, 60)") == [(True,)]

    def both(self, address: str) -> str:
        """Return *address*, of a database of the primary, with this server as its second host."""
        host = f"@{HOST}:{self._primary.port}/"
        assert host in address
        return address.replace(host, f"@{HOST}:{self._primary.port},{HOST}:{self.port}/")


def require_standby(server: Server, names: str) -> None:
    """Let each commit on *server* wait for a standby of those *names*; "" for none."""
    server.execute(f"alter system set synchronous_standby_names = '{names}'")
    server.execute("select pg_reload_conf()")
    until(server, "select current_setting('synchronous_standby_names')", names)


def until(server: Server, sql: str, value: object) -> None:
    """Wait until *sql* finds *value* alone on *server*."""
    deadline = time.monotonic() + _PATIENCE
    while (found := server.execute(sql)) != [(value,)]:
        assert time.monotonic() < deadline, (sql, found)
        time.sleep(0.02)
