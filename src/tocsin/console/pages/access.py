"""Keys and sessions: who may call, and taking that away. Secrets are shown nowhere: whoever makes one has it."""

from __future__ import annotations

import re
from typing import Any, Final
from uuid import UUID

from litestar import Response, get, post
from litestar.types import ControllerRouterHandler

from tocsin.console.admin_api import ApiError
from tocsin.console.records import AccessKey, UserSessions
from tocsin.console.site import AnyRequest, Pages, own_path, see, text_of

_KINDS: Final = {"key": "/keys", "session": "/sessions"}
_ID: Final = re.compile(r"(?:key|ses)_[0-9a-f]{1,64}")


class AccessPages(Pages):
    """`/access`."""

    def handlers(self) -> list[ControllerRouterHandler]:
        return [get("/access")(self.show), post("/access/revoke", status_code=303)(self.revoke)]

    async def show(self, request: AnyRequest) -> Response[Any]:
        key = self._site.session(request).key
        owner, wrong, of_user = request.query_params.get("owner", "").strip(), "", None
        keys = await self._site.api.get(key, "/keys", list[AccessKey])
        if owner:
            try:
                of_user = await self._site.api.get(key, "/sessions", UserSessions, owner=str(UUID(owner)))
            except ValueError:
                wrong = "A user is a UUID."
        return self._site.page(
            request,
            "access.html",
            status=400 if wrong else 200,
            title="Keys and sessions",
            keys=sorted(keys, key=lambda one: one.created_at, reverse=True),
            owner=owner,
            of_user=of_user,
            wrong=wrong,
        )

    async def revoke(self, request: AnyRequest) -> Response[Any]:
        form, session = await request.form(), self._site.session(request)
        kind, id = text_of(form, "kind"), text_of(form, "id")
        here = own_path(text_of(form, "here"), "/access")
        if kind not in _KINDS or not _ID.fullmatch(id):
            raise ApiError(400, "bad-input", "That is neither a key nor a session.")
        try:
            await self._site.api.delete(session.key, f"{_KINDS[kind]}/{id}")
            session.say(f"The {kind} {id} is revoked. Whoever has it is refused from now on.")
        except ApiError as error:
            if error.status != 404:
                raise
            session.say(f"There is no {kind} {id} any more; nothing was changed.", bad=True)
        return see(here)
