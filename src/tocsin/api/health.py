"""Liveness, readiness and metrics, for probes: they need no key, and have no data of any user."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get
from litestar.openapi import ResponseSpec
from litestar.types import ControllerRouterHandler
from msgspec import Struct
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from tocsin.api.auth import header
from tocsin.api.control import DeliveryControl
from tocsin.domain.routes import LaneState


class Live(Struct, frozen=True):
    """The process lives."""

    status: str = "live"


class LaneHealth(Struct, frozen=True):
    """The state of one lane; `reason` says why it is not running."""

    name: str
    state: LaneState
    reason: str


class Ready(Struct, frozen=True):
    """Ready where there are no problems; each problem is a sentence."""

    ready: bool
    problems: list[str]
    lanes: list[LaneHealth]


class HealthRoutes:
    """The routes of `/health`, and `/metrics`."""

    def __init__(self, delivery: DeliveryControl, metrics: CollectorRegistry | None) -> None:
        self._delivery = delivery
        self._metrics = metrics

    def handlers(self) -> list[ControllerRouterHandler]:
        handlers: list[ControllerRouterHandler] = [
            get("/health/live", operation_id="live", tags=["health"], summary="Whether the process lives")(self.live),
            get(
                "/health/ready",
                operation_id="ready",
                tags=["health"],
                summary="Whether it accepts and delivers: 200, or 503 and why not",
                responses={503: ResponseSpec(Ready, False, "Not ready: `problems` says why.")},
            )(self.ready),
        ]
        if self._metrics is not None:
            handlers.append(get("/metrics", include_in_schema=False)(self.exposition))
        return handlers

    async def live(self) -> Live:
        return Live()

    async def ready(self) -> Response[Ready]:
        problems = self._delivery.problems()
        lanes = [LaneHealth(lane.name, lane.state, lane.reason) for lane in self._delivery.lanes()]
        return Response(
            Ready(not problems, problems, lanes),
            status_code=503 if problems else 200,
            headers={"cache-control": "no-store"},
        )

    async def exposition(self, request: Request[Any, Any, Any]) -> Response[bytes]:
        assert self._metrics is not None
        accept = header(request.scope, b"accept") or b""
        encode, media_type = choose_encoder(accept.decode("latin-1"))
        return Response(encode(self._metrics), media_type=media_type)
