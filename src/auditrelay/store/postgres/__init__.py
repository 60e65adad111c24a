"""The store in PostgreSQL, which several replicas share. Only what connects imports psycopg."""
