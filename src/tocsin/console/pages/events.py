"""One event as a timeline: every attempt at every device, what the provider said, and what comes next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import UUID

from litestar import Response, get
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler

from tocsin.console.admin_api import ApiError
from tocsin.console.records import EventTimeline
from tocsin.console.sessions import Session
from tocsin.console.site import UNCHANGED, AnyRequest, Pages, see

_LOOK_EVERY_S: Final = 0.4
_LOOK_SLOWLY_S: Final = 2.0
_QUICK_LOOKS: Final = 50
_AFTER_THE_END_S: Final = 10.0


class EventPages(Pages):
    """`/events/{id}`, and the stream of its timeline."""

    def handlers(self) -> list[ControllerRouterHandler]:
        return [
            get("/events")(self.find),
            get("/events/{event_id:uuid}")(self.show),
            get("/events/{event_id:uuid}/live")(self.live),
        ]

    async def find(self, request: AnyRequest) -> Response[Any]:
        """From the form that asks for an id."""
        try:
            event_id = UUID(request.query_params.get("id", "").strip())
        except ValueError:
            self._site.session(request).say("An event's id is a UUID, as POST /api/events answers it.", bad=True)
            return see("/deliveries")
        return see(f"/events/{event_id}")

    async def show(self, request: AnyRequest, event_id: FromPath[UUID]) -> Response[Any]:
        shown = request.query_params.get("content") == "shown"
        key = self._site.session(request).key
        try:
            event = await self._read(key, event_id, shown=shown)
        except ApiError as error:
            if error.status == 403 and shown:
                self._site.session(request).say("Your key may not see the content of events.", bad=True)
                return see(f"/events/{event_id}")
            if error.status != 404:
                raise
            return self._site.page(request, "no_event.html", status=404, title="No such event", event_id=str(event_id))
        return self._site.page(request, "event.html", title="Event", event=event, shown=shown)

    async def live(self, request: AnyRequest, event_id: FromPath[UUID]) -> Response[Any]:
        shown = request.query_params.get("content") == "shown"

        async def parts(session: Session) -> AsyncIterator[str]:
            before, looks, ended_for_s = None, 0, 0.0
            while ended_for_s < _AFTER_THE_END_S:
                event = await self._read(session.key, event_id, shown=shown)
                if event != before:
                    before, looks = event, 0
                    yield self._site.renderer.render("parts/event.html", event=event, shown=shown)
                else:
                    yield UNCHANGED
                looks += 1
                pause_s = _LOOK_EVERY_S if looks < _QUICK_LOOKS else _LOOK_SLOWLY_S
                ended_for_s = ended_for_s + pause_s if event.ended else 0.0
                await asyncio.sleep(pause_s)

        return self._site.stream(request, parts)

    async def _read(self, key: str, event_id: UUID, *, shown: bool) -> EventTimeline:
        include = "content" if shown else None
        return await self._site.api.get(key, f"/events/{event_id}", EventTimeline, include=include)
