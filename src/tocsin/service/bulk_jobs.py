"""Runs bulk actions, one at a time, in steps: each notes how far it is, and may be stopped or outlive a restart."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
import structlog

from tocsin.domain.actors import Actor, ActorKind
from tocsin.store.acting import acting
from tocsin.store.bulk import LETTERS, PAGE, Action, Plan, matching_letter, matching_removal
from tocsin.store.ports import Store, WriteFailure
from tocsin.store.records import ENDED, Cursor, Job

log = structlog.get_logger(__name__)

_HERE: Final = "server"
KINDS: Final = tuple(str(action) for action in Action)
_PAUSE_S: Final = 0.02
"""Between two steps: time for whoever else writes."""
_STORE_RETRY_S: Final = 1.0
_RESTORED_AT_ONCE: Final = 20


class BulkJobs:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def run(self) -> None:
        """Run the jobs that wait, until there is none."""
        while (job := await self._store.jobs.take(KINDS)) is not None:
            with acting(Actor(ActorKind.JOB, job.id, _HERE)):
                await self._run(job)

    async def _run(self, job: Job) -> None:
        error = ""
        try:
            plan = msgspec.json.decode(job.arguments, type=Plan)
            position: str | None = job.position
            while position is not None:
                position = await self._until_written(job, plan, position)
                await asyncio.sleep(_PAUSE_S)
        except Exception as failure:
            log.exception("a bulk action failed", job=job.id, kind=job.kind)
            error = f"{type(failure).__name__}: see the server's log"
        await self._finish(job, error)

    async def _until_written(self, job: Job, plan: Plan, position: str) -> str | None:
        """One step; while the store cannot be used, it is repeated: what was done is passed over."""
        while True:
            try:
                return await self._step(job, plan, position)
            except WriteFailure as failure:
                log.warning("a bulk action waits for the store", job=job.id, error=str(failure))
                await asyncio.sleep(_STORE_RETRY_S)

    async def _step(self, job: Job, plan: Plan, position: str) -> str | None:
        """Where the next step begins; None at the end, or where somebody has asked it to stop."""
        # A step of its own before the first: one that was stopped before it began does nothing.
        if not await self._store.jobs.progress(job.id, position, done=0):
            return None
        action = Action(job.kind)
        if action in LETTERS:
            matched, done, after = await self._letters(action, plan, position)
        elif action is Action.RESTORE:
            matched, done, after = await self._removals(plan, position)
        else:
            matched, done, after = await self._quarantine(job, action, plan, position)
        goes_on = await self._store.jobs.progress(job.id, after or position, done=done, skipped=matched - done)
        return after if goes_on else None

    async def _letters(self, action: Action, plan: Plan, position: str) -> tuple[int, int, Cursor | None]:
        events = self._store.log
        page = await events.dead_letters(PAGE, start=Cursor(position) if position else None)
        ids = [one.event.id for one in page.letters if matching_letter(one, plan.filter)]
        if not ids:
            return 0, 0, page.next
        done = await (events.replay(ids, plan.lifetime_ms) if action is Action.REPLAY else events.discard(ids))
        return len(ids), done, page.next

    async def _removals(self, plan: Plan, position: str) -> tuple[int, int, Cursor | None]:
        registry = self._store.registry
        page = await registry.removals(PAGE, start=Cursor(position) if position else None)
        wanted = [one for one in page.removals if matching_removal(one, plan.filter)]
        tokens = list(dict.fromkeys((one.device.provider, one.device.token) for one in wanted))
        done = 0
        for first in range(0, len(tokens), _RESTORED_AT_ONCE):
            some = tokens[first : first + _RESTORED_AT_ONCE]
            done += sum(await asyncio.gather(*(registry.restore(*one, plan.max_tokens) for one in some)))
        return max(len(wanted), done), done, page.next

    async def _quarantine(self, job: Job, action: Action, plan: Plan, position: str) -> tuple[int, int, None]:
        """The registry's own steps are noted one by one; what is returned is how many of them all were skipped."""
        registry, account = self._store.registry, plan.filter.account or ""
        held = sum(one.tokens for one in await registry.quarantine() if one.account == account)
        stopped = False

        async def each(done: int) -> bool:
            nonlocal stopped
            stopped = not await self._store.jobs.progress(job.id, position, done=done)
            return not stopped

        if action is Action.RELEASE:
            done = await registry.release_quarantine(account, plan.max_tokens, each)
        else:
            done = await registry.purge_quarantine(account, each)
        return 0 if stopped else max(0, held - done), 0, None

    async def _finish(self, job: Job, error: str) -> None:
        while True:
            try:
                ended = await self._store.jobs.finish(job.id, error)
                break
            except WriteFailure:
                await asyncio.sleep(_STORE_RETRY_S)
        if ended.state not in ENDED:
            log.info("another node goes on with a bulk action", job=job.id, kind=job.kind)
            return
        log.info("bulk action ended", job=job.id, kind=job.kind, state=ended.state.value, done=ended.done)
