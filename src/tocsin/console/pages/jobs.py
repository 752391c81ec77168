"""Jobs: bulk actions. First what would be done to how many; then, once confirmed, how far it is, and stopping it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from litestar import Response, get, post
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler

from tocsin.console import words
from tocsin.console.admin_api import ApiError
from tocsin.console.records import Job, Jobs, Preview
from tocsin.console.searching import Conditions, conditions
from tocsin.console.sessions import Session
from tocsin.console.site import UNCHANGED, AnyRequest, Pages, see, text_of

_FIELDS: Final = ("owner", "message", "outcome", "system", "account", "reason", "from", "until")
_LOOK_EVERY_S: Final = 0.5
_SHOWN: Final = 100
_HOUR_S: Final = 3600
_LIFETIMES: Final = (("1", "1 hour"), ("12", "12 hours"), ("24", "1 day"), ("168", "7 days"))


class JobPages(Pages):
    """`/jobs`."""

    def handlers(self) -> list[ControllerRouterHandler]:
        return [
            get("/jobs")(self.index),
            get("/jobs/live")(self.live_index),
            get("/jobs/new")(self.preview),
            post("/jobs/new", status_code=303)(self.start),
            get("/jobs/{job:str}")(self.show),
            get("/jobs/{job:str}/live")(self.live),
            post("/jobs/{job:str}/stop", status_code=303)(self.stop),
        ]

    async def index(self, request: AnyRequest) -> Response[Any]:
        start, wrong, listed = request.query_params.get("start"), "", Jobs()
        try:
            listed = await self._list(self._site.session(request).key, start)
        except ApiError as error:
            if error.status != 400:
                raise
            wrong = str(error)
        status = 400 if wrong else 200
        return self._site.page(
            request, "jobs.html", status=status, title="Jobs", listed=listed, start=start, wrong=wrong
        )

    async def live_index(self, request: AnyRequest) -> Response[Any]:
        async def parts(session: Session) -> AsyncIterator[str]:
            before = None
            while True:
                listed = await self._list(session.key)
                if listed != before:
                    before = listed
                    yield self._site.renderer.render("parts/jobs.html", listed=listed, start=None)
                else:
                    yield UNCHANGED
                await asyncio.sleep(2 * _LOOK_EVERY_S)

        return self._site.stream(request, parts)

    async def preview(self, request: AnyRequest) -> Response[Any]:
        """What an action would be done to. Nothing is done yet."""
        action = request.query_params.get("action", "")
        if action not in words.ACTIONS:
            return see("/jobs")
        asked = conditions(request.query_params, _FIELDS)
        preview, wrong = Preview(), ""
        try:
            body = {"action": action, "filter": asked.body()}
            preview = await self._site.api.post(self._site.session(request).key, "/jobs/preview", body, Preview)
        except ValueError as error:
            wrong = str(error)
        except ApiError as error:
            if error.status != 400:
                raise
            wrong = str(error)
        return self._site.page(
            request,
            "job_new.html",
            status=400 if wrong else 200,
            title=words.action(action),
            action=action,
            asked=asked,
            preview=preview,
            wrong=wrong,
            lifetimes=_LIFETIMES,
        )

    async def start(self, request: AnyRequest) -> Response[Any]:
        form, session = await request.form(), self._site.session(request)
        asked = Conditions({name: text_of(form, name) for name in _FIELDS})
        body: dict[str, Any] = {"action": text_of(form, "action"), "filter": asked.body()}
        hours = text_of(form, "hours")
        if hours in dict(_LIFETIMES) and body["action"] == "replay":
            body["lifetime_s"] = int(hours) * _HOUR_S
        job = await self._site.api.post(session.key, "/jobs", body, Job)
        return see(f"/jobs/{job.id}")

    async def show(self, request: AnyRequest, job: FromPath[str]) -> Response[Any]:
        found = await self._read(self._site.session(request).key, job)
        return self._site.page(request, "job.html", title=words.action(found.action), job=found)

    async def live(self, request: AnyRequest, job: FromPath[str]) -> Response[Any]:
        async def parts(session: Session) -> AsyncIterator[str]:
            before = None
            while before is None or not before.ended:
                found = await self._read(session.key, job)
                if found != before:
                    before = found
                    yield self._site.renderer.render("parts/job.html", job=found, csrf=session.csrf, session=session)
                else:
                    yield UNCHANGED
                await asyncio.sleep(_LOOK_EVERY_S)

        return self._site.stream(request, parts)

    async def stop(self, request: AnyRequest, job: FromPath[str]) -> Response[Any]:
        key = self._site.session(request).key
        await self._site.api.post(key, f"/jobs/{_id(job)}/stop", {}, Job)
        return see(f"/jobs/{_id(job)}")

    async def _read(self, key: str, job: str) -> Job:
        return await self._site.api.get(key, f"/jobs/{_id(job)}", Job)

    async def _list(self, key: str, start: str | None = None) -> Jobs:
        return await self._site.api.get(key, "/jobs", Jobs, limit=_SHOWN, start=start)


def _id(job: str) -> str:
    """The id of a job, as it may stand in a path."""
    if not job.isascii() or not job.replace("-", "").replace("_", "").isalnum():
        raise ApiError(404, "not-found", "There is no such job.")
    return job
