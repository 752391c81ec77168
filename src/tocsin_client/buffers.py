"""Buffers: events that many tasks or threads hand in one at a time go to tocsin in batches, which costs far less.

A buffer is bounded, and hides nothing: whoever hands in an event learns when it is durable, or why it is not. What was
not answered when a process ends may have been accepted or not.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from concurrent.futures import Future
from typing import Final

from tocsin_client.client import AsyncClient, Client
from tocsin_client.errors import TocsinError
from tocsin_client.events import Event

MOST_WAITING: Final = 10_000
MOST_AT_ONCE: Final = 1_000


class AsyncBuffer:
    """Gathers the events of all tasks: `async with AsyncBuffer(client) as buffer: await buffer.send(event)`.

    While a batch is on its way, the next one fills. `put` waits while `most_waiting` events are in the buffer. Leaving
    the block waits for what is in it.
    """

    def __init__(self, client: AsyncClient, *, most_waiting: int = MOST_WAITING) -> None:
        self._client = client
        self._waiting: asyncio.Queue[tuple[Event, asyncio.Future[str]] | None] = asyncio.Queue(most_waiting)
        self._task: asyncio.Task[None] | None = None
        self._putting = 0
        self._all_put = asyncio.Event()

    async def put(self, event: Event) -> asyncio.Future[str]:
        """Hand in an event; the future has its id when it is durable, or a TocsinError.

        Raises:
            RuntimeError: the buffer is not open.
        """
        if self._task is None:
            raise RuntimeError("the buffer is not open: use it in `async with`")
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._putting += 1
        try:
            await self._waiting.put((event, future))
        finally:
            self._putting -= 1
            if not self._putting:
                self._all_put.set()
        return future

    async def send(self, event: Event) -> str:
        """Hand in an event; returns its id when it is durable.

        Raises:
            TocsinError: it was not accepted, or that is not known.
        """
        return await (await self.put(event))

    async def __aenter__(self) -> AsyncBuffer:
        self._task = asyncio.create_task(self._run(), name="tocsin buffer")
        return self

    async def __aexit__(self, *_: object) -> None:
        task, self._task = self._task, None
        if task is not None:
            # From here on `put` refuses; those that wait in it come before the end.
            while self._putting:
                self._all_put.clear()
                await self._all_put.wait()
            await self._waiting.put(None)
            await task

    async def _run(self) -> None:
        going_on = True
        while going_on:
            batch = [await self._waiting.get()]
            while batch[-1] is not None and len(batch) < MOST_AT_ONCE and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            going_on = batch[-1] is not None
            await self._hand_in([item for item in batch if item is not None])

    async def _hand_in(self, batch: list[tuple[Event, asyncio.Future[str]]]) -> None:
        if not batch:
            return
        try:
            ends = await self._client.send_each([event for event, _ in batch])
        except Exception as error:
            ends = [_unexpected(error)] * len(batch)
        for (_, future), end in zip(batch, ends, strict=True):
            if future.cancelled():
                continue
            if isinstance(end, TocsinError):
                future.set_exception(end)
            else:
                future.set_result(end)


class Buffer:
    """The same for threads: `with Buffer(client) as buffer: buffer.send(event)`. One thread of its own hands in."""

    def __init__(self, client: Client, *, most_waiting: int = MOST_WAITING) -> None:
        self._client = client
        self._waiting: queue.Queue[tuple[Event, Future[str]] | None] = queue.Queue(most_waiting)
        self._thread: threading.Thread | None = None
        self._putting = 0
        self._all_put = threading.Condition()

    def put(self, event: Event) -> Future[str]:
        """See `AsyncBuffer.put`."""
        with self._all_put:
            if self._thread is None:
                raise RuntimeError("the buffer is not open: use it in `with`")
            self._putting += 1
        future: Future[str] = Future()
        try:
            self._waiting.put((event, future))
        finally:
            with self._all_put:
                self._putting -= 1
                self._all_put.notify_all()
        return future

    def send(self, event: Event) -> str:
        """See `AsyncBuffer.send`."""
        return self.put(event).result()

    def __enter__(self) -> Buffer:
        self._thread = threading.Thread(target=self._run, name="tocsin buffer", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._all_put:
            thread, self._thread = self._thread, None
            self._all_put.wait_for(lambda: not self._putting)
        if thread is not None:
            self._waiting.put(None)
            thread.join()

    def _run(self) -> None:
        going_on = True
        while going_on:
            batch = [self._waiting.get()]
            while batch[-1] is not None and len(batch) < MOST_AT_ONCE and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            going_on = batch[-1] is not None
            self._hand_in([item for item in batch if item is not None])

    def _hand_in(self, batch: list[tuple[Event, Future[str]]]) -> None:
        # From here on a future cannot be cancelled: its event is on the way.
        batch = [item for item in batch if item[1].set_running_or_notify_cancel()]
        if not batch:
            return
        try:
            ends = self._client.send_each([event for event, _ in batch])
        except Exception as error:
            ends = [_unexpected(error)] * len(batch)
        for (_, future), end in zip(batch, ends, strict=True):
            if isinstance(end, TocsinError):
                future.set_exception(end)
            else:
                future.set_result(end)


def _unexpected(error: Exception) -> TocsinError:
    """What no call raises, as an error of ours: a buffer goes on whatever happens to one batch."""
    found = TocsinError(f"the events could not be handed in: {type(error).__name__}: {error}")
    found.__cause__ = error
    return found
