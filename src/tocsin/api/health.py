"""Liveness, readiness and metrics. They have no data of any user. Strangers are told whether the service is ready, and
nothing else."""

from __future__ import annotations

from typing import Any, Final

from litestar import Request, Response, get
from litestar.openapi import ResponseSpec
from litestar.types import ControllerRouterHandler
from msgspec import UNSET, Struct, UnsetType
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from tocsin.api.admission import Admission
from tocsin.api.auth import header
from tocsin.api.control import DeliveryControl
from tocsin.api.documentation import ANYBODY_OR_MONITORING
from tocsin.api.needs import NEEDS
from tocsin.domain.routes import LaneState

READY: Final = "/health/ready"


class Live(Struct, frozen=True):
    """The process lives."""

    status: str = "live"


class LaneHealth(Struct, frozen=True):
    """The state of one lane; `reason` says why it is not running."""

    name: str
    state: LaneState
    reason: str


class Ready(Struct, frozen=True, omit_defaults=True):
    """Ready where there are no problems. Each problem is a sentence; `notes` say what is wrong beside, such as a source
    of events that cannot be reached. These and the lanes are told to those who may know (an admin or monitoring
    key)."""

    ready: bool
    problems: list[str] | UnsetType = UNSET
    lanes: list[LaneHealth] | UnsetType = UNSET
    notes: list[str] | UnsetType = UNSET


class HealthRoutes:
    """The routes of `/health`, and `/metrics`. Without `admission` everybody who can reach them is told everything."""

    def __init__(
        self, delivery: DeliveryControl, metrics: CollectorRegistry | None, admission: Admission | None
    ) -> None:
        self._delivery = delivery
        self._metrics = metrics
        self._admission = admission

    def handlers(self) -> list[ControllerRouterHandler]:
        handlers: list[ControllerRouterHandler] = [
            get("/health/live", operation_id="live", tags=["health"], summary="Whether the process lives")(self.live),
            get(
                READY,
                operation_id="ready",
                tags=["health"],
                summary="Whether it accepts and delivers: 200, or 503; with a key, also why not",
                security=ANYBODY_OR_MONITORING,
                responses={503: ResponseSpec(Ready, False, "Not ready.")},
            )(self.ready),
        ]
        if self._metrics is not None:
            handlers.append(get("/metrics", include_in_schema=False)(self.exposition))
        return handlers

    async def live(self) -> Live:
        return Live()

    async def ready(self, request: Request[Any, Any, Any]) -> Response[Ready]:
        problems = self._delivery.problems()
        answer = Ready(not problems)
        if self._admission is None or await self._admission.is_told_more(request.scope, NEEDS["GET", READY]):
            lanes = [LaneHealth(lane.name, lane.state, lane.reason) for lane in self._delivery.lanes()]
            answer = Ready(not problems, problems, lanes, self._delivery.notes() or UNSET)
        return Response(answer, status_code=503 if problems else 200, headers={"cache-control": "no-store"})

    async def exposition(self, request: Request[Any, Any, Any]) -> Response[bytes]:
        assert self._metrics is not None
        accept = header(request.scope, b"accept") or b""
        encode, media_type = choose_encoder(accept.decode("latin-1"))
        return Response(encode(self._metrics), media_type=media_type)
