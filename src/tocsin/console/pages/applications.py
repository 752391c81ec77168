"""Applications: the credentials for Apple and Google, whether they are accepted, and putting in others."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from litestar import Response, get, post
from litestar.datastructures import FormMultiDict, UploadFile
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler

from tocsin.console.admin_api import ApiError, both
from tocsin.console.attention import credential_tones
from tocsin.console.records import Account, Anything, Check, Lane
from tocsin.console.site import AnyRequest, Pages, see, text_of

_SYSTEMS: Final = ("apns", "fcm")
_KEY_FILE: Final = re.compile(r"AuthKey_([A-Z0-9]{10})\.p8")
_LARGEST_FILE: Final = 64 * 1024


class ApplicationPages(Pages):
    """`/applications`."""

    def handlers(self) -> list[ControllerRouterHandler]:
        one = "/applications/{system:str}/{account:str}"
        return [
            get("/applications")(self.index),
            get("/applications/new/{system:str}")(self.new),
            post("/applications/new/{system:str}", status_code=303)(self.add),
            get(one)(self.show),
            post(one, status_code=303)(self.replace),
            post(f"{one}/check", status_code=303)(self.check),
            get(f"{one}/remove")(self.confirm_removal),
            post(f"{one}/remove", status_code=303)(self.remove),
        ]

    async def index(self, request: AnyRequest) -> Response[Any]:
        key = self._site.session(request).key
        accounts, lanes = await both(
            self._site.api.get(key, "/accounts", list[Account]),
            self._site.api.get_if_allowed(key, "/lanes", list[Lane]),
        )
        return self._site.page(
            request,
            "applications.html",
            title="Applications",
            accounts=accounts,
            tones=credential_tones(accounts, datetime.now(UTC)),
            lanes=_by_account(lanes),
        )

    async def new(self, request: AnyRequest, system: FromPath[str]) -> Response[Any]:
        return self._new(request, system)

    async def show(self, request: AnyRequest, system: FromPath[str], account: FromPath[str]) -> Response[Any]:
        return await self._show(request, system, account)

    async def add(self, request: AnyRequest, system: FromPath[str]) -> Response[Any]:
        account = text_of(await request.form(), "account")
        if not account:
            return self._new(request, system, status=400, errors={"account": "Is needed."})
        errors = await self._put(request, system, account)
        return self._new(request, system, status=400, errors=errors) if errors else see(_page(system, account))

    async def replace(self, request: AnyRequest, system: FromPath[str], account: FromPath[str]) -> Response[Any]:
        errors = await self._put(request, system, account)
        if errors:
            return await self._show(request, system, account, status=400, errors=errors)
        return see(_page(system, account))

    async def check(self, request: AnyRequest, system: FromPath[str], account: FromPath[str]) -> Response[Any]:
        sandbox = text_of(await request.form(), "environment") == "sandbox"
        await self._check(request, system, account, sandbox=sandbox)
        return see(_page(system, account))

    async def confirm_removal(
        self, request: AnyRequest, system: FromPath[str], account: FromPath[str]
    ) -> Response[Any]:
        found = await self._find(self._site.session(request).key, system, account)
        return self._site.page(request, "application_remove.html", title="Remove a credential", account=found)

    async def remove(self, request: AnyRequest, system: FromPath[str], account: FromPath[str]) -> Response[Any]:
        session = self._site.session(request)
        await self._site.api.delete(session.key, _path(system, account))
        session.say(f"{account} was removed. What is for it waits until it is added again, or expires.")
        return see("/applications")

    async def _put(self, request: AnyRequest, system: str, account: str) -> dict[str, str]:
        """Write the credential of the form, and ask the provider about it. Returns what is wrong, by field."""
        session, form = self._site.session(request), await request.form()
        try:
            body = await (_apns_body(form) if system == "apns" else _fcm_body(form))
            await self._site.api.put(session.key, _path(system, account), body, Anything)
        except ValueError as error:
            return {"": str(error)}
        except ApiError as error:
            if error.status not in (400, 413):
                raise
            return _by_field(error)
        session.say(f"{account}: saved. Lanes that waited for it go on.")
        await self._check(request, system, account, sandbox=False)
        return {}

    async def _check(self, request: AnyRequest, system: str, account: str, *, sandbox: bool) -> None:
        session = self._site.session(request)
        path = f"/accounts/{system}/{quote(account, safe='')}/check"
        try:
            check = await self._site.api.post(session.key, path, {"sandbox": sandbox}, Check)
        except ApiError as error:
            if error.key_refused or error.unreachable:
                raise
            session.say(str(error), bad=True)
        else:
            session.say(check.answer, bad=not check.ok)

    async def _show(
        self, request: AnyRequest, system: str, account: str, *, status: int = 200, errors: dict[str, str] | None = None
    ) -> Response[Any]:
        key = self._site.session(request).key
        found, lanes = await both(
            self._find(key, system, account), self._site.api.get_if_allowed(key, "/lanes", list[Lane])
        )
        return self._site.page(
            request,
            "application.html",
            status=status,
            title=account,
            account=found,
            lanes=_by_account(lanes).get((system, account), []),
            errors=errors or {},
        )

    def _new(
        self, request: AnyRequest, system: str, *, status: int = 200, errors: dict[str, str] | None = None
    ) -> Response[Any]:
        if system not in _SYSTEMS:
            raise ApiError(404, "not-found", "There is no such kind of application.")
        title = "Add an application" if system == "apns" else "Add a Firebase project"
        return self._site.page(
            request, "application_new.html", status=status, title=title, system=system, errors=errors or {}
        )

    async def _find(self, key: str, system: str, account: str) -> Account:
        for one in await self._site.api.get(key, "/accounts", list[Account]):
            if (one.system, one.account) == (system, account):
                return one
        raise ApiError(404, "not-found", f"{account} is not registered. It may have been removed.")


def _by_account(lanes: list[Lane] | None) -> dict[tuple[str, str], list[Lane]]:
    found: dict[tuple[str, str], list[Lane]] = {}
    for lane in lanes or ():
        found.setdefault((lane.provider, lane.account), []).append(lane)
    return found


def _page(system: str, account: str) -> str:
    return f"/applications/{system}/{quote(account, safe='')}"


def _path(system: str, account: str) -> str:
    """Where the admin API has the credential."""
    collection = "applications" if system == "apns" else "fcm-projects"
    return f"/{collection}/{quote(account, safe='')}"


async def _apns_body(form: FormMultiDict) -> dict[str, Any]:
    certificate, _ = await _content(form, "certificate_pem")
    key, file_name = await _content(form, "key_pem")
    if certificate:
        if key:
            raise ValueError("Give either a key or a certificate.")
        return {"certificate_pem": certificate}
    if not key:
        raise ValueError("Choose the key's file (.p8), or a certificate with its private key (.pem).")
    named = _KEY_FILE.fullmatch(file_name)
    return {"key_pem": key, "key_id": text_of(form, "key_id") or (named.group(1) if named else "")}


async def _fcm_body(form: FormMultiDict) -> dict[str, Any]:
    content, _ = await _content(form, "service_account")
    if not content:
        raise ValueError("Choose the service account's file (JSON), as downloaded from Google.")
    try:
        account = json.loads(content)
    except (ValueError, RecursionError):
        account = None
    if not isinstance(account, dict):
        raise ValueError("The service account is not a JSON object; use the file as downloaded from Google.")
    return {"service_account": account, "default": text_of(form, "default") == "yes"}


async def _content(form: FormMultiDict, name: str) -> tuple[str, str]:
    """The text of a file, or what was pasted instead; and the file's name."""
    for value in form.getall(name, []):
        if isinstance(value, UploadFile):
            content = await value.read(_LARGEST_FILE + 1)
            if len(content) > _LARGEST_FILE:
                raise ValueError("The file is larger than 64 KiB: it is no credential.")
            if content.strip():
                try:
                    return content.decode(), value.filename
                except UnicodeDecodeError:
                    raise ValueError(
                        "The file is not text. For a .p12 file use `tocsin app add`, or convert it to PEM."
                    ) from None
        elif value.strip():
            return value, ""
    return "", ""


def _by_field(error: ApiError) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in error.errors:
        name = {"{application_id}": "account", "{name}": "account"}.get(one.at, one.at.removeprefix("$").lstrip("."))
        found[name if name in ("account", "key_pem", "key_id", "certificate_pem", "service_account") else ""] = (
            one.reason
        )
    return found or {"": str(error)}
