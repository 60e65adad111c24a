#!/bin/sh
# Only a purge of the .deb deletes what is not the package's own: secrets, state, undelivered events.
set -e

if [ "$1" = purge ]; then
  rm -rf /etc/auditrelay /var/lib/private/auditrelay
  # A link of systemd's, or a folder where auditrelay ran without it.
  rm -rf /var/lib/auditrelay
fi
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload || true
fi
