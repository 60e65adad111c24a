"""Let ``python -m auditrelay`` be the same as the ``auditrelay`` script."""

from auditrelay.cli import main

main()
