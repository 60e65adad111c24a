"""``python -m auditrelay``: the same as the ``auditrelay`` script."""

from auditrelay.cli import main

main()
