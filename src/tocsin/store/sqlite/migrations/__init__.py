"""Brings a database to the current schema: forward only, under a lock, at every start.

alembic is imported only where there is something to migrate: it takes as long as the rest of a short command.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect

if TYPE_CHECKING:
    from alembic.config import Config

_HERE = Path(__file__).parent
_VERSION_TABLE = "alembic_version"


class MigrationError(Exception):
    """The database cannot be brought to the current schema; it is left as it is."""


class NewerDatabaseError(MigrationError):
    """The database was written by a newer version of tocsin than this one."""


class ForeignDatabaseError(MigrationError):
    """The database is another program's."""


def head() -> str:
    """The schema that this version of tocsin works with."""
    return _revisions()[-1]


def is_current(connection: Connection) -> bool:
    """Whether there is nothing to migrate.

    Raises:
        MigrationError: the database is ahead of this version, or another program's.
    """
    current, revisions = _current(connection), _revisions()
    if current is None:
        tables = set(inspect(connection).get_table_names()) - {_VERSION_TABLE}
        if tables:
            raise ForeignDatabaseError(f"it is another program's database, with a table {min(tables)!r}")
        return False
    if current not in revisions:
        raise NewerDatabaseError(f"the database has schema {current}, which this version of tocsin does not know")
    return current == revisions[-1]


def migrate(connection: Connection, to: str = "head") -> None:
    """Run every migration that the database has not seen.

    Raises:
        MigrationError: the database is ahead of this version, or another program's.
    """
    if not is_current(connection):
        from alembic import command

        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, to)


def _current(connection: Connection) -> str | None:
    """The schema of the database; None where it has none of tocsin's."""
    if not inspect(connection).has_table(_VERSION_TABLE):
        return None
    row = connection.exec_driver_sql(f"SELECT version_num FROM {_VERSION_TABLE}").fetchone()
    return None if row is None else str(row[0])


def _revisions() -> list[str]:
    """The schemas that this version knows, the oldest first: with their numbers begin the files of the migrations."""
    return sorted(file.stem.partition("_")[0] for file in (_HERE / "versions").glob("[0-9]*_*.py"))


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    return config
