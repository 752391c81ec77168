"""Brings a database to the current schema: forward only, under a lock, at every start."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

_HERE = Path(__file__).parent


class NewerDatabase(Exception):
    """The database was written by a newer version of tocsin than this one."""


def migrate(connection: Connection) -> None:
    """Run every migration that the database has not seen.

    Raises:
        NewerDatabase: the database is ahead of this version; it is left as it is.
    """
    config = Config()
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
        raise NewerDatabase(f"the database has schema {current}, which this version of tocsin does not know")
    if current != scripts.get_current_head():
        command.upgrade(config, "head")
