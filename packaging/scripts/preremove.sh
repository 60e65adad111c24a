#!/bin/sh
# A .deb is removed by "remove", an .rpm by 0; an upgrade stops nothing.
set -e

if [ "$1" = remove ] || [ "$1" = 0 ]; then
  if [ -d /run/systemd/system ]; then
    systemctl stop auditrelay.service 'auditrelay-backfill@*.service' || true
  fi
  if command -v systemctl >/dev/null; then
    systemctl --quiet disable auditrelay.service || true
  fi
fi
