"""Running a PostgreSQL: opening, embedded cluster, sessions, schema, backup, and the service lock."""
