"""Phones: in the demo, the virtual phones and what reaches them, as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final

from litestar import Response, get
from litestar.types import ControllerRouterHandler

from tocsin.console.emulator import EmulatorPhones, Screen
from tocsin.console.sessions import Session
from tocsin.console.site import UNCHANGED, AnyRequest, Pages, Site

_LOOK_EVERY_S: Final = 0.4


class PhonePages(Pages):
    """`/phones`, and the stream of their screens."""

    def __init__(self, site: Site, phones: EmulatorPhones) -> None:
        super().__init__(site)
        self._phones = phones

    def handlers(self) -> list[ControllerRouterHandler]:
        return [get("/phones")(self.show), get("/phones/live")(self.live)]

    async def show(self, request: AnyRequest) -> Response[Any]:
        return self._site.page(request, "phones.html", title="Phones", **_values(await self._phones.screens()))

    async def live(self, request: AnyRequest) -> Response[Any]:
        async def parts(session: Session) -> AsyncIterator[str]:
            before = None
            while True:
                screens = await self._phones.screens()
                if screens != before:
                    before = screens
                    yield self._site.renderer.render("parts/phones.html", **_values(screens))
                else:
                    yield UNCHANGED
                await asyncio.sleep(_LOOK_EVERY_S)

        return self._site.stream(request, parts)


def _values(screens: list[Screen]) -> dict[str, Any]:
    users: dict[tuple[str, str], list[Screen]] = {}
    for screen in screens:
        users.setdefault((screen.phone.user, screen.phone.owner), []).append(screen)
    times = {
        one.time: datetime.fromtimestamp(one.time, UTC).isoformat(timespec="milliseconds")
        for screen in screens
        for one in screen.notifications
    }
    return {"users": users, "times": times}
