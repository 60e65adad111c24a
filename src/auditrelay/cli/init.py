"""``auditrelay init``: a configuration to start from."""

import os
from pathlib import Path
from typing import Annotated

import typer

from auditrelay.errors import ConfigError

STARTER = """\
# auditrelay: a configuration to start from.
#
# Fill in what is empty, set the variables that ${env:...} names, and run `auditrelay check`.
# A secret can also come from ${file:/path} or ${credential:NAME} (systemd's LoadCredential=).
# config.example.toml explains every other key; `auditrelay schema` prints all of them.

# state_dir = "/var/lib/auditrelay"   # default: $STATE_DIRECTORY, else ~/.local/state/auditrelay

[status]
listen = "127.0.0.1:9464"             # page, health, metrics

# A source is an audit log that is polled. Its name is yours; it is in metrics, logs and events.
[sources.cekura]
type = "cekura"
organization_id = ""                  # the "id" that GET /user/organizations/ shows
api_key = "${env:CEKURA_API_KEY}"

# [sources.bland]
# type = "bland"
# api_key = "${env:BLAND_API_KEY}"

# [sources.jitsudo]
# type = "jitsudo"
# base_url = "https://jitsudo.example.com"
# tenant_id = "2489e9ad-2ee2-4e00-8ec9-32d5f69181c0"
# api_key = "${env:JITSUDO_API_KEY}"

# [sources.slaunch]
# type = "slaunch"
# tenant = "acme"                     # the first part of your host, acme.s-launch.com
# api_key = "${env:SLAUNCH_API_KEY}"

# [sources.cencori]
# type = "cencori"
# mode = "files"                      # exports that are put into a folder
# directory = "/var/lib/auditrelay/cencori"

# A sink is a destination of events. It receives every source, unless `sources` selects some.
[sinks.splunk]
type = "splunk_hec"
url = ""                              # such as https://splunk.example.com:8088
token = "${env:SPLUNK_HEC_TOKEN}"

# [sinks.datadog]
# type = "datadog"
# api_key = "${env:DD_API_KEY}"

# [sinks.elastic]
# type = "elasticsearch"
# urls = ["https://es.example.com:9200"]
# api_key = "${env:ELASTIC_API_KEY}"

# [sinks.archive]
# type = "file"
# path = "/var/log/audit.ndjson"      # or "-" for stdout
"""


def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("auditrelay.toml"),
) -> None:
    """Write a commented configuration to start from. Never overwrites a file."""
    try:
        # One step: no other process can create the file in between, or read it with another mode.
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise ConfigError(f"{path}: exists already; not overwritten") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(file, "w", encoding="utf-8") as stream:
            stream.write(STARTER)
    except OSError as error:
        path.unlink()
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
    typer.echo(f"Wrote {path}. Fill in what is empty, then run: auditrelay -c {path} check")
