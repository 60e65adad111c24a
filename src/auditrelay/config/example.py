"""
config.example.toml: every key that exists, with its default and what it is for.

What all sources, or all sinks, have in common is explained here, in the first table of each; a
table itself is the ``EXAMPLE`` of the source's or sink's module. ``python -m
auditrelay.config.example`` prints the file.
"""

import sys
from importlib import import_module
from types import ModuleType

import auditrelay.sinks
import auditrelay.sources

_HEAD = """\
# auditrelay: every key that exists, with its default and what it is for.
#
# Lines that begin with "# key = value" show defaults: take the "# " away to change one.
# `auditrelay init` writes a short file to start from; `auditrelay check` validates a file.
#
#   durations   a whole number and one unit: "500ms" "30s" "5m" "24h" "7d"
#   sizes       a whole number and one unit: "500KB" "64MiB" "2GiB", or a bare number of bytes
#   secrets     any text may refer to one instead of containing it:
#                 ${env:NAME}          an environment variable
#                 ${file:/run/x}       a file; its last line end is removed
#                 ${credential:NAME}   a file in $CREDENTIALS_DIRECTORY (systemd's LoadCredential=)
#               A file is read again after a 401 or 403, so a rotated key needs no restart.
#   variables   any key can come from the environment, which overrides this file: AUDITRELAY_, then
#               the names with __ between them, a - or . in a name written as _:
#                 AUDITRELAY_SOURCES__ACME_VOICE__PAGE_SIZE=50
#               Lists are JSON or words separated by commas, tables are JSON.


# The folder of the state: what was read, what waits for delivery, the dead letters. One running
# instance for a folder. Without the key: $STATE_DIRECTORY (systemd sets it), else
# ~/.local/state/auditrelay.
# state_dir = "/var/lib/auditrelay"  # no default
# A PostgreSQL that several replicas share, instead of SQLite in state_dir (docs/postgres.md). Best
# with the password in a file: it is read again for every connection.
# store = "postgresql://relay:${file:/run/secrets/store}@db1.example.com/auditrelay"  # no default
# The name of this replica, for people; the host's name if it is left out.
# replica = "a"  # no default

[status]
# The status page, /healthz, /readyz and /metrics. Keep it on loopback, or require a token: without
# one other machines get neither page nor report. With port 0 the system chooses one.
# listen = "127.0.0.1:9464"
# Token required to access the status port, except for probes; none by default. Send it as
# "Authorization: Bearer <token>"; in a browser enter any name, and the token as the password. At
# least 16 characters: openssl rand -hex 32.
# token = "${env:STATUS_TOKEN}"  # no default

[log]
# debug, info, warning or error.
# level = "info"
# json, console, or auto: console on a terminal and json elsewhere.
# format = "auto"

[alerts]
# Send an event to the sinks when something is wrong with auditrelay itself (a source or sink is
# held, the spool fills, a source is silent...) and when that is over. It is logged in any case.
# events = true

[spool]
# The most disk space of the spool. When it is full, polling pauses and delivery goes on; nothing is
# dropped.
# max_bytes = "2GiB"
# How long delivered events are kept, so that they can be resent to one sink.
# retention = "7d"
# How long the uid of a forwarded event is remembered. Within that time events that are read again
# are deduplicated.
# remember = "400d"

[evidence]
# How often what was done is sealed, from 5m to 24h: a head of the evidence goes to every sink, so
# that nothing before it can be changed unseen (docs/evidence.md).
# every = "1h"
# 32 bytes in hexadecimal: openssl rand -hex 32. Heads are signed by it, and what may still change
# in the state is tagged. Keep it outside of state_dir.
# key = "${credential:evidence_key}"  # no default
# The key that "key" replaces, until the service has been restarted once.
# key_before = "${credential:evidence_key_before}"  # no default
# A file that each head is appended to, on another disk for instance.
# heads = "/var/log/auditrelay/heads"  # no default
"""

_SOURCES = """
# ---------------------------------------------------------------------------------------------
# Sources: one table for each audit log. The name is yours; it is in metrics, logs and events.
# ---------------------------------------------------------------------------------------------
"""

