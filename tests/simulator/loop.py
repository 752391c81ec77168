"""An event loop with virtual time: nothing waits, the clock goes on to the next timer when there is nothing left to do.

It has no selector, no socket and no thread. What code gives to a thread (`run_in_executor`) runs as a callback of the
loop, after a delay that the seed decides.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import base_events, events
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from random import Random
from typing import Any, Final

_STARTS_AT_S: Final = 1000.0
_MOST_CALLBACKS_A_SECOND: Final = 300_000
_MOST_CANCELLED: Final = 200
_LATEST_JOB_S: Final = 0.02

LIFE: Final = ContextVar("life", default="")
"""Whose code runs: the name of a life of tocsin, or "" for all else. Tasks, timers and callbacks inherit it."""

_TURN_S: Final = 1e-6
"""How long a turn of the loop takes. A timer is never exactly in time, in reality either: what compares its own due
time with the clock must see it pass."""


class Stuck(Exception):  # noqa: N818 (it says what is so)
    """The program cannot go on: nothing is scheduled, or callbacks run for ever while hardly any time passes."""


class VirtualLoop(base_events.BaseEventLoop):
    """Runs callbacks in the order in which asyncio's own loop would, and timers when they are due."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random
        self._now = _STARTS_AT_S
        self._clock_resolution = 1e-9
        self._counted_from, self._counted = _STARTS_AT_S, 0
        self.callbacks = 0
        """How many ran in all."""
        self.most_callbacks: int | None = None
        """With more, the program counts as one that cannot go on."""
        self.when_stuck: Callable[[str], None] | None = None
        self.tasks: dict[asyncio.Task[Any], int] = {}
        """Those that are not done, each with its number, in the order in which they were made (`asyncio.all_tasks` has
        none)."""
        self._tasks_made = 0
        self._suspended: dict[str, list[events.Handle]] = {}
        """What would have run of a life that is suspended, in order."""

    # -- suspended lives (SIGSTOP) -------------------------------------------------------------------------------------

    def suspend(self, life: str) -> None:
        """From now on nothing of this life runs: no callback, no timer, no job, and no bytes come to it."""
        self._suspended.setdefault(life, [])

    def resume(self, life: str) -> None:
        """All that it has missed runs now, in the order in which it would have run."""
        self._ready.extend(self._suspended.pop(life, ()))  # type: ignore[attr-defined]

    def is_suspended(self, life: str) -> bool:
        return life in self._suspended

    # -- time ----------------------------------------------------------------------------------------------------------

    def time(self) -> float:
        return self._now

    @property
    def passed_s(self) -> float:
        """How much time has passed since it was made."""
        return self._now - _STARTS_AT_S

    def skip(self, seconds: float) -> None:
        """For so long everything stands still, as on a machine that sleeps; what was due meanwhile runs next, in the
        order in which it was due."""
        self._now += seconds

    def _run_once(self) -> None:
        """One turn, as `BaseEventLoop._run_once` does it, with a clock that jumps in place of a selector that waits."""
        # asyncio's own queues, in which call_soon, call_later and call_at have put their handles.
        scheduled: list[events.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        ready = self._ready  # type: ignore[attr-defined]
        self._drop_cancelled(scheduled)
        if not ready:
            if not scheduled:
                self._stuck("nothing is scheduled, and somebody still waits")
                return
            self._now = max(self._now, scheduled[0].when())
        self._now += _TURN_S
        if self._now - self._counted_from > 1.0:
            self._counted_from, self._counted = self._now, 0
        while scheduled and scheduled[0].when() <= self._now:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False  # type: ignore[attr-defined]
            ready.append(handle)
        count = len(ready)
        self.callbacks += count
        self._counted += count
        if self.most_callbacks is not None and self.callbacks > self.most_callbacks:
            self.most_callbacks = None
            self._stuck("more callbacks ran than were allowed")
        if self._counted > _MOST_CALLBACKS_A_SECOND:
            self._counted = 0
            self._stuck(f"{_MOST_CALLBACKS_A_SECOND} callbacks ran within a second; the last: {ready[-1]!r}")
        suspended = self._suspended
        for _ in range(count):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            if suspended and (missed := suspended.get(handle._context.get(LIFE, ""))) is not None:
                missed.append(handle)
            else:
                handle._run()

    def _stuck(self, why: str) -> None:
        """Tell whoever wants to know, once, and who ends the simulation. The second time is an exception."""
        told, self.when_stuck = self.when_stuck, None
        if told is None:
            raise Stuck(why)
        told(why)

    def _drop_cancelled(self, scheduled: list[events.TimerHandle]) -> None:
        cancelled: int = self._timer_cancelled_count  # type: ignore[has-type]
        if cancelled > _MOST_CANCELLED and 2 * cancelled > len(scheduled):
            for handle in scheduled:
                if handle.cancelled():
                    handle._scheduled = False  # type: ignore[attr-defined]
            scheduled[:] = [handle for handle in scheduled if not handle.cancelled()]
            heapq.heapify(scheduled)
            self._timer_cancelled_count = 0
        while scheduled and scheduled[0].cancelled():
            heapq.heappop(scheduled)._scheduled = False  # type: ignore[attr-defined]
            self._timer_cancelled_count -= 1

    # -- no threads, no sockets ----------------------------------------------------------------------------------------

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Run `func` in the loop, a little later."""
        done: asyncio.Future[Any] = self.create_future()

        def run() -> None:
            try:
                result = func(*args)
            except BaseException as error:
                if not done.cancelled():
                    done.set_exception(error)
            else:
                if not done.cancelled():
                    done.set_result(result)

        self.call_later(self._random.uniform(0, _LATEST_JOB_S), run)
        return done

    def call_soon_threadsafe(self, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        raise AssertionError("a thread calls into the simulation")

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def create_task(self, coro: Coroutine[Any, Any, Any], **arguments: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        task = super().create_task(coro, **arguments)
        self._tasks_made += 1
        self.tasks[task] = self._tasks_made
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self.tasks.pop(task, None)

    def tasks_since(self, number: int) -> list[asyncio.Task[Any]]:
        """The tasks that were made after the one with this number, and are not done; the oldest first."""
        return [task for task, made in self.tasks.items() if made > number]

    @property
    def newest_task(self) -> int:
        return self._tasks_made
