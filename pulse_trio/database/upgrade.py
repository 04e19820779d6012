"""Runs the migrations: the one module that imports Alembic."""

from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from pulse_trio.database.sessions import noticing, open_session
from pulse_trio.errors import LaunchError


def upgrade(conninfo: str, scripts: Path, wait: float) -> None:
    """Brings a database to the newest revision. The caller keeps other processes from doing so, too.

    Args:
        conninfo: which database.
        scripts: the folder of the migrations.
        wait: seconds to wait for each lock.

    Raises:
        LaunchError: a migration failed; nothing was changed by it.
    """
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    sessions = noticing(conninfo)
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: open_session(sessions, autocommit=False), poolclass=NullPool
    )

    @event.listens_for(engine, "begin")
    def bound_waits(connection: Connection) -> None:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {max(1, round(wait * 1000))}")

    try:
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
    except DBAPIError as error:  # SQLAlchemy's envelope of the driver's error
        if isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise LaunchError(
                f"a migration waited {wait:g} seconds for a table that other sessions use: end them (pg_stat_activity "
                "names them), and start again"
            ) from error
        raise LaunchError(f"a migration failed: {str(error.orig).splitlines()[0]}") from error
    finally:
        engine.dispose()
