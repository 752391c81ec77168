"""A third provider is one more package: registration, delivery, learning, failures and credentials, end to end.

Nothing of `delivery`, `service` or `store` names a provider, and nothing there knows this one.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from msgspec.structs import replace

from tests.support.line import OWNER, Line, apns_device, make_event, running_line
from tests.third_provider.phones import Phones, running_phones
from tests.third_provider.provider import PostProvider
from tests.third_provider.rules import NAME, PostAddress, parse
from tocsin.domain.credentials import Credential
from tocsin.domain.devices import Device, DeviceToken, Registration
from tocsin.domain.events import UserId
from tocsin.domain.routes import LaneState
from tocsin.http2.dial import client_tls
from tocsin.http2.server import Reply
from tocsin.providers.base import Context
from tocsin.providers.configured import Providers, configured
from tocsin.service import serve
from tocsin.settings import Server, Settings
from tocsin.settings import Store as StoreSettings
from tocsin.store.opening import open_store
from tocsin.store.records import Result, Role

SECRET = Credential(NAME, "default", b"secret")
OTHER_OWNER = UserId("55555555-3803-11e3-8475-0024e8f90cc0")


def key_of(token: str) -> str:
    return f"{sum(token.encode()):064x}"


@asynccontextmanager
async def line_and_phones(directory: Path) -> AsyncIterator[tuple[Line, Phones]]:
    async with running_phones(directory / "phones") as phones:
        tls = client_tls(phones.ca)
        async with running_line(directory, more=lambda context: [PostProvider(tls, context)]) as line:
            await line.store.credentials.put(SECRET)
            await line.configure()
            yield line, phones


async def register(line: Line, phones: Phones, token: str, *, owner: str = OWNER) -> Device:
    phones.keys[token] = key_of(token)
    address = PostAddress(f"{phones.url}/{token}", key_of(token)).text()
    await line.store.registry.add(Registration(UserId(owner), NAME, DeviceToken(token), address), 100)
    (device,) = await line.store.registry.find(DeviceToken(token))
    return device


async def test_an_event_reaches_the_devices_of_all_providers_each_encrypted_for_itself(tmp_path: Path) -> None:
    async with line_and_phones(tmp_path) as (line, phones):
        await line.register(apns_device())
        for token in ("one", "two"):
            await register(line, phones, token)
        event = make_event()
        await line.append(event)
        [record] = await line.finished(event)
        assert {attempt.result for attempt in record.attempts} == {Result.DELIVERED}
        assert sorted(token for token, _ in phones.received) == ["one", "two"]
        assert all(content["message"] == "fax_new" for _, content in phones.received)
        assert len(line.emulator.inbox.find()) == 1
        assert line.lane(f"{NAME}:{phones.url}").provider == NAME


async def test_a_dead_token_is_removed_and_a_living_one_is_not(tmp_path: Path) -> None:
    async with line_and_phones(tmp_path) as (line, phones):
        gone, kept = await register(line, phones, "gone"), await register(line, phones, "kept")
        phones.answer = lambda token: Reply(410) if token == "gone" else None
        event = make_event()
        await line.append(event)
        [record] = await line.finished(event)
        assert {one.device: one.result for one in record.attempts} == {
            gone.key: Result.TOKEN_DEAD,
            kept.key: Result.DELIVERED,
        }
        assert await line.store.registry.find(gone.token) == []
        [removal] = await line.store.registry.history(token=gone.token)
        assert removal.account == phones.url


async def test_what_a_delivery_learns_is_remembered_in_the_providers_own_address(tmp_path: Path) -> None:
    async with line_and_phones(tmp_path) as (line, phones):
        await register(line, phones, "moved")
        phones.keys["here"] = key_of("moved")
        new_url = f"{phones.url}/here"
        phones.answer = lambda token: Reply(308, [(b"location", new_url.encode())]) if token == "moved" else None
        # The phone at its new place knows its old name, which is part of what it decrypts.
        phones.take_as = {"here": "moved"}
        event = make_event()
        await line.append(event)
        [record] = await line.finished(event)
        assert [one.result for one in record.attempts] == [Result.RETRY, Result.DELIVERED]
        assert [one.number for one in record.attempts] == [1, 2]
        async with asyncio.timeout(5):
            while parse((await line.store.registry.find(DeviceToken("moved")))[0].address).url != new_url:
                await asyncio.sleep(0.01)


async def test_a_missing_secret_pauses_its_lane_alone_and_the_secret_resumes_it(tmp_path: Path) -> None:
    async with line_and_phones(tmp_path) as (line, phones):
        await line.store.credentials.put(replace(SECRET, content=b"wrong"))
        await line.configure()
        device = await register(line, phones, "one")
        await line.register(apns_device(owner=OTHER_OWNER))
        mine, theirs = make_event(), make_event(OTHER_OWNER)
        await line.append(mine, theirs)
        await line.finished(theirs)
        record = await line.attempted(mine)
        assert record.attempts[0].result == Result.MISCONFIGURED
        assert line.lane(f"{NAME}:{phones.url}").state is LaneState.PAUSED
        assert await line.store.registry.find(device.token) == [device]
        await line.store.credentials.put(SECRET)
        await line.configure()
        [record] = await line.finished(mine)
        assert record.attempts[-1].result == Result.DELIVERED


async def test_nothing_is_sent_to_a_deleted_token(tmp_path: Path) -> None:
    async with line_and_phones(tmp_path) as (line, phones):
        device = await register(line, phones, "one")
        phones.answer = lambda token: Reply(503, [(b"retry-after", b"1")])
        event = make_event()
        await line.append(event)
        await line.attempted(event)
        phones.answer = lambda token: None
        await line.store.registry.delete(device.owner, NAME, device.token)
        [record] = await line.finished(event)
        assert [one.result for one in record.attempts] == [Result.RETRY, Result.CANCELLED]
        assert phones.received == []


async def test_a_device_of_a_provider_that_is_not_set_up_any_more_is_kept_and_delays_nobody(tmp_path: Path) -> None:
    async with line_and_phones(tmp_path) as (line, _):
        gone = Registration(UserId(OWNER), "gone", DeviceToken("one"))
        await line.store.registry.add(gone, 100)
        reached = apns_device()
        await line.register(reached)
        event = make_event()
        await line.append(event)
        record = await line.attempted(event, 2)
        assert {one.device: (one.result, one.reason) for one in record.attempts} == {
            reached.key: (Result.DELIVERED, ""),
            "gone:one": (Result.MISCONFIGURED, "no provider gone is set up here"),
        }
        assert [parked.targets for parked in record.waiting] == [("gone:one",)]
        assert line.lane("gone:").state is LaneState.PAUSED


async def test_the_whole_service_registers_its_devices_and_delivers_to_them(tmp_path: Path) -> None:
    settings = Settings(store=StoreSettings(path=tmp_path / "tocsin.db"), server=Server(port=0, drain_s=1))
    async with running_phones(tmp_path / "phones") as phones:
        tls = client_tls(phones.ca)

        def make(context: Context) -> Providers:
            return Providers([*configured(settings)(context).values(), PostProvider(tls, context)])

        async with open_store(settings) as store:
            await store.credentials.put(SECRET)
            sid, _ = await store.access.create_session(UserId(OWNER), None)
            key, _ = await store.access.create_key(Role.PRODUCER, "test", None)
        url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve(settings, ready=url.set_result, make_providers=make))
        try:
            async with httpx.AsyncClient(base_url=await asyncio.wait_for(url, 10)) as client:
                await _story(client, phones, sid, key)
        finally:
            signal.raise_signal(signal.SIGTERM)
            await asyncio.wait_for(serving, 15)


async def _story(client: httpx.AsyncClient, phones: Phones, sid: str, key: str) -> None:
    user, producer = {"authorization": f"Bearer {sid}"}, {"authorization": f"Bearer {key}"}
    phones.keys["one"] = key_of("one")
    add: dict[str, Any] = {"system": NAME, "action": "add", "device_token": "one", "key": key_of("one")}
    answer = await client.post("/api/push", headers=user, json=add | {"url": "http://localhost/one"})
    assert answer.status_code == 400
    assert answer.json()["errors"] == [{"at": "$.url", "reason": "must be an https URL"}]
    answer = await client.post("/api/push", headers=user, json=add | {"url": f"{phones.url}/one"})
    assert (answer.status_code, answer.json()) == (200, {})
    assert (await client.get("/api/push", headers=user)).json()[NAME] == {"device_tokens": ["one"]}
    fax = {"owner": OWNER, "message": "fax_new", "fax": OWNER, "phone": "+49", "page_count": 2}
    answer = await client.post("/api/events", headers=producer, json=fax)
    assert answer.status_code == 202
    await phones.have_received(1)
    token, content = phones.received[0]
    assert (token, content) == ("one", fax)
