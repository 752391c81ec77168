"""Applications on SQLite: which apps may register, and the credentials that reach Apple and Google."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, select, update
from sqlalchemy.dialects.sqlite import insert

from tocsin.domain.devices import ApplicationId
from tocsin.store.ports import Application, FcmProject
from tocsin.store.schema import application as application_table
from tocsin.store.schema import fcm_project
from tocsin.store.sqlite.database import Database


class SqliteApplications:
    """See `ports.Applications`. They are few, and asked for at every registration: all of them stay in memory."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._applications: list[Application] | None = None
        self._projects: list[FcmProject] | None = None
        self._changes = 0

    def forget(self) -> None:
        """They were changed: read them again when next asked."""
        self._applications = self._projects = None
        self._changes += 1

    async def applications(self) -> list[Application]:
        if self._applications is None:
            query = select(application_table).order_by(application_table.c.id)
            changes = self._changes
            found = await self._database.read(
                lambda connection: [_application(row) for row in connection.execute(query)]
            )
            if changes != self._changes:
                return found  # changed while it was read: right for this caller, not to be remembered
            self._applications = found
        return self._applications

    async def put_application(self, application: Application) -> None:
        values = {field: getattr(application, field) for field in application.__struct_fields__}
        statement = insert(application_table).values(**values)
        statement = statement.on_conflict_do_update(index_elements=["id"], set_=values)
        await self._change(lambda connection: connection.execute(statement).rowcount)

    async def remove_application(self, id: ApplicationId) -> bool:
        statement = delete(application_table).where(application_table.c.id == id)
        return await self._change(lambda connection: connection.execute(statement).rowcount) > 0

    async def projects(self) -> list[FcmProject]:
        if self._projects is None:
            query = select(fcm_project).order_by(fcm_project.c.name)
            changes = self._changes
            found = await self._database.read(lambda connection: [_project(row) for row in connection.execute(query)])
            if changes != self._changes:
                return found
            self._projects = found
        return self._projects

    async def put_project(self, project: FcmProject) -> None:
        """The first project is the default, and there is never more than one."""

        def put(connection: Connection) -> int:
            others = connection.execute(
                select(fcm_project.c.name).where(fcm_project.c.is_default, fcm_project.c.name != project.name)
            ).first()
            default = project.default or others is None
            if default:
                connection.execute(update(fcm_project).values(is_default=False))
            values = {
                "name": project.name,
                "service_account": project.service_account,
                "is_default": default,
                "changed_ms": project.changed_ms,
            }
            statement = insert(fcm_project).values(**values)
            return connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=values)).rowcount

        await self._change(put)

    async def remove_project(self, name: str) -> bool:
        statement = delete(fcm_project).where(fcm_project.c.name == name)
        return await self._change(lambda connection: connection.execute(statement).rowcount) > 0

    async def _change(self, call: Any) -> int:
        count: int = await self._database.write(call)
        self.forget()
        return count


def _application(row: Any) -> Application:
    return Application(ApplicationId(row.id), row.key_pem, row.key_id, row.certificate_pem, row.changed_ms)


def _project(row: Any) -> FcmProject:
    return FcmProject(row.name, row.service_account, row.is_default, row.changed_ms)
