"""Dead letters: what could not be delivered, by filter; each can be replayed or discarded, and all that match, too."""

from __future__ import annotations

from typing import Any, Final

from litestar import Response, get, post
from litestar.types import ControllerRouterHandler
from msgspec import Struct

from tocsin.console import words
from tocsin.console.admin_api import ApiError
from tocsin.console.formats import plural
from tocsin.console.records import Figures, Found, Letters
from tocsin.console.searching import SYSTEMS, Conditions, conditions
from tocsin.console.site import AnyRequest, Pages, own_path, see, text_of

FIELDS: Final = ("owner", "message", "outcome", "system", "account", "reason", "from", "until")
_PER_PAGE: Final = 50


class _Count(Struct, frozen=True):
    count: int = 0


class Row(Struct, frozen=True):
    """One device that a dead letter did not reach."""

    event_id: str
    owner: str
    message: str
    at: str
    outcome: str
    system: str
    device_token: str
    status: int | None
    reason: str | None


class DeadLetterPages(Pages):
    """`/dead-letters`."""

    def handlers(self) -> list[ControllerRouterHandler]:
        return [
            get("/dead-letters")(self.show),
            post("/dead-letters/replay", status_code=303)(self.replay),
            post("/dead-letters/discard", status_code=303)(self.discard),
        ]

    async def show(self, request: AnyRequest) -> Response[Any]:
        asked = conditions(request.query_params, FIELDS)
        start = request.query_params.get("start")
        key = self._site.session(request).key
        rows: list[Row] = []
        following, complete, index, wrong, total = None, True, None, "", None
        try:
            if asked:
                found = await self._matching(key, asked, start)
                rows, following, complete, index = _rows(found), found.next, found.complete, found.index
            else:
                rows, following = await self._all(key, start)
                total = (await self._site.api.get(key, "/figures", Figures)).dead_letters
        except ValueError as error:
            wrong = str(error)
        except ApiError as error:
            if error.status != 400:
                raise
            wrong = str(error)
        return self._site.page(
            request,
            "dead_letters.html",
            status=400 if wrong else 200,
            title="Dead letters",
            asked=asked,
            rows=rows,
            total=total,
            complete=complete,
            index=index,
            wrong=wrong,
            per_page=_PER_PAGE,
            following=asked.query(start=following) if following else "",
            first=asked.query() if start else None,
            system_options=[(name, words.provider(name)) for name in SYSTEMS],
        )

    async def replay(self, request: AnyRequest) -> Response[Any]:
        return await self._one(request, "replay", "replayed: it is delivered again, now")

    async def discard(self, request: AnyRequest) -> Response[Any]:
        return await self._one(request, "discard", "discarded: its content is forgotten")

    async def _one(self, request: AnyRequest, action: str, done: str) -> Response[Any]:
        form, session = await request.form(), self._site.session(request)
        event_id = text_of(form, "event_id")
        counted = await self._site.api.post(session.key, f"/dead-letters/{action}", {"ids": [event_id]}, _Count)
        if counted.count:
            session.say(f"{plural(counted.count, 'dead letter')} {done}.")
        else:
            session.say("It is no dead letter any more; nothing was changed.", bad=True)
        if action == "replay" and counted.count:
            return see(f"/events/{event_id}")
        return see(own_path(text_of(form, "here"), "/dead-letters"))

    async def _all(self, key: str, start: str | None) -> tuple[list[Row], str | None]:
        page = await self._site.api.get(key, "/dead-letters", Letters, limit=_PER_PAGE, start=start)
        rows = []
        for letter in page.dead_letters:
            for one in letter.devices:
                system, _, token = one.device.partition(":")
                rows.append(
                    Row(
                        letter.id, letter.owner, letter.message, one.at, one.result, system, token, one.status or None,
                        one.reason or None,
                    )
                )  # fmt: skip
        return rows, page.next

    async def _matching(self, key: str, asked: Conditions, start: str | None) -> Found:
        """By the search, which finds what a bulk action with these conditions would take."""
        body = asked.letters_sought() | {"limit": _PER_PAGE} | ({"start": start} if start else {})
        return await self._site.api.post(key, "/deliveries/search", body, Found)


def _rows(found: Found) -> list[Row]:
    return [
        Row(
            one.event_id, one.owner, one.message, one.at, one.outcome, one.system or "", one.device_token or "",
            one.status, one.reason,
        )
        for one in found.deliveries
    ]  # fmt: skip
