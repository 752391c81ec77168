"""Why a push did not arrive, and what to do: by the API that the console shows, and by `tocsin event show`."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.system.running_system import RunningSystem, eventually
from tests.torture.http_client import Client
from tocsin.cli import main
from tocsin.settings import load
from tocsin.store.opening import open_store
from tocsin.store.records import Role

CALL = "dialplan_callreverse_start"

_LOOKS = 10
"""How often the two are asked, until no attempt came between: each attempt tells another time of the next one."""


class Case(msgspec.Struct):
    """One device whose push does not arrive."""

    fault: dict[str, Any]
    """What the provider does with its token."""
    outcome: str
    code: str
    cause: str
    """A part of the sentence."""
    remedy: str
    message: str = "fax_new"


CASES = {
    "app uninstalled": Case(
        {"status": 410, "reason": "Unregistered", "timestamp": int(time.time() * 1000) + 3_600_000},
        "token_dead",
        "app_uninstalled",
        "the app was uninstalled",
        "the app registers its new token",
    ),
    "wrong environment": Case(
        {"status": 400, "reason": "BadDeviceToken"},
        "token_dead",
        "wrong_environment",
        "in neither environment (400 BadDeviceToken)",
        '"sandbox": true for builds signed for development',
    ),
    "wrong topic": Case(
        {"status": 400, "reason": "DeviceTokenNotForTopic"},
        "waiting",
        "wrong_topic",
        "not for the topic (400 DeviceTokenNotForTopic)",
        "Register the device with the application id of the app",
    ),
    "provider down": Case(
        {"status": 503, "reason": "ServiceUnavailable"},
        "waiting",
        "provider_down",
        "(503 ServiceUnavailable)",
        "tocsin tries again by itself",
    ),
    "event expired": Case(
        {"status": 503, "reason": "ServiceUnavailable"},
        "expired",
        "expired",
        "The event's lifetime ended at",
        "tocsin deadletter replay",
        CALL,
    ),
}


class Caused(msgspec.Struct):
    """A server with one event of each case."""

    system: RunningSystem
    admin: str
    ids: dict[str, str]

    async def get(self, path: str, key: str) -> Any:
        client = Client(self.system.server.port, key)
        try:
            response = await client.call("GET", path)
        finally:
            client.close()
        assert response.status == 200, response
        return response.json()


@pytest.fixture(scope="module")
def caused(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caused]:
    system = RunningSystem(tmp_path_factory.mktemp("causes"), {"delivery.lifetimes": {CALL: 1}})
    try:
        asyncio.run(system.open(users=len(CASES)))
        yield asyncio.run(_cause(system))
    finally:
        system.close()


async def _cause(system: RunningSystem) -> Caused:
    async with open_store(load(system.server.config, environ={})) as store:
        admin, _ = await store.access.create_key(Role.ADMIN, "causes", None)
    users = {name: await system.user() for name in CASES}
    await system.faults(
        *({"match": {"token": users[name].devices[0].token}} | case.fault for name, case in CASES.items())
    )
    ids = {name: str(uuid.uuid4()) for name in CASES}
    client = system.client()
    for name, case in CASES.items():
        content = {"fax": str(uuid.uuid4()), "phone": "+49", "page_count": 1}
        if case.message == CALL:
            content = {"phone_from": "+49", "phone_to": "+49"}
        body = {"owner": users[name].owner, "message": case.message, "event_id": ids[name]} | content
        response = await client.call("POST", "/api/events", msgspec.json.encode(body))
        assert response.status == 202, response
    client.close()
    return Caused(system, admin, ids)


@pytest.mark.parametrize("name", CASES)
def test_the_api_and_the_command_name_cause_and_remedy(
    caused: Caused, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    case, id = CASES[name], caused.ids[name]
    told = asyncio.run(_told(caused, case, id))
    for _ in range(_LOOKS):
        words = _shown(caused, id, capfd)
        before, told = told, asyncio.run(_told(caused, case, id))
        if told["explanation"] == before["explanation"]:
            break
    explanation = told["devices"][0]["explanation"]
    assert explanation["code"] == case.code
    assert case.cause in explanation["cause"]
    assert case.remedy in explanation["remedy"]
    assert told["explanation"] == explanation, "it is its only device"
    assert f"why: {explanation['cause']}" in words
    assert f"what to do: {explanation['remedy']}" in words


def _shown(caused: Caused, id: str, capfd: pytest.CaptureFixture[str]) -> str:
    """What `tocsin event show` says of it, in one line."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(("event", "show", id, "--config", str(caused.system.server.config)))
    shown = capfd.readouterr()
    assert not ended.value.code, shown.err
    return " ".join(shown.out.split())


async def _told(caused: Caused, case: Case, id: str) -> Any:
    """The event's timeline, as the console gets it, once it stands as it should for its producer."""

    async def settled() -> bool:
        devices = (await caused.get(f"/api/events/{id}", caused.system.secret))["devices"]
        return bool(devices and devices[0]["attempts"] and devices[0]["outcome"] == case.outcome)

    await eventually(settled, 20, caused.system.explain)
    return await caused.get(f"/api/admin/events/{id}", caused.admin)
