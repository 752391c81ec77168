"""The registrations for the operator: who has which devices, and which were removed, when and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final
from uuid import UUID

from litestar import Request, Response, delete, get, post
from litestar.params import FromQuery, QueryParameter
from litestar.types import ControllerRouterHandler
from msgspec import UNSET, Meta, Struct, UnsetType

from tocsin.api import documentation as doc
from tocsin.api.capped import MOST, capped
from tocsin.api.json_body import JsonBodies
from tocsin.api.problems import Kind, RequestError, bad_input
from tocsin.api.schemas import FIND_DEVICES, REMOVE_DEVICE, RESTORE
from tocsin.api.shared import Shared
from tocsin.api.timestamps import rfc3339
from tocsin.domain.devices import Device
from tocsin.domain.events import UserId
from tocsin.domain.explanations import Code, Explanation, of_removal
from tocsin.providers.rules import RULES, RuleBook
from tocsin.store.ports import Registry
from tocsin.store.records import Removal

OWNER = Annotated[UUID | None, QueryParameter(description="The registrations of this user. Not together with `token`")]
SYSTEM = Annotated[str, QueryParameter(schema_extra={"enum": sorted(RULES)})]
TOKEN = Annotated[
    str | None,
    QueryParameter(
        description="Every registration of this token. Not together with `owner`. Deprecated: logs of proxies keep it;"
        " `POST /api/admin/devices/search` takes it in the body"
    ),
]

_ONE_OF_TWO: Final = "Give either `owner` or `token`: with both, or with neither, the answer is 400."
"""OpenAPI has no words for two parameters that exclude each other."""
_IN_THE_BODY: Final = (
    "Deprecated, as logs of proxies keep the token: `POST /api/admin/devices/remove` takes it in the body."
)


_GONE: Final = 410
"""The status that goes with a reason that was kept without one."""


class DeviceView(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One registration. Deliveries have found out what begins with `learned_`.

    `complaint` is what its provider answers for this device alone, first said at `complaint_since`; it goes when a push
    is taken for the device.
    """

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
    complaint: str | UnsetType = UNSET
    complaint_since: str | UnsetType = UNSET


class RemovalView(Struct, frozen=True):
    """A registration that was removed: when, and why."""

    device: DeviceView
    removed_at: str
    reason: str
    quarantined: bool


