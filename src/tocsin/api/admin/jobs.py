"""Bulk actions as jobs: previewed, created over a frozen filter, watched, stopped."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from litestar import Request, get, post
from litestar.params import FromPath, QueryParameter
from litestar.types import ControllerRouterHandler
from msgspec import UNSET, Meta, Struct, UnsetType

from tocsin.api import documentation as doc
from tocsin.api.delivery_search import Moment, unix_ms, unknown_name
from tocsin.api.json_body import JsonBodies
from tocsin.api.problems import Kind, RequestError, bad_input
from tocsin.api.schemas import JOB, JOB_PREVIEW
from tocsin.api.shared import Shared
from tocsin.api.timestamps import rfc3339
from tocsin.providers.rules import RuleBook
from tocsin.store import bulk
from tocsin.store.bulk import LETTERS, QUARANTINE, Action, Filter, Plan
from tocsin.store.ports import Store, UnknownCursor
from tocsin.store.records import ENDED, Cursor, Job, JobState

_DAY_S: Final = 24 * 3600
_LOOK_FOR_S: Final = 0.2
_MOST: Final = 200
START = Annotated[
    str | None, QueryParameter(description="The `next` of the preceding page; without it, the first page")
]
_ONLY: Final = {
    "message": LETTERS,
    "outcome": LETTERS,
    "owner": LETTERS | {Action.RESTORE},
    "system": LETTERS | {Action.RESTORE},
    "reason": LETTERS | {Action.RESTORE},
    "from_": LETTERS | {Action.RESTORE},
    "until": LETTERS | {Action.RESTORE},
}
"""The actions whose filter may have the field."""


class JobFilter(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """As the caller gives it."""

    owner: UUID | None = None
    message: str | None = None
    system: str | None = None
    account: Annotated[str, Meta(min_length=1)] | None = None
    outcome: str | None = None
    reason: str | None = None
    from_: Moment | None = msgspec.field(default=None, name="from")
    until: Moment | None = None


class PreviewRequest(Struct, frozen=True, forbid_unknown_fields=True):
    action: Action
    filter: JobFilter = JobFilter()


class JobRequest(Struct, frozen=True, forbid_unknown_fields=True):
    action: Action
    filter: JobFilter = JobFilter()
    lifetime_s: Annotated[int, Meta(ge=1, le=28 * _DAY_S)] | None = None


class FilterView(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The frozen filter. `until`: nothing that comes later is touched."""

    until: str
    owner: str | UnsetType = UNSET
    message: str | UnsetType = UNSET
    system: str | UnsetType = UNSET
    account: str | UnsetType = UNSET
    outcome: str | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    from_: str | UnsetType = msgspec.field(default=UNSET, name="from")


class PreviewView(Struct, frozen=True):
    """How many match now: exactly, or estimated from the newest `looked_at`; or `at_least` so many, which were found
    among those. With some of their ids, or the beginnings of tokens."""

    action: str
    filter: FilterView
    estimate: int
    exact: bool
    looked_at: int
    examples: list[str]
    at_least: bool


