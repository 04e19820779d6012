"""Alembic's entry: runs the migrations on the connection that `pulse_trio.database.schema` hands over."""

from alembic import context


def run() -> None:
    connection = context.config.attributes["connection"]
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


run()