class GoneView(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A registration that was removed: when, why, and what can be done."""

    device: DeviceView
    removed_at: str
    reason: str
    quarantined: bool
    explanation: Explanation
    account: str | UnsetType = UNSET


class Found(Struct, frozen=True):
    """Registrations, and removed ones, newest first; at most `most` of each. `capped`: there are more of either."""

    devices: Annotated[list[DeviceView], Meta(max_length=MOST)]
    removed: Annotated[list[GoneView], Meta(max_length=MOST)]
    capped: bool
    most: int = MOST


class DeviceSearch(Struct, frozen=True, forbid_unknown_fields=True):
    """Either a user's devices, or a token's. Tokens are secret: they are not named in a URL."""

    owner: UUID | None = None
    device_token: Annotated[str, Meta(min_length=1)] | None = None


class DeviceChoice(Struct, frozen=True, forbid_unknown_fields=True):
    owner: UUID
    system: str
    device_token: Annotated[str, Meta(min_length=1)]


class RestoreRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The token whose removed registrations are restored."""

    device_token: str


class Restored(Struct, frozen=True):
    """How many registrations were restored."""

    restored: int


class DeviceRoutes(Shared):
    """The routes of `/api/admin/devices`."""

    def __init__(self, registry: Registry, rules: RuleBook, bodies: JsonBodies, max_tokens: int) -> None:
        self._registry = registry
        self._rules = rules
        self._bodies = bodies
        self._max_tokens = max_tokens

    def handlers(self) -> list[ControllerRouterHandler]:
        return [
            get(
                "/devices",
                **doc.admin(
                    "listDevices", "Registrations of a user, or of a token", description=_ONE_OF_TWO, is_capped=True
                ),
            )(self.list_devices),
            delete(
                "/devices",
                deprecated=True,
                **doc.admin("removeDevice", "Remove one registration", 404, description=_IN_THE_BODY),
            )(self.remove),
            get(
                "/devices/history",
                **doc.admin(
                    "deviceHistory", "Removed registrations, with reasons", description=_ONE_OF_TWO, is_capped=True
                ),
            )(self.history),
            post(
                "/devices/search",
                status_code=200,
                **doc.admin(
                    "searchDevices",
                    "Registrations of a user or a token, and what became of others",
                    413,
                    415,
                    body=FIND_DEVICES,
                ),
            )(self.search),
            post(
                "/devices/remove",
                status_code=204,
                **doc.admin("removeDeviceByToken", "Remove one registration", 404, 413, 415, body=REMOVE_DEVICE),
            )(self.remove_one),
            post(
                "/devices/restore",
                status_code=200,
                **doc.admin("restoreDevices", "Restore removed registrations of a token", 413, 415, body=RESTORE),
            )(self.restore),
        ]

    async def list_devices(self, owner: OWNER = None, token: TOKEN = None) -> Response[list[DeviceView]]:
        if (user := _one_of(owner, token)) is not None:
            devices = (await self._registry.devices_of((user,))).get(user, [])
        else:
            devices = await self._registered(token or "")
        return capped([self._view(device) for device in devices])

    async def remove(self, owner: FromQuery[UUID], system: SYSTEM, token: FromQuery[str]) -> None:
        if system not in self._rules:
            raise bad_input("?system", self._rules.must_be)
        try:
            stored = self._rules[system].token(token)
        except ValueError:
            found = False  # No token of this provider: nobody can have registered it.
        else:
            found = await self._registry.delete(UserId(str(owner)), system, stored, by_operator=True)
        if not found:
            raise RequestError(Kind.NOT_FOUND, "There is no such registration.")

    async def search(self, request: Request[Any, Any, Any]) -> Found:
        data = await self._bodies.read(request, DeviceSearch)
        if (data.owner is None) == (data.device_token is None):
            raise bad_input("$", "give either owner or device_token")
        if data.owner is not None:
            user = UserId(str(data.owner))
            devices = (await self._registry.devices_of((user,))).get(user, [])
            removed = await self._registry.history(owner=user)
        else:
            token = data.device_token or ""
            devices, removed = await self._registered(token), await self._removed(token)
        newest = sorted(removed, key=lambda one: one.removed_ms, reverse=True)[:MOST]
        return Found(
            [self._view(one) for one in devices[:MOST]],
            [self._gone(one) for one in newest],
            max(len(devices), len(removed)) > MOST,
        )

    async def remove_one(self, request: Request[Any, Any, Any]) -> None:
        data = await self._bodies.read(request, DeviceChoice)
        if data.system not in self._rules:
            raise bad_input("$.system", self._rules.must_be)
        await self.remove(data.owner, data.system, data.device_token)

    async def history(self, owner: OWNER = None, token: TOKEN = None) -> Response[list[RemovalView]]:
        if (user := _one_of(owner, token)) is not None:
            removals = await self._registry.history(owner=user)
        else:
            removals = await self._removed(token or "")
        found = [
            RemovalView(self._view(one.device), rfc3339(one.removed_ms), one.reason, one.quarantined)
            for one in removals
        ]
        return capped(found, newest_last=True)

    async def restore(self, request: Request[Any, Any, Any]) -> Restored:
        token = (await self._bodies.read(request, RestoreRequest)).device_token
        removed = {(one.device.provider, one.device.token): None for one in await self._removed(token)}
        return Restored(sum([await self._registry.restore(*one, self._max_tokens) for one in removed]))

    async def _registered(self, token: str) -> list[Device]:
        found = [device for form in self._rules.stored_tokens(token) for device in await self._registry.find(form)]
        return [device for device in found if self._rules.is_token_of(token, device)]

    async def _removed(self, token: str) -> list[Removal]:
        found = [one for form in self._rules.stored_tokens(token) for one in await self._registry.history(token=form)]
        return [removal for removal in found if self._rules.is_token_of(token, removal.device)]

    def _gone(self, removal: Removal) -> GoneView:
        return GoneView(
            device=self._view(removal.device),
            removed_at=rfc3339(removal.removed_ms),
            reason=removal.reason,
            quarantined=removal.quarantined,
            explanation=self._why_gone(removal),
            account=removal.account or UNSET,
        )

    def _why_gone(self, removal: Removal) -> Explanation:
        return of_removal(
            removal.reason,
            self._said(removal),
            quarantined=removal.quarantined,
            not_for_topic=removal.is_for_topic,
        )

    def _said(self, removal: Removal) -> Explanation | None:
        """What the provider meant, where it declared the token dead (`410 Unregistered`); None where the token is gone
        for another reason."""
        rules = self._rules.get(removal.device.provider)
        status, _, reason = removal.reason.partition(" ")
        if rules is None:
            return None
        said = rules.said(int(status), reason) if status.isdecimal() else rules.said(_GONE, removal.reason)
        return said if said is not None and said.code is not Code.REFUSED else None

    def _view(self, device: Device) -> DeviceView:
        rules = self._rules.get(device.provider)  # None: a provider that is not configured any more
        address: Mapping[str, Any] = {} if rules is None else rules.describe(device.address)
        return DeviceView(
            owner=device.owner,
            system=device.provider,
            device_token=device.token,
            registered_at=rfc3339(device.registered_us // 1000),
            last_success_at=UNSET if device.last_success_ms is None else rfc3339(device.last_success_ms),
            complaint=UNSET if device.complaint is None else device.complaint.reason,
            complaint_since=UNSET if device.complaint is None else rfc3339(device.complaint.since_ms),
            **{name: value for name, value in address.items() if name in DeviceView.__struct_fields__},
        )


def _one_of(owner: UUID | None, token: str | None) -> UserId | None:
    """The user; None where the token was given."""
    if (owner is None) == (token is None):
        raise bad_input("?owner", "give either owner or token")
    return None if owner is None else UserId(str(owner))
