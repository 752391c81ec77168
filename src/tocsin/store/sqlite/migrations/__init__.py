"""Brings a database to the current schema: forward only, under a lock, at every start."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

_HERE = Path(__file__).parent


class MigrationError(Exception):
    """The database cannot be brought to the current schema; it is left as it is."""


class NewerDatabaseError(MigrationError):
    """The database was written by a newer version of tocsin than this one."""


class ForeignDatabaseError(MigrationError):
    """The database is another program's."""


def head() -> str:
    """The schema that this version of tocsin works with."""
    return str(_scripts(_config()).get_current_head())


def is_current(connection: Connection) -> bool:
    """Whether there is nothing to migrate.

    Raises:
        MigrationError: the database is ahead of this version, or another program's.
    """
    current = MigrationContext.configure(connection).get_current_revision()
    scripts = _scripts(_config())
    if current is None:
        tables = set(inspect(connection).get_table_names()) - {"alembic_version"}
        if tables:
            raise ForeignDatabaseError(f"it is another program's database, with a table {min(tables)!r}")
        return False
    if current not in {script.revision for script in scripts.walk_revisions()}:
        raise NewerDatabaseError(f"the database has schema {current}, which this version of tocsin does not know")
    return current == scripts.get_current_head()


def migrate(connection: Connection, to: str = "head") -> None:
    """Run every migration that the database has not seen.

    Raises:
        MigrationError: the database is ahead of this version, or another program's.
    """
    if not is_current(connection):
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, to)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    return config


def _scripts(config: Config) -> ScriptDirectory:
    return ScriptDirectory.from_config(config)
