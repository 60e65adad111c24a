"""
auditrelay against receivers that this project did not write.

Every module but this one says what it proves. ``python -m interop --help`` lists the commands,
README.md what was seen. Nothing here is part of ``make test``: it builds other people's servers.
"""
