"""The clients: `AsyncClient` for asyncio, `Client` for threads. Both do the same calls (`calls.py`)."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final
from uuid import UUID

import httpx

from tocsin_client import calls
from tocsin_client.calls import Answer, Call, Pause, Request, Result
from tocsin_client.errors import TocsinError
from tocsin_client.events import Event
from tocsin_client.reports import EventReport

GIVE_UP_AFTER_S: Final = 60.0
TIMEOUT_S: Final = 20.0


@dataclass(frozen=True)
class _Options:
    """How the server is called; see `AsyncClient`."""

    url: str
    key: str
    timeout_s: float
    verify: ssl.SSLContext | bool

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError("url: begins with http:// or https://")
        if not (self.key.isascii() and self.key.isprintable() and self.key.strip()):
            raise ValueError("key: must be a producer key, as `tocsin key create producer` prints it")

    def arguments(self) -> dict[str, Any]:
        return {
            "base_url": self.url.rstrip("/"),
            "headers": {"authorization": f"Bearer {self.key}", "user-agent": "tocsin-client"},
            "timeout": self.timeout_s,
            "verify": self.verify,
            "follow_redirects": False,
        }


class AsyncClient:
    """Hands in events from a program that uses asyncio; one client serves all tasks.

    `url` is the address of tocsin (`http://127.0.0.1:8080`), `key` a producer key. One attempt takes at most
    `timeout_s`; a call is repeated, with the same event ids, until `give_up_after_s` is over. `verify` is the TLS
    context, where the certificate is signed by an authority of your own.

    Raises:
        ValueError: `url` or `key` cannot be one.

        async with AsyncClient("http://127.0.0.1:8080", key) as client:
            await client.send(FaxNew(owner=owner, fax=fax, phone="+492215587412", page_count=2))
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout_s: float = TIMEOUT_S,
        give_up_after_s: float = GIVE_UP_AFTER_S,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        self._http = httpx.AsyncClient(**_Options(url, key, timeout_s, verify).arguments())
        self._give_up_after_s = give_up_after_s

    async def send(self, event: Event) -> str:
        """Hand in one event; returns its id when it is durable.

        Raises:
            TocsinError: it was not accepted, or that is not known (`Unavailable`); see `tocsin_client.errors`.
        """
        (event_id,) = await self.send_many([event])
        return event_id

    async def send_many(self, events: Sequence[Event]) -> list[str]:
        """Hand in many events, some thousands in one request; returns their ids, in their order, when all are durable.

        Raises:
            TocsinError: not all were accepted; `accepted` says which were.
        """
        return await self._run(calls.send(events, self._give_up_after_s))

    async def send_each(self, events: Sequence[Event]) -> list[str | TocsinError]:
        """Hand in events that have nothing to do with each other: one that is refused holds up none of the others.

        Returns, for each, its id or why it was not accepted.
        """
        return await self._run(calls.send_each(events, self._give_up_after_s))

    async def look(self, event_id: UUID | str) -> EventReport:
        """What became of an event so far."""
        return await self._run(calls.look(event_id, self._give_up_after_s))

    async def wait_settled(self, event_id: UUID | str, *, timeout_s: float = 60.0) -> EventReport:
        """Wait until every device has its outcome.

        Raises:
            NotSettled: that took longer than `timeout_s`.
        """
        return await self._run(calls.wait_settled(event_id, timeout_s, self._give_up_after_s))

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _run(self, call: Call[Result]) -> Result:
        answer: Answer | None = None
        while True:
            try:
                wanted = call.send(answer)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            if isinstance(wanted, Pause):
                await asyncio.sleep(wanted.seconds)
                answer = None
            else:
                answer = await self._answer(wanted)

    async def _answer(self, request: Request) -> Answer:
        try:
            return _answer(await self._http.request(**_sent(request)))
        except httpx.RequestError as error:
            return _no_answer(error)


class Client:
    """Hands in events from a program without asyncio; it may be used by several threads. See `AsyncClient`."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout_s: float = TIMEOUT_S,
        give_up_after_s: float = GIVE_UP_AFTER_S,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        self._http = httpx.Client(**_Options(url, key, timeout_s, verify).arguments())
        self._give_up_after_s = give_up_after_s

    def send(self, event: Event) -> str:
        """See `AsyncClient.send`."""
        (event_id,) = self.send_many([event])
        return event_id

    def send_many(self, events: Sequence[Event]) -> list[str]:
        """See `AsyncClient.send_many`."""
        return self._run(calls.send(events, self._give_up_after_s))

    def send_each(self, events: Sequence[Event]) -> list[str | TocsinError]:
        """See `AsyncClient.send_each`."""
        return self._run(calls.send_each(events, self._give_up_after_s))

    def look(self, event_id: UUID | str) -> EventReport:
        """What became of an event so far."""
        return self._run(calls.look(event_id, self._give_up_after_s))

    def wait_settled(self, event_id: UUID | str, *, timeout_s: float = 60.0) -> EventReport:
        """See `AsyncClient.wait_settled`."""
        return self._run(calls.wait_settled(event_id, timeout_s, self._give_up_after_s))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, call: Call[Result]) -> Result:
        answer: Answer | None = None
        while True:
            try:
                wanted = call.send(answer)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            if isinstance(wanted, Pause):
                time.sleep(wanted.seconds)
                answer = None
            else:
                answer = self._answer(wanted)

    def _answer(self, request: Request) -> Answer:
        try:
            return _answer(self._http.request(**_sent(request)))
        except httpx.RequestError as error:
            return _no_answer(error)


def _sent(request: Request) -> dict[str, Any]:
    headers = {"content-type": request.content_type} if request.content_type else {}
    return {"method": request.method, "url": request.path, "content": request.body or None, "headers": headers}


def _answer(response: httpx.Response) -> Answer:
    return Answer(response.status_code, response.content, response.headers)


def _no_answer(error: httpx.RequestError) -> Answer:
    return Answer(0, error=f"{type(error).__name__}: {error}".rstrip(": "))
