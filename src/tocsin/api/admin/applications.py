"""The applications that may register, and the credentials for Apple and Google: written here, never shown again."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from litestar import Request, Response, delete, get, put
from litestar.params import PathParameter
from litestar.types import ControllerRouterHandler
from msgspec import UNSET, Struct, UnsetType

from tocsin.api import documentation as doc
from tocsin.api.capped import capped
from tocsin.api.json_body import JsonBodies
from tocsin.api.problems import Kind, RequestError, bad_input
from tocsin.api.schemas import APPLICATION, PROJECT
from tocsin.api.shared import Shared
from tocsin.api.timestamps import rfc3339
from tocsin.domain.credentials import Credential
from tocsin.providers.apns import address as apns
from tocsin.providers.apns.credentials import ApnsCredential, read_certificate, read_key
from tocsin.providers.apns.credentials import read_stored as read_apns
from tocsin.providers.fcm import address as fcm
from tocsin.providers.fcm.credentials import read_service_account, stored
from tocsin.providers.fcm.credentials import read_stored as read_fcm
from tocsin.store.ports import Store

T = TypeVar("T")

ID = Annotated[str, PathParameter(schema_extra={"pattern": f"^{apns.APPLICATION_ID.pattern}$"})]
NAME = Annotated[str, PathParameter(schema_extra={"pattern": f"^{fcm.PROJECT_NAME.pattern}$"})]


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
    """`service_account` is the JSON file as downloaded from Google. The first project is always the default."""

    service_account: dict[str, Any]
    default: bool = False


class ApplicationRoutes(Shared):
    """The routes of `/api/admin/applications` and `/api/admin/fcm-projects`."""

    def __init__(self, store: Store, bodies: JsonBodies, token_hosts: Collection[str]) -> None:
        """`token_hosts` may be asked for a project's access tokens."""
        self._credentials = store.credentials
        self._bodies = bodies
        self._token_hosts = token_hosts
        self._now_ms = store.now_ms

    def handlers(self) -> list[ControllerRouterHandler]:
        one, project = "/applications/{application_id:str}", "/fcm-projects/{name:str}"
        return [
            get("/applications", **doc.admin("listApplications", "Applications", is_capped=True))(
                self.list_applications
            ),
            put(one, **doc.admin("putApplication", "Put an application", 413, 415, body=APPLICATION))(
                self.put_application
            ),
            delete(one, **doc.admin("removeApplication", "Remove an application", 404))(self.remove_application),
            get("/fcm-projects", **doc.admin("listFcmProjects", "Firebase projects", is_capped=True))(
                self.list_projects
            ),
            put(project, **doc.admin("putFcmProject", "Put a Firebase project", 413, 415, body=PROJECT))(
                self.put_project
            ),
            delete(project, **doc.admin("removeFcmProject", "Remove a Firebase project", 404))(self.remove_project),
        ]

    async def list_applications(self) -> Response[list[ApplicationView]]:
        return capped([_application(one) for one in await self._credentials.of(apns.NAME)])

    async def put_application(self, request: Request[Any, Any, Any], application_id: ID) -> ApplicationView:
        if not apns.APPLICATION_ID.fullmatch(application_id):
            raise bad_input("{application_id}", f"must match ^{apns.APPLICATION_ID.pattern}$")
        data = await self._bodies.read(request, ApplicationCredential)
        now_ms = self._now_ms()
        credential = _apns_credential(data, now_ms / 1000).stored(application_id, now_ms)
        await self._credentials.put(credential)
        return _application(credential)

    async def remove_application(self, application_id: ID) -> None:
        if not await self._credentials.remove(apns.NAME, application_id):
            raise RequestError(Kind.NOT_FOUND, "There is no such application.")

    async def list_projects(self) -> Response[list[ProjectView]]:
        return capped([_project(one) for one in await self._credentials.of(fcm.NAME)])

    async def put_project(self, request: Request[Any, Any, Any], name: NAME) -> ProjectView:
        if not fcm.PROJECT_NAME.fullmatch(name):
            raise bad_input("{name}", f"must match ^{fcm.PROJECT_NAME.pattern}$")
        data = await self._bodies.read(request, ProjectCredential)
        account = msgspec.json.encode(data.service_account)
        _read(lambda content: read_service_account(content, self._token_hosts), account, "$.service_account")
        await self._credentials.put(stored(name, account, default=data.default, changed_ms=self._now_ms()))
        # Read back: the store decides which project is the default.
        return next(_project(one) for one in await self._credentials.of(fcm.NAME) if one.account == name)

    async def remove_project(self, name: NAME) -> None:
        if not await self._credentials.remove(fcm.NAME, name):
            raise RequestError(Kind.NOT_FOUND, "There is no such project.")


def _apns_credential(data: ApplicationCredential, now_s: float) -> ApnsCredential:
    match data.key_pem, data.key_id, data.certificate_pem:
        case str(key_pem), str(key_id), UnsetType():
            if not apns.KEY_ID.fullmatch(key_id):
                raise bad_input("$.key_id", "must be the ten characters that Apple gave the key")
            return ApnsCredential(_read(read_key, key_pem.encode(), "$.key_pem"), key_id)
        case UnsetType(), UnsetType(), str(certificate_pem):
            read = partial(read_certificate, now_s=now_s)
            pem = _read(read, certificate_pem.encode(), "$.certificate_pem")
            return ApnsCredential(certificate_pem=pem)
        case _:
            raise bad_input("$", "give either key_pem and key_id, or certificate_pem")


def _read(read: Callable[[bytes], T], content: bytes, at: str) -> T:
    try:
        return read(content)
    except ValueError as error:
        raise bad_input(at, str(error)) from None


def _application(credential: Credential) -> ApplicationView:
    own = read_apns(credential)
    return ApplicationView(
        credential.account,
        apns.team_id(credential.account),
        apns.bundle_id(credential.account),
        own.kind,
        rfc3339(credential.changed_ms),
        own.key_id or UNSET,
    )


def _project(credential: Credential) -> ProjectView:
    account = read_fcm(credential)
    return ProjectView(
        credential.account,
        account.project_id,
        account.client_email,
        credential.default,
        rfc3339(credential.changed_ms),
    )
