"""Alembic's entry point: runs the migrations on the connection from `pulse_trio.database.upgrade`."""

from alembic import context


def run() -> None:
    connection = context.config.attributes["connection"]
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


run()
