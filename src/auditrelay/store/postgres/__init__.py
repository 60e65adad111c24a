"""The engine for PostgreSQL, which several replicas may share; psycopg 3 is imported only here."""
