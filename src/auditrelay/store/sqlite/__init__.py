"""The store on one machine: SQLite in the state directory."""
