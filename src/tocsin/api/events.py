"""`/api/events`: ingests the events of the platform's backends, and answers what became of each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec
from litestar import Request, get, post
from litestar.params import FromPath
from litestar.response.base import ASGIResponse
from litestar.types import ControllerRouterHandler, HTTPScope, Receive
from msgspec import UNSET

from tocsin.api import documentation as doc
from tocsin.api.admission import Caller, caller_of
from tocsin.api.auth import header
from tocsin.api.body import JSON, NDJSON, announced_bytes, content_type, read_body
from tocsin.api.documentation import AcceptedBody
from tocsin.api.event_records import EventReport, report
from tocsin.api.failures import STORE_RETRY_AFTER_S
from tocsin.api.fast_path import Success
from tocsin.api.limits import Limits
from tocsin.api.problems import Kind, RequestError
from tocsin.api.shared import Shared
from tocsin.domain.events import Event, EventId
from tocsin.ingest.batch import Batch, Ingest
from tocsin.ingest.errors import Violation, conflict
from tocsin.ingest.tracing import IngestTraces
from tocsin.settings import Settings
from tocsin.store.audit_chain import Action, Change
from tocsin.store.ports import CommitUnknown, EventIdConflict, Store
from tocsin.store.records import NO_LIMITS, ApiKey

PATH: Final = "/api/events"
_SMALL_BODY_BYTES: Final = 64 * 1024
_LARGE_BODIES_AT_ONCE: Final = 8
_LARGE_BODIES_BYTES: Final = 128 * 1024 * 1024
_NO_ROOM_RETRY_AFTER_S: Final = 2
_encode = msgspec.json.Encoder().encode


class Room:
    """Limits the memory that large bodies take up together. Only bytes that have arrived count: a slow upload blocks no
    other."""

    def __init__(self, size_bytes: int) -> None:
        self._free_bytes = size_bytes

    @contextlib.contextmanager
    def receiving(self, receive: Receive) -> Iterator[Receive]:
        """`receive`, which counts the bytes that it returns until the end of the context.

        Raises:
            RequestError: there is no room for more (by `receive`). Waiting for room would not help: what has arrived of
                this body takes up room, too.
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


