"""Dead letters: events that could not be delivered. They are listed, explained, replayed and discarded."""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

from litestar import Request, get, post
from litestar.params import FromPath, QueryParameter
from litestar.types import ControllerRouterHandler
from msgspec import Meta, Struct

from tocsin.api import documentation as doc
from tocsin.api.event_records import EventReport, report
from tocsin.api.json_body import JsonBodies
from tocsin.api.problems import Kind, RequestError, bad_input
from tocsin.api.schemas import DISCARD, MOST_IDS, REPLAY
from tocsin.api.shared import Shared
from tocsin.api.timestamps import rfc3339
from tocsin.domain.events import EventId
from tocsin.store.ports import EventLog, UnknownCursor
from tocsin.store.records import Cursor, State

_DAY_S: Final = 24 * 3600
_MOST_BYTES: Final = 1024 * 1024
"""As many ids as are allowed, each in quotes and on a line of its own, take up half of it."""


class LetterDevice(Struct, frozen=True):
    """The last attempt of one device."""

    device: str
    result: str
    status: int
    reason: str
    at: str


class Letter(Struct, frozen=True):
    """An event that ended in `refused` or `expired` for the devices named. Its content is not shown."""

    id: str
    owner: str
    message: str
    accepted_at: str
    devices: list[LetterDevice]


class LetterPage(Struct, frozen=True):
    """Some dead letters, newest first. `next` is the `start` of the following page; null on the last one."""

    dead_letters: list[Letter]
    next: str | None


class Choice(Struct, frozen=True, forbid_unknown_fields=True):
    """Some dead letters by id, or all of them (`ids` null)."""

    ids: Annotated[list[UUID], Meta(max_length=MOST_IDS)] | None


class ReplayRequest(Choice, frozen=True, forbid_unknown_fields=True):
    lifetime_s: Annotated[int, Meta(ge=1, le=28 * _DAY_S)] = _DAY_S
    """The events live for so long, from now."""


class Count(Struct, frozen=True):
    """How many dead letters it was done to."""

    count: int


class DeadLetterRoutes(Shared):
    """The routes of `/api/admin/dead-letters`."""

    def __init__(self, log: EventLog, bodies: JsonBodies) -> None:
        self._log = log
        self._bodies = bodies

    def handlers(self) -> list[ControllerRouterHandler]:
        replay = doc.admin("replayDeadLetters", "Deliver dead letters again, now", 413, 415, body=REPLAY)
        discard = doc.admin("discardDeadLetters", "Discard dead letters", 413, 415, body=DISCARD)
        return [
            get("/dead-letters", **doc.admin("listDeadLetters", "Events that could not be delivered"))(
                self.list_letters
            ),
            get("/dead-letters/{id:uuid}", **doc.admin("explainDeadLetter", "A dead letter with every attempt", 404))(
                self.explain
            ),
            post("/dead-letters/replay", status_code=200, **replay)(self.replay),
            post("/dead-letters/discard", status_code=200, **discard)(self.discard),
        ]

    async def list_letters(
        self,
        limit: Annotated[int, QueryParameter(ge=1, le=1000)] = 100,
        start: Annotated[
            str | None, QueryParameter(description="The `next` of the preceding page; without it, the first page")
        ] = None,
    ) -> LetterPage:
        try:
            page = await self._log.dead_letters(limit, start=None if start is None else Cursor(start))
        except UnknownCursor as error:
            raise bad_input("?start", str(error)) from None
        letters = [
            Letter(
                letter.event.id,
                letter.event.owner,
                letter.event.message,
                rfc3339(letter.event.accepted_ms),
                [
                    LetterDevice(one.device, one.result, one.status, one.reason, rfc3339(one.at_ms))
                    for one in letter.devices
                ],
            )
            for letter in page.letters
        ]
        return LetterPage(letters, page.next)

    async def explain(self, id: FromPath[UUID]) -> EventReport:
        record = await self._log.record(EventId(str(id)))
        if record is None or record.state is not State.DEAD:
            raise RequestError(Kind.NOT_FOUND, "There is no dead letter of this id.")
        return report(record)

    async def replay(self, request: Request[Any, Any, Any]) -> Count:
        data = await self._bodies.read(request, ReplayRequest, _MOST_BYTES)
        return Count(await self._log.replay(_ids(data), data.lifetime_s * 1000))

    async def discard(self, request: Request[Any, Any, Any]) -> Count:
        return Count(await self._log.discard(_ids(await self._bodies.read(request, Choice, _MOST_BYTES))))


def _ids(choice: Choice) -> list[EventId] | None:
    return None if choice.ids is None else [EventId(str(id)) for id in choice.ids]
