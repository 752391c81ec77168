"""`/api/events`: the platform's backends hand in events, and ask what became of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final
from uuid import UUID

import msgspec
from litestar import Request, get, post
from litestar.params import FromPath
from litestar.response.base import ASGIResponse
from litestar.types import ControllerRouterHandler, HTTPScope, Receive
from msgspec import UNSET, Struct

from tocsin.api import documentation as doc
from tocsin.api.auth import Keys
from tocsin.api.body import JSON, NDJSON, announced_bytes, content_type, read_body
from tocsin.api.control import DeliveryControl
from tocsin.api.event_records import EventReport, report
from tocsin.api.express import Answer
from tocsin.api.ingest import Batch, Intake
from tocsin.api.problems import Kind, RequestError
from tocsin.domain.events import EventId
from tocsin.settings import Settings
from tocsin.store.ports import EventIdConflict, EventQueue, Role

PATH: Final = "/api/events"
_SMALL_BODY_BYTES: Final = 64 * 1024
_LARGE_BODIES_AT_ONCE: Final = 8
_LARGE_BODIES_BYTES: Final = 128 * 1024 * 1024
_NO_ROOM_RETRY_AFTER_S: Final = 2
_encode = msgspec.json.Encoder().encode


class Accepted(Struct, frozen=True):
    """The events are durable. One id for each line, in the order of the lines."""

    accepted: int
    events: list[EventId]


class Room:
    """The memory that large bodies may take up together. Only what has arrived counts: a slow one keeps none out."""

    def __init__(self, size_bytes: int) -> None:
        self._free_bytes = size_bytes

    @contextlib.contextmanager
    def receiving(self, receive: Receive) -> Iterator[Receive]:
        """`receive`, with what comes by it counted until the end of the context.

        Raises:
            RequestError: there is no room for more. It is given up rather than held back, as it takes up room itself.
        """
        held = 0

        async def counted() -> Any:
            nonlocal held
            message = await receive()
            size = len(message["body"]) if message["type"] == "http.request" else 0
            if size > self._free_bytes:
                detail = "Too many large bodies arrive at once; nothing was accepted. Try again later."
                raise RequestError(Kind.OVERLOADED, detail, retry_after_s=_NO_ROOM_RETRY_AFTER_S)
            self._free_bytes -= size
            held += size
            return message

        try:
            yield counted
        finally:
            self._free_bytes += held


class EventRoutes:
    def __init__(
        self,
        *,
        settings: Settings,
        keys: Keys,
        queue: EventQueue,
        delivery: DeliveryControl,
        clock: Callable[[], float],
    ) -> None:
        self._intake = Intake(settings)
        self._max_bytes = settings.ingest.max_bytes
        self._timeout_s = settings.server.request_timeout_s
        self._keys = keys
        self._queue = queue
        self._delivery = delivery
        self._clock = clock
        # Both bound the memory that producers can fill: as the events of a batch take up several times its bytes, only
        # some are read into events at once. Batches wait for that when they have arrived, never for slower clients.
        self._room = Room(_LARGE_BODIES_BYTES)
        self._large = asyncio.Semaphore(_LARGE_BODIES_AT_ONCE)

    def handlers(self) -> list[ControllerRouterHandler]:
        return [
            post(PATH, status_code=202, **doc.HAND_IN)(self.hand_in),
            get(PATH + "/{event_id:uuid}", **doc.EXPLAIN_EVENT)(self.explain),
        ]

    async def hand_in(self, request: Request[Any, Any, Any]) -> ASGIResponse:
        return (await self.accept(request.scope, request.receive)).response()

    async def accept(self, scope: HTTPScope, receive: Receive) -> Answer:
        await self._keys.require(scope, Role.PRODUCER)
        many = content_type(scope, JSON, NDJSON) == NDJSON
        size = announced_bytes(scope)
        if size is not None and size <= _SMALL_BODY_BYTES:
            return await self._accept(await self._read(scope, receive), many)
        with self._room.receiving(receive) as counted:
            body = await self._read(scope, counted)
            async with self._large:
                return await self._accept(body, many)

    async def _read(self, scope: HTTPScope, receive: Receive) -> bytes:
        return await read_body(scope, receive, self._max_bytes, self._timeout_s)

    async def _accept(self, body: bytes, many: bool) -> Answer:
        now_ms = int(self._clock() * 1000)
        batch = await self._intake.many(body, now_ms) if many else self._intake.one(body, now_ms)
        try:
            await self._queue.append(batch.events)
        except EventIdConflict as conflict:
            raise batch.conflict(batch.line_of(conflict.index) if many else UNSET) from None
        self._delivery.accepted()
        return Answer(_answer(batch), 202)

    async def explain(self, request: Request[Any, Any, Any], event_id: FromPath[UUID]) -> EventReport:
        await self._keys.require(request.scope, Role.PRODUCER, Role.ADMIN)
        record = await self._queue.record(EventId(str(event_id)))
        if record is None:
            raise RequestError(Kind.NOT_FOUND, "No such event: it was never accepted, or its retention has ended.")
        return report(record)


def _answer(batch: Batch) -> bytes:
    if len(batch.ids) == 1:
        return b'{"accepted":1,"events":["%b"]}' % batch.ids[0].encode()
    return _encode(Accepted(len(batch.ids), batch.ids))
