"""Quarantine: tokens that were declared dead in suspicious numbers, until somebody decides."""

from __future__ import annotations

from typing import Any

from litestar import Response, get
from litestar.types import ControllerRouterHandler

from tocsin.console.records import Quarantined
from tocsin.console.site import AnyRequest, Pages


class QuarantinePages(Pages):
    """`/quarantine`. Release and purge are jobs."""

    def handlers(self) -> list[ControllerRouterHandler]:
        return [get("/quarantine")(self.show)]

    async def show(self, request: AnyRequest) -> Response[Any]:
        key = self._site.session(request).key
        held = await self._site.api.get(key, "/quarantine", list[Quarantined])
        return self._site.page(request, "quarantine.html", title="Quarantine", held=held)