class EventRoutes(Shared):
    """The routes of `/api/events`."""

    def __init__(
        self,
        *,
        settings: Settings,
        limits: Limits,
        store: Store,
        ingest: Ingest,
        accepted: Callable[[Sequence[Event]], None],
        traces: IngestTraces | None = None,
    ) -> None:
        """`accepted` is told how many events were ingested."""
        self._ingest = ingest
        self._max_bytes = settings.ingest.max_bytes
        self._timeout_s = settings.server.request_timeout_s
        self._limits = limits
        self._store = store
        self._accepted = accepted
        self._traces = traces
        # Both limit the memory that producers can fill. The events of a batch take up several times its bytes: so few
        # batches are parsed at once. A batch waits for that when it has arrived completely: never for a slow client.
        self._room = Room(_LARGE_BODIES_BYTES)
        self._large = asyncio.Semaphore(_LARGE_BODIES_AT_ONCE)

    def handlers(self) -> list[ControllerRouterHandler]:
        return [
            post(PATH, status_code=202, **doc.INGEST)(self.ingest_by_litestar),
            get(PATH + "/{event_id:uuid}", **doc.EXPLAIN_EVENT)(self.explain),
        ]

    async def ingest_by_litestar(self, request: Request[Any, Any, Any]) -> ASGIResponse:
        return (await self.ingest(request.scope, request.receive, caller_of(request.scope))).response()

    async def ingest(self, scope: HTTPScope, receive: Receive, caller: Caller) -> Success:
        """Serve `POST /api/events`.

        Raises:
            IngestError, RequestError, BacklogFull, BatchTooLarge, StoreUnavailable: no event was accepted; or it is not
                known (`outcome-unknown`).
        """
        key = _key(caller)
        self._limits.may_send(key)
        many = content_type(scope, JSON, NDJSON) == NDJSON
        size = announced_bytes(scope)
        if size is not None and size <= _SMALL_BODY_BYTES:
            return await self._append(key, await self._read(scope, receive), many, scope)
        with self._room.receiving(receive) as counted:
            body = await self._read(scope, counted)
            async with self._large:
                return await self._append(key, body, many, scope)

    async def ingest_for_operator(self, request: Request[Any, Any, Any]) -> AcceptedBody:
        """One event, from whoever may operate: to try whether it arrives."""
        content_type(request.scope, JSON)
        body = await read_body(request.scope, request.receive, _SMALL_BODY_BYTES, self._timeout_s)
        # Read twice, so that nothing is noted of what is refused.
        (event,) = self._ingest.one(body, self._store.now_ms()).events
        await self._store.audit.note(Change(Action.EVENT_TEST, details={"message": event.message}, owner=event.owner))
        key = _key(caller_of(request.scope))
        return msgspec.json.decode((await self._append(key, body, False, request.scope)).body, type=AcceptedBody)

    async def _read(self, scope: HTTPScope, receive: Receive) -> bytes:
        return await read_body(scope, receive, self._max_bytes, self._timeout_s)

    async def _append(self, key: ApiKey, body: bytes, many: bool, scope: HTTPScope) -> Success:
        now_ms = self._store.now_ms()
        batch = await self._ingest.many(body, now_ms) if many else self._ingest.one(body, now_ms)
        if key.limits is not NO_LIMITS:
            self._check(key, batch, many)
        try:
            if self._traces is None:
                await self._store.queue.append(batch.events)
            else:
                await self._append_traced(self._traces, batch, scope)
        except EventIdConflict as known:
            self._limits.not_accepted(key, len(batch.events))
            raise conflict(batch.line_of(known.index) if many else UNSET) from None
        except CommitUnknown:
            detail = (
                "It is not known whether the events were accepted. Repeating them with the ids in `events` is safe."
            )
            raise RequestError(
                Kind.OUTCOME_UNKNOWN, detail, retry_after_s=STORE_RETRY_AFTER_S, events=batch.ids
            ) from None
        except Exception:
            self._limits.not_accepted(key, len(batch.events))
            raise
        self._accepted(batch.events)
        return Success(_accepted(batch), 202)

    async def _append_traced(self, traces: IngestTraces, batch: Batch, scope: HTTPScope) -> None:
        given = header(scope, b"traceparent")
        span = traces.begin(batch, None if given is None else given.decode("latin-1"), "http")
        try:
            await self._store.queue.append(batch.events)
        except BaseException as error:
            if span is not None:
                span.end(error)
            raise
        if span is not None:
            span.end()

    async def explain(self, request: Request[Any, Any, Any], event_id: FromPath[UUID]) -> EventReport:
        only = _key(caller_of(request.scope)).limits.events
        record = await self._store.log.record(EventId(str(event_id)))
        if record is None or (only and record.event.message not in only):
            other = ", or this key is limited to other events" if only else ""
            raise RequestError(
                Kind.NOT_FOUND, f"No such event: it was never accepted, or its retention has ended{other}."
            )
        return report(record)

    def _check(self, key: ApiKey, batch: Batch, many: bool) -> None:
        """Checks the batch against the limits of the key, which it then uses up.

        Raises:
            RequestError: an event is not among those of the key (403), or there are too many (429).
        """
        only = key.limits.events
        for index, event in enumerate(batch.events):
            if only and event.message not in only:
                line = batch.line_of(index) if many else UNSET
                reason = f"this key may send {', '.join(sorted(only))} only"
                where = f"line {line}: " if many else ""
                detail = f"{where}$.message: {reason}; nothing was accepted."
                raise RequestError(Kind.OTHER_EVENT, detail, Violation(at="$.message", line=line, reason=reason))
        self._limits.events(key, len(batch.events))


def _key(caller: Caller) -> ApiKey:
    assert caller.key is not None  # as `needs` says
    return caller.key


def _accepted(batch: Batch) -> bytes:
    if len(batch.ids) == 1:
        return b'{"accepted":1,"events":["%b"]}' % batch.ids[0].encode()
    return _encode({"accepted": len(batch.ids), "events": batch.ids})
