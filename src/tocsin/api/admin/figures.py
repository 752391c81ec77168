"""How tocsin is doing, in figures: once, or as a stream of server-sent events.

Source of the stream's form: WHATWG, "HTML", Server-sent events.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgspec
from litestar import Request, Response, get
from litestar.response import Stream
from litestar.types import ControllerRouterHandler
from msgspec import UNSET, Struct, UnsetType

from tocsin import __version__
from tocsin.api import documentation as doc
from tocsin.api.admission import caller_of
from tocsin.api.auth import bearer
from tocsin.api.capped import capped
from tocsin.api.control import DeliveryControl, Latency
from tocsin.api.lane_views import LaneView, NodeView, lane_view, lanes_everywhere, node_view
from tocsin.api.problems import Kind, RequestError
from tocsin.api.shared import Shared
from tocsin.api.timestamps import rfc3339
from tocsin.domain.cluster import oldest_ms, others, unserved_since_ms
from tocsin.domain.nodes import NodeStatus
from tocsin.providers.rules import RuleBook
from tocsin.store.counted import Counted
from tocsin.store.ports import Store, WriteFailure
from tocsin.store.records import WholeBacklog

MOST_STREAMS: Final = 20
MOST_STREAMS_OF_A_KEY: Final = 8
_EVERY_S: Final = 1.0
_RETRY_AFTER_S: Final = 10
_KEPT_S: Final = 0.5
"""So long is what was read from the store good for every stream."""
_encode = msgspec.json.Encoder().encode


class PerSecond(Struct, frozen=True):
    """`sent`: taken by the provider; `failed`: attempts that ended otherwise."""

    accepted: float
    sent: float
    failed: float


class Totals(Struct, frozen=True):
    """Since each of the nodes started."""

    accepted: int
    sent: int
    failed: int


class BacklogView(Struct, frozen=True):
    """What is accepted and not settled for good."""

    events: int
    size_bytes: int
    oldest_at: str | None
    oldest_s: float | None


class MomentView(Struct, frozen=True):
    """One second."""

    at: str
    accepted: float
    sent: float
    failed: float
    backlog: int
    p99_ms: float | None


class FiguresView(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """All nodes, as this process knows them. The rates, the totals, the latency and the history are of the nodes in
    `of_nodes` together; `version` and `problems` are this process's. `history` has a moment for each second, the oldest
    first."""

    at: str
    version: str
    window_s: int
    per_second: PerSecond
    totals: Totals
    latency_ms: Latency
    backlog: BacklogView
    dead_letters: int
    quarantined: list[str]
    lanes: list[LaneView]
    nodes: list[NodeView]
    problems: list[str]
    of_nodes: list[str] = []
    history: list[MomentView] | UnsetType = UNSET


class FigureRoutes(Shared):
    """The routes of `/api/admin/figures`, `/api/admin/lanes` and `/api/admin/nodes`."""

    def __init__(self, store: Store, rules: RuleBook, delivery: DeliveryControl) -> None:
        self._store = store
        self._rules = rules
        self._delivery = delivery
        self._streams: Counter[str] = Counter()
        """How many there are of each key, by its id."""
        self._last: tuple[float, FiguresView] | None = None
        self._dead_letters = Counted(lambda: store.log.count_dead_letters())
        self._unserved = Counted(lambda: store.queue.whole_backlog())

    def handlers(self) -> list[ControllerRouterHandler]:
        return [
            get("/figures", **doc.admin("readFigures", "Rates, latency, backlog, lanes and nodes"))(self.figures),
            get(
                "/figures/stream",
                media_type="text/event-stream",
                **doc.admin("streamFigures", "The same each second, as server-sent events"),
            )(self.stream),
            get("/lanes", **doc.admin("listLanes", "The status of each lane", is_capped=True))(self.lanes),
            get("/nodes", **doc.admin("listNodes", "Every process of tocsin, and its lanes", is_capped=True))(
                self.nodes
            ),
        ]

    async def lanes(self) -> Response[list[LaneView]]:
        return capped(self._lanes(await self._store.nodes()))

    async def nodes(self) -> Response[list[NodeView]]:
        return capped(self._nodes(await self._store.nodes()))

    def _lanes(self, nodes: Sequence[NodeStatus]) -> list[LaneView]:
        now_ms = self._store.now_ms()
        lanes = lanes_everywhere(self._delivery, nodes, now_ms)
        return [lane_view(lane, self._rules, now_ms) for lane in lanes]

    def _nodes(self, nodes: Sequence[NodeStatus]) -> list[NodeView]:
        now_ms = self._store.now_ms()
        return [node_view(node, self._rules, now_ms) for node in nodes]

    async def figures(self) -> FiguresView:
        history = [
            MomentView(rfc3339(one.at_ms), one.accepted, one.sent, one.failed, one.backlog, one.p99_ms)
            for one in self._delivery.history()
        ]
        return msgspec.structs.replace(await self._now(), history=history)

    async def stream(self, request: Request[Any, Any, Any]) -> Stream:
        key, secret = caller_of(request.scope).key, bearer(request.scope)
        assert key is not None
        assert secret is not None
        if self._streams[key.id] >= MOST_STREAMS_OF_A_KEY:
            detail = f"This key has {MOST_STREAMS_OF_A_KEY} streams already. Close one, or use another key."
            raise RequestError(Kind.THROTTLED, detail, retry_after_s=_RETRY_AFTER_S)
        if self._streams.total() >= MOST_STREAMS:
            detail = f"There are {MOST_STREAMS} streams already. Close one, or ask for /api/admin/figures instead."
            raise RequestError(Kind.OVERLOADED, detail, retry_after_s=_RETRY_AFTER_S)
        return Stream(
            self._events(key.id, secret), media_type="text/event-stream", headers={"cache-control": "no-store"}
        )

    async def _events(self, key_id: str, secret: str) -> AsyncIterator[bytes]:
        """Until the key is not valid any more."""
        self._streams[key_id] += 1
        try:
            while True:
                try:
                    if await self._store.access.key(secret) is None:
                        return
                    yield b"event: figures\ndata: " + _encode(await self._now()) + b"\n\n"
                except WriteFailure:
                    yield b": the store cannot be read at present\n\n"
                await asyncio.sleep(_EVERY_S)
        finally:
            self._streams[key_id] -= 1
            self._streams += Counter()  # Forgets the keys that have none.

    async def _now(self) -> FiguresView:
        now = asyncio.get_running_loop().time()
        if self._last is None or now - self._last[0] > _KEPT_S:
            self._last = (now, await self._read())
        return self._last[1]

    async def _backlog(self, nodes: Sequence[NodeStatus], now_ms: int) -> BacklogView:
        """Of all nodes together. Where none delivers, nobody knows it: the store is read, which may take long."""
        queue, delivery = self._store.queue, self._delivery
        if unserved_since_ms(nodes, delivery.node, delivery.delivers, now_ms) is None:
            backlog = await queue.backlog()
            oldest = oldest_ms(await queue.oldest_ms(), others(nodes, delivery.node, now_ms))
            whole = WholeBacklog(backlog.events, backlog.size_bytes, oldest)
        else:
            whole = await self._unserved.get()
        return BacklogView(
            whole.events,
            whole.size_bytes,
            None if whole.oldest_ms is None else rfc3339(whole.oldest_ms),
            None if whole.oldest_ms is None else round(max(0.0, (now_ms - whole.oldest_ms) / 1000), 1),
        )

    async def _read(self) -> FiguresView:
        store, figures = self._store, self._delivery.figures()
        nodes, now_ms = await store.nodes(), store.now_ms()
        return FiguresView(
            at=rfc3339(now_ms),
            version=__version__,
            window_s=figures.window_s,
            per_second=PerSecond(figures.accepted_per_s, figures.sent_per_s, figures.failed_per_s),
            totals=Totals(figures.accepted, figures.sent, figures.failed),
            latency_ms=figures.latency,
            backlog=await self._backlog(nodes, now_ms),
            dead_letters=await self._dead_letters.get(),
            quarantined=sorted({account for _, account in await store.registry.quarantined_accounts()}),
            lanes=self._lanes(nodes),
            nodes=self._nodes(nodes),
            problems=self._delivery.problems(),
            of_nodes=figures.nodes,
        )