class JobView(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One job. `done` and `skipped` count what matched; `total` was estimated when it was created, and is
    absent where nobody knows."""

    id: str
    action: str
    filter: FilterView
    state: str
    created_at: str
    changed_at: str
    done: int
    skipped: int
    result: str
    total: int | UnsetType = UNSET
    error: str | UnsetType = UNSET


class JobPage(Struct, frozen=True):
    """Some jobs, newest first, at most `most`. `next` is the `start` of the following page; null on the last one."""

    jobs: Annotated[list[JobView], Meta(max_length=_MOST)]
    next: str | None
    most: int = _MOST


class JobRoutes(Shared):
    """The routes of `/api/admin/jobs`."""

    def __init__(self, store: Store, rules: RuleBook, bodies: JsonBodies, max_tokens: int) -> None:
        self._store = store
        self._rules = rules
        self._bodies = bodies
        self._max_tokens = max_tokens

    def handlers(self) -> list[ControllerRouterHandler]:
        preview = doc.admin("previewJob", "How many a bulk action would be done to", 413, 415, body=JOB_PREVIEW)
        create = doc.admin("createJob", "Begin a bulk action", 413, 415, body=JOB)
        return [
            post("/jobs/preview", status_code=200, **preview)(self.preview),
            post("/jobs", status_code=202, **create)(self.create),
            get("/jobs", **doc.admin("listJobs", "Bulk actions, newest first"))(self.list_jobs),
            get("/jobs/{id:str}", **doc.admin("readJob", "One bulk action", 404))(self.read),
            post("/jobs/{id:str}/stop", status_code=200, **doc.admin("stopJob", "Stop a bulk action", 404, 415))(
                self.stop
            ),
        ]

    async def preview(self, request: Request[Any, Any, Any]) -> PreviewView:
        data = await self._bodies.read(request, PreviewRequest)
        wanted = self._frozen(data.action, data.filter)
        found = await self._look(data.action, wanted)
        return PreviewView(
            data.action.value,
            _filter(wanted),
            found.estimate,
            found.exact,
            found.looked_at,
            found.examples,
            found.at_least,
        )

    async def create(self, request: Request[Any, Any, Any]) -> JobView:
        data = await self._bodies.read(request, JobRequest)
        if data.lifetime_s is not None and data.action is not Action.REPLAY:
            raise bad_input("$.lifetime_s", "only replayed events get a new lifetime")
        wanted = self._frozen(data.action, data.filter)
        found = await self._look(data.action, wanted)
        plan = Plan(wanted, (data.lifetime_s or _DAY_S) * 1000, self._max_tokens)
        job = await self._store.jobs.create(data.action.value, msgspec.json.encode(plan), total=found.total)
        return _view(job)

    async def list_jobs(
        self, limit: Annotated[int, QueryParameter(ge=1, le=_MOST)] = 50, start: START = None
    ) -> JobPage:
        try:
            page = await self._store.jobs.page(limit, start=None if start is None else Cursor(start))
        except UnknownCursor as error:
            raise bad_input("?start", str(error)) from None
        return JobPage([_view(job) for job in page.jobs if _is_bulk(job)], page.next)

    async def read(self, id: FromPath[str]) -> JobView:
        return _view(await self._known(id))

    async def stop(self, id: FromPath[str]) -> JobView:
        await self._known(id)
        await self._store.jobs.stop(id)
        return _view(await self._known(id))

    async def _known(self, id: str) -> Job:
        job = await self._store.jobs.get(id)
        if job is None or not _is_bulk(job):
            raise RequestError(Kind.NOT_FOUND, "There is no job of this id.")
        return job

    async def _look(self, action: Action, wanted: Filter) -> bulk.Preview:
        loop = asyncio.get_running_loop()
        until = loop.time() + _LOOK_FOR_S
        return await bulk.preview(self._store, action, wanted, lambda: loop.time() >= until)

    def _frozen(self, action: Action, given: JobFilter) -> Filter:
        for name, allowed in _ONLY.items():
            if getattr(given, name) is not None and action not in allowed:
                raise bad_input(f"$.filter.{name.rstrip('_')}", f"{action.value} has no such filter")
        if unknown := unknown_name(self._rules, given.system, given.message):
            raise bad_input(f"$.filter.{unknown[0]}", unknown[1])
        if action in QUARANTINE and given.account is None:
            raise bad_input("$.filter.account", "missing: name the application or project whose quarantine it is")
        if given.outcome not in (None, "refused", "expired"):
            raise bad_input("$.filter.outcome", "must be refused or expired")
        now_ms, until_ms = self._store.now_ms(), unix_ms(given.until)
        return Filter(
            owner=None if given.owner is None else str(given.owner),
            message=given.message,
            system=given.system,
            account=given.account,
            lanes=None if given.account is None else self._lanes(given.account),
            outcome=given.outcome,
            reason=given.reason,
            from_ms=unix_ms(given.from_),
            until_ms=now_ms + 1 if until_ms is None else min(until_ms, now_ms + 1),
        )

    def _lanes(self, account: str) -> list[str]:
        return [lane for own in self._rules.values() for lane in own.lanes(account)]


def _is_bulk(job: Job) -> bool:
    return job.kind in tuple(Action)


def _filter(wanted: Filter) -> FilterView:
    return FilterView(
        until=rfc3339(wanted.until_ms),
        owner=wanted.owner or UNSET,
        message=UNSET if wanted.message is None else wanted.message,
        system=UNSET if wanted.system is None else wanted.system,
        account=UNSET if wanted.account is None else wanted.account,
        outcome=UNSET if wanted.outcome is None else wanted.outcome,
        reason=UNSET if wanted.reason is None else wanted.reason,
        from_=UNSET if wanted.from_ms is None else rfc3339(wanted.from_ms),
    )


def _view(job: Job) -> JobView:
    plan = msgspec.json.decode(job.arguments, type=Plan)
    return JobView(
        id=job.id,
        action=job.kind,
        filter=_filter(plan.filter),
        state=job.state.value,
        created_at=rfc3339(job.created_ms),
        changed_at=rfc3339(job.changed_ms),
        done=job.done,
        skipped=job.skipped,
        result=_result(job),
        total=UNSET if job.total is None else job.total,
        error=job.error or UNSET,
    )


_WORDS: Final = {
    Action.REPLAY: "dead letters are delivered again",
    Action.DISCARD: "dead letters were discarded",
    Action.RESTORE: "registrations were restored",
    Action.RELEASE: "registrations were released from quarantine",
    Action.PURGE: "registrations were removed for good",
}


def _result(job: Job) -> str:
    """What was done so far, and what was not, in one sentence."""
    done = f"{job.done} {_WORDS[Action(job.kind)]}"
    skipped = f"; {job.skipped} were skipped: they were changed or gone meanwhile, or may not come back"
    ends = {JobState.STOPPED: "; it was stopped before its end", JobState.FAILED: "; it failed before its end"}
    so_far = "" if job.state in ENDED else " so far"
    return f"{done}{so_far}{skipped if job.skipped else ''}{ends.get(job.state, '')}."
