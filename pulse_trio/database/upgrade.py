"""Runs the migrations. The only module that imports Alembic."""

from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from pulse_trio.database.sessions import open_session, with_keepalives
from pulse_trio.errors import LaunchError


def upgrade(conninfo: str, scripts: Path, wait: float) -> None:
    """Brings a database to the newest revision. The caller holds the migration lock.

    Args:
        conninfo: libpq connection string.
        scripts: the folder of the migrations.
        wait: seconds to wait for each lock.

    Raises:
        LaunchError: a migration failed; it changed nothing.
    """
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    sessions = with_keepalives(conninfo)
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: open_session(sessions, autocommit=False), poolclass=NullPool
    )

    @event.listens_for(engine, "begin")
    def limit_lock_waits(connection: Connection) -> None:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {max(1, round(wait * 1000))}")

    try:
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
    except DBAPIError as error:  # SQLAlchemy wraps the driver's error
        if isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise LaunchError(
                f"a migration waited {wait:g} seconds for a table that other sessions use: end them (pg_stat_activity "
                "lists them), and start again"
            ) from error
        raise LaunchError(f"a migration failed: {str(error.orig).splitlines()[0]}") from error
    finally:
        engine.dispose()
