"""
``python -m auditrelay.healthcheck``: the health check of a container, by ``/healthz``.

The exit status is 0 if every loop makes progress, else 1, with the reason. It runs twice a minute,
so it imports only the standard library, and reads one key of the configuration.
"""

import http.client
import os
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

DEFAULT_PATHS: Final = (Path("auditrelay.toml"), Path("/etc/auditrelay/config.toml"))
LISTEN: Final = "127.0.0.1:9464"
"""Both are copies from ``config``, which takes too long to import; a test compares them."""

TIMEOUT: Final = 4.0
"""Seconds for the reply: less than the container's own timeout of 5 seconds."""

_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # to connect, not to listen
"""The address to connect to, for a status port that listens on all interfaces."""


def main() -> None:
    """Print the reply of ``/healthz``, and exit with 0 if it is 200, else with 1."""
    try:
        host, port = address(os.environ)
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
        connection.request("GET", "/healthz")
        reply = connection.getresponse()
        text = reply.read(1000).decode("utf-8", "replace")
    except (OSError, ValueError, http.client.HTTPException) as error:
        sys.exit(f"the status port does not answer: {error}")
    if reply.status != 200:
        sys.exit(text)
    sys.stdout.write(text + "\n")


def address(environ: Mapping[str, str]) -> tuple[str, int]:
    """
    Return the host and port of the status port, from the environment or the configuration file.

    Raises OSError if the file cannot be read, ValueError if its TOML or the address is not valid.
    """
    listen = environ.get("AUDITRELAY_STATUS__LISTEN") or _listen(environ)
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    return _LOOPBACK.get(host, host), int(port)


def _listen(environ: Mapping[str, str]) -> str:
    named = environ.get("AUDITRELAY_CONFIG")
    for path in [Path(named)] if named else [each for each in DEFAULT_PATHS if each.exists()]:
        status = tomllib.loads(path.read_text("utf-8-sig")).get("status", {})
        return str(status.get("listen", LISTEN)) if isinstance(status, dict) else LISTEN
    return LISTEN


if __name__ == "__main__":
    main()
