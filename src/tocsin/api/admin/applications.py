"""Which applications may register, and the credentials that reach Apple and Google: written here, never read back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from litestar import delete, get, put
from litestar.params import JSONBody, PathParameter
from litestar.types import ControllerRouterHandler
from msgspec import UNSET, Struct, UnsetType

from tocsin.api import documentation as doc
from tocsin.api.control import CredentialRules
from tocsin.api.problems import Kind, RequestError, bad_input
from tocsin.api.schemas import APPLICATION, KEY_ID, PROJECT, PROJECT_NAME
from tocsin.api.shared import Shared
from tocsin.api.timestamps import rfc3339
from tocsin.domain.devices import APPLICATION_ID, ApplicationId, bundle_id, team_id
from tocsin.store.ports import Application, Applications, FcmProject

ID = Annotated[str, PathParameter(schema_extra={"pattern": f"^{APPLICATION_ID.pattern}$"})]
NAME = Annotated[str, PathParameter(schema_extra={"pattern": f"^{PROJECT_NAME.pattern}$"})]


class ApplicationView(Struct, frozen=True, omit_defaults=True):
    """An application, without its credential."""

    id: str
    team_id: str
    bundle_id: str
    credential: Literal["key", "certificate", "none"]
    changed_at: str
    key_id: str | UnsetType = UNSET


class ApplicationCredential(Struct, frozen=True, forbid_unknown_fields=True):
    """Either a provider token's key (`key_pem` with its `key_id`), or a certificate with its private key."""

    key_pem: str | UnsetType = UNSET
    key_id: str | UnsetType = UNSET
    certificate_pem: str | UnsetType = UNSET


class ProjectView(Struct, frozen=True):
    """A Firebase project, without its service account."""

    name: str
    project_id: str
    client_email: str
    default: bool
    changed_at: str


class ProjectCredential(Struct, frozen=True, forbid_unknown_fields=True):
    """`service_account` is the JSON file that Google hands out. The first project is the default anyway."""

    service_account: dict[str, Any]
    default: bool = False


class _Account(Struct, frozen=True):
    project_id: str = ""
    client_email: str = ""


class ApplicationRoutes(Shared):
    def __init__(
        self, applications: Applications, credentials: CredentialRules | None, clock: Callable[[], float]
    ) -> None:
        self._applications = applications
        self._credentials = credentials
        self._clock = clock

    def handlers(self) -> list[ControllerRouterHandler]:
        one, project = "/applications/{application_id:str}", "/fcm-projects/{name:str}"
        return [
            get("/applications", **doc.admin("listApplications", "Applications"))(self.list_applications),
            put(one, **doc.admin("putApplication", "Put an application", 413, 415, body=APPLICATION))(
                self.put_application
            ),
            delete(one, **doc.admin("removeApplication", "Remove an application", 404))(self.remove_application),
            get("/fcm-projects", **doc.admin("listFcmProjects", "Firebase projects"))(self.list_projects),
            put(project, **doc.admin("putFcmProject", "Put a Firebase project", 413, 415, body=PROJECT))(
                self.put_project
            ),
            delete(project, **doc.admin("removeFcmProject", "Remove a Firebase project", 404))(self.remove_project),
        ]

    async def list_applications(self) -> list[ApplicationView]:
        return [_view(application) for application in await self._applications.applications()]

    async def put_application(self, application_id: ID, data: JSONBody[ApplicationCredential]) -> ApplicationView:
        if not APPLICATION_ID.fullmatch(application_id):
            raise bad_input("{application_id}", f"must match ^{APPLICATION_ID.pattern}$")
        application = self._application(ApplicationId(application_id), data)
        await self._applications.put_application(application)
        return _view(application)

    async def remove_application(self, application_id: ID) -> None:
        if not await self._applications.remove_application(ApplicationId(application_id)):
            raise RequestError(Kind.NOT_FOUND, "There is no such application.")

    async def list_projects(self) -> list[ProjectView]:
        return [_project_view(project) for project in await self._applications.projects()]

    async def put_project(self, name: NAME, data: JSONBody[ProjectCredential]) -> ProjectView:
        if not PROJECT_NAME.fullmatch(name):
            raise bad_input("{name}", f"must match ^{PROJECT_NAME.pattern}$")
        account = msgspec.json.encode(data.service_account)
        if self._credentials is not None:
            _read(self._credentials.service_account, account, "$.service_account")
        await self._applications.put_project(FcmProject(name, account.decode(), data.default, self._now_ms()))
        # The store decides which project is the default: it is asked, not guessed.
        return next(_project_view(project) for project in await self._applications.projects() if project.name == name)

    async def remove_project(self, name: NAME) -> None:
        if not await self._applications.remove_project(name):
            raise RequestError(Kind.NOT_FOUND, "There is no such project.")

    def _application(self, id: ApplicationId, data: ApplicationCredential) -> Application:
        match data.key_pem, data.key_id, data.certificate_pem:
            case str(key_pem), str(key_id), UnsetType():
                if not KEY_ID.fullmatch(key_id):
                    raise bad_input("$.key_id", "must be the ten characters that Apple gave the key")
                if self._credentials is not None:
                    key_pem = _read(self._credentials.key, key_pem.encode(), "$.key_pem")
                return Application(id, key_pem=key_pem, key_id=key_id, changed_ms=self._now_ms())
            case UnsetType(), UnsetType(), str(certificate_pem):
                if self._credentials is not None:
                    certificate_pem = _read(
                        self._credentials.certificate, certificate_pem.encode(), "$.certificate_pem"
                    )
                return Application(id, certificate_pem=certificate_pem, changed_ms=self._now_ms())
            case _:
                raise bad_input("$", "give either key_pem and key_id, or certificate_pem")

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def _read(rule: Callable[[bytes], str], content: bytes, at: str) -> str:
    try:
        return rule(content)
    except ValueError as error:
        raise bad_input(at, str(error)) from None


def _view(application: Application) -> ApplicationView:
    return ApplicationView(
        id=application.id,
        team_id=team_id(application.id),
        bundle_id=bundle_id(application.id),
        credential="key" if application.key_pem else "certificate" if application.certificate_pem else "none",
        changed_at=rfc3339(application.changed_ms),
        key_id=application.key_id or UNSET,
    )


def _project_view(project: FcmProject) -> ProjectView:
    try:
        account = msgspec.json.decode(project.service_account, type=_Account)
    except msgspec.DecodeError:
        account = _Account()
    return ProjectView(
        project.name, account.project_id, account.client_email, project.default, rfc3339(project.changed_ms)
    )
