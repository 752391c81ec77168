"""One bounded request for messages of a pull consumer, and what comes of it.

Each request has an inbox of its own: what a request before it left behind cannot be taken for its answer. While there
is nothing, the server sends heartbeats; without one the request is given up, as it may have been lost with a connection
or a leader (JetStream wire API, "Pull consumers"; ADR-37).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from types import TracebackType
from typing import Final

import nats.errors
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

HEARTBEAT_S: Final = 1.0
_MISSED: Final = 4
_LEAVE_S: Final = 1.0
_NO_MESSAGES, _TIMEOUT, _CONFLICT, _NO_RESPONDERS = "404", "408", "409", "503"
_HEARTBEAT: Final = "100"
_GONE: Final = ("consumer deleted", "consumer is push based")
_TOO_LARGE: Final = "message size exceeds maxbytes"


class ConsumerGone(Exception):  # noqa: N818
    """There is no such consumer (any more), or nobody who knows it."""


class Stalled(Exception):  # noqa: N818
    """The server has stopped to answer this request."""


class PullRefused(Exception):  # noqa: N818
    """The server does not take such a request; the message says why."""


class Ask(Struct, frozen=True):
    """How much is asked for, and for how long."""

    messages: int
    size_bytes: int | None
    for_s: float

    def body(self) -> bytes:
        asked: dict[str, object] = {
            "batch": self.messages,
            "expires": int(self.for_s * 1e9),
            "idle_heartbeat": int(HEARTBEAT_S * 1e9),
        }
        if self.size_bytes is not None:
            asked["max_bytes"] = self.size_bytes
        return json.dumps(asked).encode()


class Pull:
    """A request, open while it is entered."""

    def __init__(self, client: Client, stream: str, consumer: str, ask: Ask) -> None:
        self._client = client
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._ask = ask
        self._inbox = client.new_inbox()
        self._subscription: Subscription | None = None
        self._something = asyncio.Event()
        self._received = 0
        self.gathered: list[Msg] = []
        """What has come and was not taken yet."""
        self.ended = False
        """Nothing more comes."""
        self.too_large = False
        """It ended with nothing, because the next message alone is larger than `size_bytes`."""
        self._error: Exception | None = None

    async def __aenter__(self) -> Pull:
        self._subscription = await self._client.subscribe(self._inbox, cb=self._receive)
        await self._client.publish(self._subject, self._ask.body(), reply=self._inbox)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # On a connection that has ended there is nothing to end.
        if self._subscription is not None and not self._client.is_closed:
            with contextlib.suppress(nats.errors.Error):
                await self._subscription.unsubscribe()

    async def take(self) -> list[Msg]:
        """All that has come since; waits where nothing has. Empty where the request has ended.

        Raises:
            ConsumerGone, Stalled, PullRefused: and nothing has come.
        """
        while not (self.gathered or self.ended):
            self._something.clear()
            try:
                async with asyncio.timeout(_MISSED * HEARTBEAT_S):
                    await self._something.wait()
            except TimeoutError:
                raise Stalled(f"no heartbeat for {_MISSED * HEARTBEAT_S:g} s") from None
        if not self.gathered and self._error is not None:
            raise self._error
        taken, self.gathered = self.gathered, []
        return taken

    async def leave(self) -> list[Msg]:
        """End the request for the server, too. Returns what has come and was not taken: what is given back from now on
        is not delivered for this request again."""
        self.end()
        if self._subscription is not None and self._client.is_connected:
            with contextlib.suppress(nats.errors.Error, TimeoutError):
                async with asyncio.timeout(_LEAVE_S):
                    await self._subscription.drain()  # type: ignore[no-untyped-call]
        taken, self.gathered = self.gathered, []
        return taken

    def end(self) -> None:
        """Wait for nothing more."""
        self.ended = True
        self._something.set()

    async def _receive(self, message: Msg) -> None:
        self._something.set()
        if message.subject != self._inbox:
            self.gathered.append(message)
            self._received += 1
            self.ended = self.ended or self._received >= self._ask.messages
            return
        headers = message.headers or {}
        status, said = headers.get("Status", ""), headers.get("Description", "")
        if status == _HEARTBEAT:
            return
        self.ended = True
        self.too_large = not self._received and status == _CONFLICT and said.lower().startswith(_TOO_LARGE)
        if status == _NO_RESPONDERS:
            # The client's description is wrong there: it has the header that follows (nats-server 2.15).
            self._error = ConsumerGone("nobody answers for the consumer")
        elif said.lower().startswith(_GONE):
            self._error = ConsumerGone(said)
        elif status not in (_NO_MESSAGES, _TIMEOUT, _CONFLICT):
            self._error = PullRefused(f"{status} {said}".strip())
        elif status == _CONFLICT and said.lower().startswith("exceeded max"):
            self._error = PullRefused(said)
