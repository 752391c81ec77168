"""The API over the real store. Only delivery is stood in for; the store's signals are what delivery would hear."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from litestar import Litestar
from prometheus_client import CollectorRegistry
from tests.support.new_store import lay_out

from tocsin.api.app import create_app
from tocsin.api.control import Figures, Latency, Moment
from tocsin.api.limits import Limits
from tocsin.domain.credentials import Check
from tocsin.domain.devices import Device
from tocsin.domain.events import Event, UserId
from tocsin.domain.routes import LaneStatus
from tocsin.providers.apns.credentials import ApnsCredential
from tocsin.providers.base import AccountStatus, Preview
from tocsin.providers.rules import RULES, RuleBook
from tocsin.settings import Audit, Ingest, PushApi, Server, Settings
from tocsin.sign_in.own import OwnSessions
from tocsin.sign_in.verdicts import Verifier
from tocsin.store.ports import Access, Store
from tocsin.store.records import Role, Signal
from tocsin.store.sqlite.opening import open_store
from tocsin.store.sqlite.store import SqliteOptions

OWNER = UserId("9aed5e94-3803-11e3-8475-0024e8f90cc0")
APPLICATION = "39JSDKGJ38.de.cospace.app"
GOLDEN = Path(__file__).parents[1] / "golden"


@lru_cache
def p256_key() -> str:
    """A private key as Apple hands it out (.p8)."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


class StubDelivery:
    """See `api.control.DeliveryControl`."""

    node = "here:1"

    def __init__(self) -> None:
        self.status: list[LaneStatus] = []
        self.sentences: list[str] = []
        self.beside: list[str] = []
        self.ingested = 0
        self.delivers = True

    def lanes(self) -> list[LaneStatus]:
        return self.status

    def problems(self) -> list[str]:
        return self.sentences

    def notes(self) -> list[str]:
        return self.beside

    def accepted(self, events: Sequence[Event]) -> None:
        self.ingested += len(events)

    def figures(self) -> Figures:
        return Figures(self.ingested, 0, 0, 0.0, 0.0, 0.0, 10, Latency(None, None, None, 0, 60), ["here:1"])

    def history(self) -> list[Moment]:
        return [Moment(0, 1.0, 2.0, 3.0, 4, None)]

    def preview(self, event: Event, device: Device) -> Preview:
        return Preview("https://provider.test/send", [("x-topic", "t")], event.body)

    def accounts(self) -> dict[str, list[AccountStatus]]:
        return {"apns": [AccountStatus(APPLICATION, "key", None, "ABC123DEFG")]}

    async def check(self, provider: str, account: str, *, sandbox: bool) -> Check:
        return Check(at_ms=0, sandbox=sandbox, ok=False, sentence="Apple does not accept the key")


class StoreWith:
    """The store, with some of its ports replaced."""

    def __init__(self, store: Store, ports: dict[str, Any]) -> None:
        self._store = store
        self.__dict__.update(ports)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class Api:
    """A running API, somebody signed in, and a key for each role."""

    owner = OWNER

    def __init__(self, app: Litestar, store: Store, delivery: StubDelivery) -> None:
        self.app = app
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self._serve),  # type: ignore[arg-type]
            base_url="http://tocsin.test",
        )
        self.store = store
        self.delivery = delivery
        self.signals: list[Signal] = []
        self.signals_at_answer: list[Signal] = []
        """Those that were there when the last answer began."""
        self.sid = self.producer = self.admin = ""

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        async def noting(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.signals_at_answer = list(self.signals)
            await send(message)

        await self.app(scope, receive, noting)

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
        return devices, history, await self.store.queue.backlog(), list(self.signals)

    async def woken(self) -> bool:
        """Whether a dispatcher that waits for events has been woken since the last claim."""
        try:
            async with asyncio.timeout(0.02):
                await self.store.queue.wait(60)
        except TimeoutError:
            return False
        return True

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
    server: Server | None = None,
    origins: tuple[str, ...] = (),
    ingest: Ingest | None = None,
    audit: Audit | None = None,
    max_events: int = 100_000,
    clock: Callable[[], float] = time.time,
    rules: RuleBook = RULES,
    metrics: CollectorRegistry | None = None,
    sign_in: Callable[[Access], Verifier] = OwnSessions,
    limits: Limits | None = None,
    **ports: Any,
) -> AsyncIterator[Api]:
    settings = Settings(
        server=server or Server(),
        push_api=PushApi(convention=convention, max_tokens_per_user=max_tokens, origins=origins),
        ingest=ingest or Ingest(),
        audit=audit or Audit(),
    )
    options = SqliteOptions(max_events=max_events, max_bytes=10**8, lease_s=60, wall_clock=clock, search=True)
    path = directory / f"{convention}.db"
    lay_out(path)
    store = await open_store(path, options, server=True)
    try:
        await store.start()
        await store.credentials.put(ApnsCredential(p256_key(), "ABC123DEFG").stored(APPLICATION, 0))
        delivery = StubDelivery()
        seen: Any = StoreWith(store, ports)
        app = create_app(
            settings=settings,
            store=seen,
            rules=rules,
            delivery=delivery,
            metrics=metrics,
            verifier=sign_in(store.access),
            limits=limits,
        )
        api = Api(app, store, delivery)
        api.sid = await api.sign_in()
        api.producer, _ = await store.access.create_key(Role.PRODUCER, "fax", None)
        api.admin, _ = await store.access.create_key(Role.ADMIN, "ops", None)
        store.signals.subscribe(api.signals.append)
        async with api.client:
            yield api
    finally:
        await store.close()


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
def key_pem() -> str:
    return p256_key()


@pytest.fixture
def golden() -> Callable[[str], dict[str, Any]]:
    """An event as a producer sends it: the document's APNs content without `aps`."""

    def read(message: str) -> dict[str, Any]:
        content = json.loads((GOLDEN / f"{message}.apns.json").read_text())
        del content["aps"]
        return content

    return read
