"""
The store in a database that speaks SQL: all its logic, for whichever engine runs it.

The modules here work on a connection, within the caller's transaction. What differs between the
engines is named in ``dialect``, and what an engine does in ``engine``: ``store.sqlite`` keeps the
state in a file, ``store.postgres`` in a server that several replicas share.
"""
