"""Applications and projects alike: the state of each credential, and the provider's answer to it."""

from __future__ import annotations

from typing import Any

import structlog
from litestar import Request, Response, get, post
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler
from msgspec import UNSET, Struct, UnsetType

from tocsin.api import documentation as doc
from tocsin.api.capped import capped
from tocsin.api.control import DeliveryControl
from tocsin.api.json_body import JsonBodies
from tocsin.api.problems import Kind, RequestError
from tocsin.api.schemas import CHECK
from tocsin.api.shared import Shared
from tocsin.api.timestamps import rfc3339
from tocsin.domain.credentials import Check, Credential
from tocsin.providers.base import AccountStatus
from tocsin.providers.rules import RuleBook
from tocsin.store.ports import Store, WriteFailure

log = structlog.get_logger(__name__)


class CheckView(Struct, frozen=True):
    """What the provider answered when it was asked, in one sentence with the remedy."""

    at: str
    sandbox: bool
    ok: bool
    answer: str


class AccountView(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One credential, without its secrets. `kind` is absent where it cannot be used; `last_check` where it was
    not checked since it was put."""

    system: str
    account: str
    default: bool
    changed_at: str
    lanes: list[str]
    kind: str | UnsetType = UNSET
    key_id: str | UnsetType = UNSET
    expires_at: str | UnsetType = UNSET
    last_check: CheckView | UnsetType = UNSET


class CheckRequest(Struct, frozen=True, forbid_unknown_fields=True):
    sandbox: bool = False


class AccountRoutes(Shared):
    """The routes of `/api/admin/accounts`."""

    def __init__(self, store: Store, rules: RuleBook, bodies: JsonBodies, delivery: DeliveryControl) -> None:
        self._store = store
        self._rules = rules
        self._bodies = bodies
        self._delivery = delivery

    def handlers(self) -> list[ControllerRouterHandler]:
        return [
            get(
                "/accounts",
                **doc.admin("listAccounts", "The credentials of all applications and projects", is_capped=True),
            )(self.list_accounts),
            post(
                "/accounts/{system:str}/{account:str}/check",
                status_code=200,
                **doc.admin(
                    "checkAccount", "Ask the provider whether it accepts a credential", 404, 413, 415, body=CHECK
                ),
            )(self.check),
        ]

    async def list_accounts(self) -> Response[list[AccountView]]:
        used = self._delivery.accounts()
        found: list[AccountView] = []
        for name in self._rules:
            status = {one.account: one for one in used.get(name, ())}
            checks = await self._store.credentials.checks(name)
            found += [
                self._view(one, status.get(one.account), checks.get(one.account))
                for one in await self._store.credentials.of(name)
            ]
        return capped(found)

    async def check(self, request: Request[Any, Any, Any], system: FromPath[str], account: FromPath[str]) -> CheckView:
        data = await self._bodies.read(request, CheckRequest)
        known = {one.account: one for one in await self._store.credentials.of(system)}
        try:
            credential = known[account]
            checked = await self._delivery.check(system, account, sandbox=data.sandbox)
        except KeyError:
            raise RequestError(Kind.NOT_FOUND, "There is no credential of this account.") from None
        try:
            await self._store.credentials.note_check(credential, checked)
        except WriteFailure as error:
            log.warning("the answer to a check is not noted", system=system, account=account, error=str(error))
        return _check(checked)

    def _view(self, credential: Credential, used: AccountStatus | None, checked: Check | None) -> AccountView:
        expires_s = None if used is None else used.expires_s
        return AccountView(
            system=credential.provider,
            account=credential.account,
            default=credential.default,
            changed_at=rfc3339(credential.changed_ms),
            lanes=list(self._rules[credential.provider].lanes(credential.account)),
            kind=UNSET if used is None else used.kind,
            key_id=UNSET if used is None or not used.key_id else used.key_id,
            expires_at=UNSET if expires_s is None else rfc3339(int(expires_s * 1000)),
            last_check=UNSET if checked is None else _check(checked),
        )


def _check(checked: Check) -> CheckView:
    return CheckView(rfc3339(checked.at_ms), checked.sandbox, checked.ok, checked.sentence)
