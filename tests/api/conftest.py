"""The API over the real store. Only delivery is stood in for: it records what the API tells it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from litestar import Litestar

from tocsin.api.app import create_app
from tocsin.domain.devices import ApplicationId
from tocsin.domain.events import UserId
from tocsin.domain.lanes import LaneStatus
from tocsin.settings import Ingest, PushApi, Settings
from tocsin.store.opening import Store, open_store
from tocsin.store.ports import Application, Role

OWNER = UserId("9aed5e94-3803-11e3-8475-0024e8f90cc0")
GOLDEN = Path(__file__).parents[1] / "golden"


class RecordedDelivery:
    """What the API told delivery, and what stood in the store when it did."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.wakings = 0
        self.status: list[LaneStatus] = []
        self.sentences: list[str] = []

    def cancel(self, owner: UserId, system: str, token: str) -> None:
        self.calls.append(("cancel", owner, str(system), token))

    def registered(self, owner: UserId, system: str, token: str) -> None:
        self.calls.append(("registered", owner, str(system), token))

    def lanes(self) -> list[LaneStatus]:
        return self.status

    def problems(self) -> list[str]:
        return self.sentences

    def accepted(self) -> None:
        self.wakings += 1


class Api:
    """A running API, somebody signed in, and a key for each role."""

    owner = OWNER

    def __init__(self, app: Litestar, client: httpx.AsyncClient, store: Store, delivery: RecordedDelivery) -> None:
        self.app = app
        self.client = client
        self.store = store
        self.delivery = delivery
        self.sid = self.producer = self.admin = ""

    async def sign_in(self, owner: str | None = OWNER) -> str:
        sid, _ = await self.store.access.create_session(None if owner is None else UserId(owner), None)
        return sid

    async def push(self, body: Any = None, **more: Any) -> httpx.Response:
        return await self._post("/api/push", self.sid, body, **more)

    async def events(self, body: Any = None, **more: Any) -> httpx.Response:
        return await self._post("/api/events", self.producer, body, **more)

    async def ndjson(self, *lines: Any) -> httpx.Response:
        content = b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
        return await self.events(content, headers={"content-type": "application/x-ndjson"})

    async def tokens(self) -> Any:
        return (await self.client.get("/api/push", headers=bearer(self.sid))).json()

    async def operate(self, method: str, path: str, **more: Any) -> httpx.Response:
        return await self.client.request(method, f"/api/admin{path}", headers=bearer(self.admin), **more)

    async def contents(self) -> tuple[Any, ...]:
        """All that a request could have changed."""
        devices = await self.store.registry.devices_of((OWNER,))
        history = await self.store.registry.history()
        return devices, history, self.store.queue.backlog(), list(self.delivery.calls)

    async def _post(self, path: str, secret: str, body: Any, **more: Any) -> httpx.Response:
        headers = {**bearer(secret), **more.pop("headers", {})}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post(path, content=content, headers=headers, **more)


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


OpenApi = Callable[..., Any]


@asynccontextmanager
async def opened(
    directory: Path,
    *,
    convention: Literal["document", "platform"] = "document",
    max_tokens: int = 100,
    ingest: Ingest | None = None,
    max_events: int = 100_000,
    **ports: Any,
) -> AsyncIterator[Api]:
    settings = Settings(
        push_api=PushApi(convention=convention, max_tokens_per_user=max_tokens), ingest=ingest or Ingest()
    )
    path = directory / f"{convention}.db"
    async with open_store(path, max_events=max_events, max_bytes=10**8, lease_s=60) as store:
        await store.queue.start()
        delivery = RecordedDelivery()
        real: dict[str, Any] = {
            "queue": store.queue,
            "registry": store.registry,
            "access": store.access,
            "applications": store.applications,
            "dead_letters": store.dead_letters,
        }
        app = create_app(settings=settings, delivery=delivery, **(real | ports))
        transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://tocsin.test") as client:
            api = Api(app, client, store, delivery)
            api.sid = await api.sign_in()
            api.producer, _ = await store.access.create_key(Role.PRODUCER, "fax", None)
            api.admin, _ = await store.access.create_key(Role.ADMIN, "ops", None)
            await store.applications.put_application(
                Application(ApplicationId("39JSDKGJ38.de.cospace.app"), key_pem="secret key", key_id="ABC123DEFG")
            )
            yield api


@pytest.fixture(scope="session")
def open_api_in() -> OpenApi:
    """Opens an API on a directory of its own, with some settings changed, or some ports replaced."""
    return opened


@pytest.fixture
def open_api(tmp_path: Path) -> OpenApi:
    """The same, on this test's directory."""
    return partial(opened, tmp_path)


@pytest.fixture
async def api(open_api: OpenApi) -> AsyncIterator[Api]:
    async with open_api() as opened:
        yield opened


@pytest.fixture
def golden() -> Callable[[str], dict[str, Any]]:
    """An event as a producer hands it in: the document's APNs content without `aps`."""

    def read(message: str) -> dict[str, Any]:
        content = json.loads((GOLDEN / f"{message}.apns.json").read_text())
        del content["aps"]
        return content

    return read
