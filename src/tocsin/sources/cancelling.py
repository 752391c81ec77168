"""Makes up for a cancellation that is forgotten in Python 3.11.

There `asyncio.wait_for` returns the result, and the cancellation is lost, where both come in one turn of the event loop
(CPython issue 86296; mended in 3.12). The client of NATS waits by it for every answer, and what one read brings often
answers several requests: one says that the consumer is gone, and ends the task that has just got the other.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

_AGAIN_S: Final = 0.5


def end_where_cancelled() -> None:
    """To be called by whatever goes round a loop in which an answer is waited for. Raises CancelledError."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a task that calls no `end_where_cancelled`; returns when it has ended, whatever with."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_AGAIN_S)
    await asyncio.gather(task, return_exceptions=True)
