"""Dead letters: what could not be delivered, to look at, to try again, or to let go."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from litestar import get, post
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.types import ControllerRouterHandler
from msgspec import Meta, Struct

from tocsin.api import documentation as doc
from tocsin.api.event_records import EventReport, report
from tocsin.api.problems import Kind, RequestError
from tocsin.api.schemas import DISCARD, REPLAY
from tocsin.api.shared import Shared
from tocsin.api.timestamps import rfc3339
from tocsin.domain.events import EventId
from tocsin.store.ports import DeadLetters

_DAY_S = 24 * 3600


class LetterDevice(Struct, frozen=True):
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
    """Newest first; `next`, where there is more, is the `start` of the page after this one."""

    dead_letters: list[Letter]
    next: int | None


class Choice(Struct, frozen=True, forbid_unknown_fields=True):
    """Which: some by id, or (`ids` null) all of them."""

    ids: Annotated[list[UUID], Meta(max_length=10_000)] | None


class ReplayRequest(Choice, frozen=True, forbid_unknown_fields=True):
    lifetime_s: Annotated[int, Meta(ge=1, le=28 * _DAY_S)] = _DAY_S
    """For how long it is tried again."""


class Count(Struct, frozen=True):
    count: int


class DeadLetterRoutes(Shared):
    def __init__(self, dead_letters: DeadLetters) -> None:
        self._dead_letters = dead_letters

    def handlers(self) -> list[ControllerRouterHandler]:
        replay = doc.admin("replayDeadLetters", "Deliver again, now", 413, 415, body=REPLAY)
        discard = doc.admin("discardDeadLetters", "Let go", 413, 415, body=DISCARD)
        return [
            get("/dead-letters", **doc.admin("listDeadLetters", "What could not be delivered"))(self.list_letters),
            get("/dead-letters/{id:uuid}", **doc.admin("explainDeadLetter", "Every attempt of one", 404))(self.explain),
            post("/dead-letters/replay", status_code=200, **replay)(self.replay),
            post("/dead-letters/discard", status_code=200, **discard)(self.discard),
        ]

    async def list_letters(
        self,
        limit: Annotated[int, QueryParameter(ge=1, le=1000)] = 100,
        start: Annotated[int, QueryParameter(ge=0, le=2**53 - 1)] = 0,
    ) -> LetterPage:
        page = await self._dead_letters.list(limit, start=start or None)
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
        record = await self._dead_letters.explain(EventId(str(id)))
        if record is None:
            raise RequestError(Kind.NOT_FOUND, "There is no dead letter of this id.")
        return report(record)

    async def replay(self, data: JSONBody[ReplayRequest]) -> Count:
        return Count(await self._dead_letters.replay(_ids(data), data.lifetime_s * 1000))

    async def discard(self, data: JSONBody[Choice]) -> Count:
        return Count(await self._dead_letters.discard(_ids(data)))


def _ids(choice: Choice) -> list[EventId] | None:
    return None if choice.ids is None else [EventId(str(id)) for id in choice.ids]
