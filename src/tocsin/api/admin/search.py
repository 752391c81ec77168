"""Looking for deliveries, and one event's whole story."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal
from uuid import UUID

from litestar import Request, get, post
from litestar.params import FromPath, QueryParameter
from litestar.types import ControllerRouterHandler

from tocsin.api import documentation as doc
from tocsin.api.admission import caller_of
from tocsin.api.control import DeliveryControl
from tocsin.api.delivery_search import SearchAnswer, SearchRequest, search, unknown_name
from tocsin.api.json_body import JsonBodies
from tocsin.api.lane_views import lanes_everywhere
from tocsin.api.problems import Kind, RequestError, bad_input
from tocsin.api.schemas import SEARCH
from tocsin.api.shared import Shared
from tocsin.api.timeline import Around, Timeline, timeline
from tocsin.api.timestamps import rfc3339
from tocsin.domain.cluster import unserved_since_ms
from tocsin.domain.events import EventId
from tocsin.domain.nodes import NodeStatus
from tocsin.providers.rules import RuleBook
from tocsin.store.ports import SearchUnavailable, Store, UnknownCursor

INCLUDE = Annotated[
    Literal["content"] | None,
    QueryParameter(description="`content`: with the text of a message, which is hidden otherwise"),
]


class SearchRoutes(Shared):
    """The routes of `/api/admin/deliveries` and `/api/admin/events`."""

    def __init__(self, store: Store, rules: RuleBook, bodies: JsonBodies, delivery: DeliveryControl) -> None:
        self._store = store
        self._rules = rules
        self._bodies = bodies
        self._delivery = delivery

    def handlers(self) -> list[ControllerRouterHandler]:
        return [
            post(
                "/deliveries/search",
                status_code=200,
                **doc.admin("searchDeliveries", "Search deliveries", 413, 415, body=SEARCH),
            )(self.search),
            get("/events/{event_id:uuid}", **doc.admin("readTimeline", "An event's timeline, device by device", 404))(
                self.timeline
            ),
        ]

    async def search(self, request: Request[Any, Any, Any]) -> SearchAnswer:
        data = await self._bodies.read(request, SearchRequest)
        if unknown := unknown_name(self._rules, data.system, data.message):
            raise bad_input(f"$.{unknown[0]}", unknown[1])
        try:
            return await search(self._store, self._rules, data)
        except UnknownCursor as error:
            raise bad_input("$.start", str(error)) from None
        except SearchUnavailable as error:
            raise RequestError(Kind.STORE_UNAVAILABLE, f"{str(error)[:1].upper()}{str(error)[1:]}.") from None

    async def timeline(
        self, request: Request[Any, Any, Any], event_id: FromPath[UUID], include: INCLUDE = None
    ) -> Timeline:
        if include == "content":
            _check_may_read_content(request)
        record = await self._store.log.record(EventId(str(event_id)))
        if record is None:
            raise RequestError(Kind.NOT_FOUND, "No such event: it was never accepted, or its retention has ended.")
        nodes, now_ms = await self._store.nodes(), self._store.now_ms()
        around = Around(
            rules=self._rules,
            now_ms=now_ms,
            lanes={lane.name: lane for lane in lanes_everywhere(self._delivery, nodes, now_ms)},
            unserved_since=self._unserved_since(nodes, now_ms),
            preview=self._delivery.preview,
            shows_content=include == "content",
        )
        return await timeline(self._store, record, around)

    def _unserved_since(self, nodes: Sequence[NodeStatus], now_ms: int) -> str | None:
        """See `explanations.Facts`."""
        since_ms = unserved_since_ms(nodes, self._delivery.node, self._delivery.delivers, now_ms)
        return since_ms if since_ms is None else rfc3339(since_ms) if since_ms else ""


def _check_may_read_content(request: Request[Any, Any, Any]) -> None:
    """What users write is for nobody whose key is for a part of the operation alone."""
    key = caller_of(request.scope).key
    if key is not None and key.limits.areas:
        detail = (
            f"The text of a message needs an admin key without areas; this key is for"
            f" {' and '.join(sorted(key.limits.areas))}."
        )
        raise RequestError(Kind.OTHER_AREA, detail)
