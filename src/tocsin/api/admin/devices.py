"""The registrations, as the operator sees them: who has which, what became of those that are gone."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from litestar import delete, get, post
from litestar.params import FromQuery, JSONBody, QueryParameter
from litestar.types import ControllerRouterHandler
from msgspec import UNSET, Struct, UnsetType

from tocsin.api import documentation as doc
from tocsin.api.control import DeliveryControl
from tocsin.api.problems import Kind, RequestError, bad_input
from tocsin.api.schemas import RESTORE
from tocsin.api.shared import Shared
from tocsin.api.timestamps import rfc3339
from tocsin.domain.devices import APNS_DEVICE_TOKEN, Device, DeviceToken, System
from tocsin.domain.events import UserId
from tocsin.store.ports import Registry, Removal

OWNER = Annotated[UUID | None, QueryParameter(description="The devices of this user; or give `token`")]
TOKEN = Annotated[str | None, QueryParameter(description="Every registration of this token; or give `owner`")]


class DeviceView(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One registration. What is called learned, deliveries have found out since."""

    owner: str
    system: str
    device_token: str
    registered_at: str
    application_id: str | UnsetType = UNSET
    sandbox: bool | UnsetType = UNSET
    apns_topic: str | UnsetType = UNSET
    learned_sandbox: bool | UnsetType = UNSET
    learned_project: str | UnsetType = UNSET
    learned_field: str | UnsetType = UNSET
    last_success_at: str | UnsetType = UNSET


class RemovalView(Struct, frozen=True):
    """A registration that is gone: when, and why."""

    device: DeviceView
    removed_at: str
    reason: str
    quarantined: bool


class RestoreRequest(Struct, frozen=True, forbid_unknown_fields=True):
    device_token: str


class Restored(Struct, frozen=True):
    restored: int


class DeviceRoutes(Shared):
    def __init__(self, registry: Registry, delivery: DeliveryControl) -> None:
        self._registry = registry
        self._delivery = delivery

    def handlers(self) -> list[ControllerRouterHandler]:
        return [
            get("/devices", **doc.admin("listDevices", "Devices of an owner, or of a token"))(self.list_devices),
            delete("/devices", **doc.admin("removeDevice", "Remove one registration", 404))(self.remove),
            get("/devices/history", **doc.admin("deviceHistory", "Registrations that are gone, with reasons"))(
                self.history
            ),
            post(
                "/devices/restore",
                status_code=200,
                **doc.admin("restoreDevices", "Bring removed registrations of a token back", 413, 415, body=RESTORE),
            )(self.restore),
        ]

    async def list_devices(self, owner: OWNER = None, token: TOKEN = None) -> list[DeviceView]:
        user, device_token = _one_of(owner, token)
        if user is not None:
            devices = (await self._registry.devices_of((user,))).get(user, [])
        else:
            assert device_token is not None
            devices = await self._registry.find(device_token)
        return [_view(device) for device in devices]

    async def remove(self, owner: FromQuery[UUID], system: FromQuery[System], token: FromQuery[str]) -> None:
        user, device_token = UserId(str(owner)), _stored(token)
        found = await self._registry.delete(user, system, device_token, by_operator=True)
        self._delivery.cancel(user, system, device_token)
        if not found:
            raise RequestError(Kind.NOT_FOUND, "There is no such registration.")

    async def history(self, owner: OWNER = None, token: TOKEN = None) -> list[RemovalView]:
        user, device_token = _one_of(owner, token)
        return [_removal(removal) for removal in await self._registry.history(owner=user, token=device_token)]

    async def restore(self, data: JSONBody[RestoreRequest]) -> Restored:
        token = _stored(data.device_token)
        restored = await self._registry.restore(token=token, quarantined_only=False)
        for device in await self._registry.find(token):
            self._delivery.registered(UserId(device.owner), device.system, device.token)
        return Restored(restored)


def _one_of(owner: UUID | None, token: str | None) -> tuple[UserId | None, DeviceToken | None]:
    if (owner is None) == (token is None):
        raise bad_input("?owner", "give either owner or token")
    return (None if owner is None else UserId(str(owner))), (None if token is None else _stored(token))


def _stored(token: str) -> DeviceToken:
    """The token as it is stored: APNs tokens in lower case."""
    return DeviceToken(token.lower() if APNS_DEVICE_TOKEN.fullmatch(token) else token)


def _view(device: Device) -> DeviceView:
    apns = device.system == System.APNS
    return DeviceView(
        owner=device.owner,
        system=device.system,
        device_token=device.token,
        registered_at=rfc3339(device.registered_us // 1000),
        application_id=device.application_id or UNSET,
        sandbox=device.sandbox if apns else UNSET,
        apns_topic=device.apns_topic or UNSET,
        learned_sandbox=UNSET if device.learned_sandbox is None else device.learned_sandbox,
        learned_project=device.learned_project or UNSET,
        learned_field=device.learned_field or UNSET,
        last_success_at=UNSET if device.last_success_ms is None else rfc3339(device.last_success_ms),
    )


def _removal(removal: Removal) -> RemovalView:
    return RemovalView(_view(removal.device), rfc3339(removal.removed_ms), removal.reason, removal.quarantined)
