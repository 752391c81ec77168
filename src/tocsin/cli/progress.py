"""That a command is still at work, and how far: on a terminal, and only where it takes longer than a second."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from tocsin.store.ports import EachStep

AFTER_S: Final = 1.0


class Work:
    """What is shown of one piece of work. `at` may be called from any thread, as often as one likes."""

    def __init__(self, what: str, console: Console, after_s: float) -> None:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        self._bar = Progress(*columns, TimeElapsedColumn(), console=console, transient=True)
        self._what = what
        self._task = self._bar.add_task(what, total=None)
        self._lock = threading.Lock()
        self._ended = False
        self._timer = threading.Timer(after_s, self._show) if console.is_terminal else None
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()

    def at(self, done: int, total: int | None = None) -> None:
        """So much of `total` is done; without `total` nobody knows how much there is."""
        told = self._what if total is not None else f"{self._what}: {done:,}"
        self._bar.update(self._task, completed=done, total=total, description=told)

    def steps(self, total: int) -> EachStep:
        """What the store tells of each step of a long action, of `total` in all; none of them is the last one."""
        done = 0

        async def each(count: int) -> bool:
            nonlocal done
            done += count
            self.at(done, total)
            return True

        return each

    def end(self) -> None:
        with self._lock:
            self._ended = True
            if self._timer is not None:
                self._timer.cancel()
                self._bar.stop()

    def _show(self) -> None:
        with self._lock:
            if not self._ended:
                self._bar.start()


@contextmanager
def working(what: str, *, console: Console | None = None, after_s: float = AFTER_S) -> Iterator[Work]:
    """Show on standard error, where that is a terminal, that `what` (`copying the store`) goes on in the block."""
    work = Work(what, console or Console(stderr=True), after_s)
    try:
        yield work
    finally:
        work.end()
