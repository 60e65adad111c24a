"""
``python -m auditrelay.healthcheck``: ask the running instance's ``/healthz``; for a container.

It ends with 0 if every loop makes progress, else with 1 and the reason. It runs twice a minute for
ever, so it imports nothing but the standard library, and of the configuration it reads one key.
"""

import http.client
import os
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

PLACES: Final = (Path("auditrelay.toml"), Path("/etc/auditrelay/config.toml"))
LISTEN: Final = "127.0.0.1:9464"
"""Both as in ``config``, which takes too long to import; a test compares them."""

SECONDS: Final = 4.0
"""How long the answer may take: less than the container's own patience of 5 seconds."""

_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # to ask, not to listen


def main() -> None:
    """Print what ``/healthz`` says, and exit."""
    try:
        host, port = address(os.environ)
        connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
        connection.request("GET", "/healthz")
        reply = connection.getresponse()
        said = reply.read(1000).decode("utf-8", "replace")
    except (OSError, ValueError, http.client.HTTPException) as error:
        sys.exit(f"the status port does not answer: {error}")
    if reply.status != 200:
        sys.exit(said)
    sys.stdout.write(said + "\n")


def address(environ: Mapping[str, str]) -> tuple[str, int]:
    """
    Return where the status port listens, as the environment or the configuration file says.

    Raises OSError if the file cannot be read, ValueError if it makes no sense.
    """
    listen = environ.get("AUDITRELAY_STATUS__LISTEN") or _listen(environ)
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    return _EVERYWHERE.get(host, host), int(port)


def _listen(environ: Mapping[str, str]) -> str:
    named = environ.get("AUDITRELAY_CONFIG")
    for path in [Path(named)] if named else [each for each in PLACES if each.exists()]:
        status = tomllib.loads(path.read_text("utf-8-sig")).get("status", {})
        return str(status.get("listen", LISTEN)) if isinstance(status, dict) else LISTEN
    return LISTEN


if __name__ == "__main__":
    main()
