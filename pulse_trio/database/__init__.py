"""Running a PostgreSQL: embedded cluster, sessions, schema, the lock of one service."""
