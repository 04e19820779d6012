"""Runs the migrations: the one module that imports Alembic."""

from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from pulse_trio.errors import LaunchError


def upgrade(conninfo: str, scripts: Path) -> None:
    """Brings a database to the newest revision. The caller keeps other processes from doing so, too.

    Args:
        conninfo: which database.
        scripts: the folder of the migrations.

    Raises:
        LaunchError: a migration failed; nothing was changed by it.
    """
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(conninfo), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
    except DBAPIError as error:  # SQLAlchemy's envelope of the driver's error
        raise LaunchError(f"a migration failed: {str(error.orig).splitlines()[0]}") from error
    finally:
        engine.dispose()
