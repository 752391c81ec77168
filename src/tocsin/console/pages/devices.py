"""Devices: what a user has registered, what is gone and why, and bringing it back."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from litestar import Response, get, post
from litestar.types import ControllerRouterHandler

from tocsin.console.admin_api import ApiError
from tocsin.console.formats import plural
from tocsin.console.records import Devices, Restored
from tocsin.console.searching import hold
from tocsin.console.site import AnyRequest, Pages, own_path, see, text_of


class DevicePages(Pages):
    """`/devices`."""

    def handlers(self) -> list[ControllerRouterHandler]:
        return [
            get("/devices")(self.show),
            post("/devices", status_code=303)(self.search),
            post("/devices/restore", status_code=303)(self.restore),
            post("/devices/remove", status_code=303)(self.remove),
        ]

    async def search(self, request: AnyRequest) -> Response[Any]:
        """A UUID is a user; anything else a token, which stays out of the address."""
        asked = text_of(await request.form(), "asked")
        if not asked:
            return see("/devices")
        if _is_user(asked):
            return see(f"/devices?owner={UUID(asked)}")
        return see(f"/devices?device={hold(self._site.session(request), asked)}")

    async def show(self, request: AnyRequest) -> Response[Any]:
        session = self._site.session(request)
        owner, name = request.query_params.get("owner", ""), request.query_params.get("device", "")
        token = session.held.get(name, "")
        found, wrong = None, ""
        if name and not token:
            wrong = "Search for the token again: after a while the console forgets it."
        if owner or token:
            try:
                asked = {"owner": owner} if owner else {"device_token": token}
                found = await self._site.api.post(session.key, "/devices/search", asked, Devices)
            except ApiError as error:
                if error.status != 400:
                    raise
                wrong = "A user is a UUID." if owner else str(error)
        return self._site.page(
            request,
            "devices.html",
            status=400 if wrong else 200,
            title="Devices",
            owner=owner,
            token=token,
            found=found,
            wrong=wrong,
        )

    async def restore(self, request: AnyRequest) -> Response[Any]:
        form, session = await request.form(), self._site.session(request)
        asked = {"device_token": text_of(form, "device_token")}
        restored = (await self._site.api.post(session.key, "/devices/restore", asked, Restored)).restored
        if restored:
            session.say(f"{plural(restored, 'registration')} restored. It gets pushes again.")
        else:
            session.say(
                "Nothing was restored: its user has deleted it, registered it again, or has as many as allowed.",
                bad=True,
            )
        return see(own_path(text_of(form, "here"), "/devices"))

    async def remove(self, request: AnyRequest) -> Response[Any]:
        form, session = await request.form(), self._site.session(request)
        asked = {name: text_of(form, name) for name in ("owner", "system", "device_token")}
        try:
            await self._site.api.order(session.key, "/devices/remove", asked)
            session.say("The device was removed. Pushes to it have stopped.")
        except ApiError as error:
            if error.status != 404:
                raise
            session.say("It is not registered any more; nothing was changed.", bad=True)
        return see(own_path(text_of(form, "here"), "/devices"))


def _is_user(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