_SOURCE_KEYS = """\
# The keys from here on exist for every source. Defaults that differ are shown with each one.

# false: neither polled nor shown as a problem; what was already read is still delivered.
# enabled = true
# The address of the API (base_url) must be https, unless it is this machine. true: allow plain http
# to other machines. Credentials and events can then be read in transit.
# allow_insecure_http = false
# How often the source is polled.
# poll_interval = "5m"
# How long to wait before assuming the source has published everything up to an instant. A longer
# time means fewer late events, and later delivery. Events that come even later are found by
# "resweep".
# settle = "1m"
# How far each window starts before the checkpoint, for events that appear out of order.
# overlap = "10m"
# Everything is read again this long after it was read first, and only what was missed is
# forwarded. Empty: no resweep.
# resweep = ["1h", "24h"]
# The most time that one window spans, 30 days at most. A longer outage is caught up in several.
# max_window = "30d"
# How far back the very first poll begins, 30 days at most. For more use `auditrelay backfill`.
# initial_lookback = "7d"
# After an outage what is older than this is not read, but declared as a gap. By default all of it
# is caught up.
# catch_up_limit = "30d"  # no default
# How long the vendor keeps its records. What is older is declared as a gap instead of requested.
# retention = "365d"  # no default
# The most requests a minute, for polling, backfill, resweep and verify together.
# requests_per_minute = 60  # no default
# Report the source as silent when it has shown nothing new for this long.
# max_silence = "24h"  # no default
# What is replaced before anything is stored: "default" (what looks like a secret, by its key or by
# itself; docs/redaction.md), "off", or a list of patterns for keys such as ["*token*", "ssn"].
# redact = "default"
# Identities to replace by a pseudonym, everywhere in the event: any of actor.id actor.name
# actor.email actor.ip target.id target.name target.email, as far as the vendor's records have it;
# email and IP addresses under any key. The same value always has the same one.
# pseudonymize = []
# The key for pseudonyms, at least 16 characters: openssl rand -hex 32. Another key makes others.
# pseudonym_key = "${env:PSEUDONYM_KEY}"  # no default
# Labels for every event of this source, such as { env = "prod", team = "voice" }.
# tags = {}
# The most time for one request, from connecting to the last byte.
# timeout = "30s"
# Certificates to trust instead of the public ones (PEM). Verification cannot be switched off.
# ca_file = "/etc/ssl/our-ca.pem"  # no default
# A client certificate and its key, where the peer requires one (PEM).
# client_cert = "/etc/auditrelay/client.pem"  # no default
# client_key = "/etc/auditrelay/client.key"  # no default
# An HTTP proxy. The variables HTTP_PROXY and so on are ignored.
# proxy = "http://proxy.example.com:3128"  # no default
# With "store" only: names of the replicas that may read it, or patterns such as "dc1-*", where only
# some of them reach the peer, or have its directory.
# replicas = ["*"]
"""

_DESCRIBED = """
# Other vendors are described in files: `auditrelay description list` shows them, and `auditrelay
# init --source okta` writes the table of one. It has the common keys, and those that the
# description declares. Any other API: docs/descriptions.md.
#
#   [sources.acme-okta]
#   type = "okta"
#   domain = "acme.okta.com"
#   token = "${env:OKTA_TOKEN}"
#
#   [sources.acme-crm]
#   type = "rest"
#   description = "crm.toml"
#   feed = "admin"
"""

_RECEIVERS = """
# Other receivers are described in files: `auditrelay description list` shows them, and `auditrelay
# init --sink loki` writes the table of one. It has the common keys, and those that the description
# declares. Any other that takes events over HTTP: docs/add-your-receiver.md.
#
#   [sinks.loki]
#   type = "loki"
#   url = "https://loki.example.com"
#
#   [sinks.lake]
#   type = "http"
#   description = "quill.toml"
#   key = "${env:QUILL_KEY}"
"""

_SINKS = """
# ---------------------------------------------------------------------------------------------
# Sinks: one table for each destination. A slow or dead one does not delay the others.
# ---------------------------------------------------------------------------------------------
"""

_SINK_KEYS = """\
# The keys from here on exist for every sink. Defaults that differ are shown with each one.

# false: nothing is sent, and its backlog stays in the spool until spool.retention has passed.
# enabled = true
# Names of the sources that it receives, or patterns such as "acme-*". A name that is no source is
# an error, a pattern that matches none (yet) is a warning.
# sources = ["*"]
# What it is not sent: globs over the kind and verb of an event ("session.*", "user.read") and over
# the vendor's own actions ("user.session.start"). Events of auditrelay itself are always sent.
# exclude = []
# Shown with each sink are "format", the form of the events ("asim", "cim", "datadog", "ecs", "ocsf"
# or "raw", as the vendor sent them), and "batch_bytes", the most bytes of one before compression.
# The most events of one request.
# batch_events = 1000
# How long a request waits for more events.
# linger = "1s"
# The most requests in flight. Concurrency is reduced automatically while the sink is slow or fails.
# concurrency = 4
# With a shared store: into how many parts it is divided by source, so that several replicas deliver
# to it at a time. They share the concurrency. Not for a file nor for object storage.
# parts = 1
# "gzip", or "none" for a collector behind a proxy that cannot decompress.
# compression = "gzip"
# The most time for one request, from connecting to the last byte.
# timeout = "30s"
# As for the sources:
# ca_file = "/etc/ssl/our-ca.pem"  # no default
# client_cert = "/etc/auditrelay/client.pem"  # no default
# client_key = "/etc/auditrelay/client.key"  # no default
# proxy = "http://proxy.example.com:3128"  # no default
# allow_insecure_http = false
# replicas = ["*"]
"""


def tables(package: ModuleType) -> dict[str, str]:
    """Return the example of each module in *package*, ``sources`` or ``sinks``, by its type."""
    return {
        name: import_module(f"{package.__name__}.{name}").EXAMPLE for name in package.available()
    }


def example() -> str:
    """Return the text of config.example.toml."""
    parts = [_HEAD]
    for title, package, common, more in (
        (_SOURCES, auditrelay.sources, _SOURCE_KEYS, [_DESCRIBED]),
        (_SINKS, auditrelay.sinks, _SINK_KEYS, [_RECEIVERS]),
    ):
        first, *others = tables(package).values()
        parts += [title, f"{first}\n{common}", *others, *more]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(example())
