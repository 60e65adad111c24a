#!/bin/sh
# A .deb is configured by "configure OLD-VERSION", an .rpm by the number of versions there are then.
set -e

# The configuration is the administrator's from the first installation on: no upgrade asks about it.
first=no
if [ "$1" = configure ] && [ -z "$2" ]; then first=yes; fi
if [ "$1" = 1 ]; then first=yes; fi
if [ $first = yes ] && [ ! -e /etc/auditrelay/config.toml ]; then
  install -m 0644 /usr/share/auditrelay/config.toml /etc/auditrelay/config.toml
fi

if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  # What runs goes on with the new version; nothing is started that the administrator has not started.
  systemctl try-restart auditrelay.service || true
fi
