"""
Interoperability tests: auditrelay against third-party receivers.

Every other module says what it tests. ``python -m interop --help`` lists the commands, README.md
the results. Nothing here is part of ``make test``: it builds third-party servers.
"""
