"""Every command that uses the store works on both, and says the same."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from tests.cli.conftest import APPLICATION, OWNER, Ran, Run
from tests.cli.test_help import LEAVES
from tests.support.line import make_event
from tests.torture.processes import free_ports

from tocsin.cli.opening import in_store
from tocsin.emulator.credentials import Files
from tocsin.settings import load
from tocsin.store.opening import open_store
from tocsin.store.ports import Store
from tocsin.store.records import Attempt, DeadToken, Result, Settlement

FAX = ("--fax", "af729cc0-3251-11e2-81c1-0800200c9a66", "--phone", "+492215587412", "--page-count", "2")
TOKEN, OTHER_TOKEN = "a6" * 32, "b7" * 32
DEVICE = {"owner": OWNER, "system": "apns", "application_id": APPLICATION}

ELSEWHERE = {
    "serve": "tests/system",
    "console": "has no store",
    "emulator": "has no store",
    "demo": "has one of its own",
    "top": "asks a server",
    "completion": "has no store",
    "session check": "asks who has signed in: test_session_check.py",
    "app check": "asks Apple: test_check.py",
    "fcm check": "asks Google: test_check.py",
    "store backup": "the test below",
    "store restore": "the test below",
    "store migrate": "goes from one to the other: test_migrate.py",
    "store give-up-key": "tests/postgres/test_lost_keys.py, test_master_key.py",
}
"""Commands that the story is without, and why."""


@pytest.fixture(params=["sqlite", "postgresql"])
def on_each(request: pytest.FixtureRequest, run: Run) -> Run:
    if request.param == "postgresql":
        request.getfixturevalue("on_postgres")
    return run


async def _refused_once() -> str:
    """A server has an event that Apple has refused."""
    async with open_store(load(), server=True) as store:
        await store.start()
        event = make_event()
        await store.queue.append([event])
        (item,) = await store.queue.claim(10)
        attempt = Attempt(event.accepted_ms, f"apns:{TOKEN}", "apns:production:x", Result.REFUSED, 400, "BadPriority")
        assert await store.queue.settle([Settlement(item, [attempt], [])]) == [True]
        while await store.search.fill(1.0):
            pass
        return event.id


async def _quarantine(store: Store) -> None:
    (device,) = [one for one in await store.registry.find(TOKEN) if one.provider == "apns"]  # type: ignore[arg-type]
    await store.registry.remove_dead([DeadToken(device, APPLICATION, "Unregistered", 2**62)], quarantine=True)


def story(run: Run, credentials: Files) -> dict[str, Ran]:
    """Returns what the last run of each command said."""
    said: dict[str, Ran] = {}

    def does(command: str, *arguments: str, status: int = 0) -> Ran:
        ran = run(*command.split(), *arguments)
        assert ran.status == status, f"{command}: {ran.out}{ran.err}"
        said[command] = ran
        return ran

    for file, token in (("token.txt", TOKEN), ("other.txt", OTHER_TOKEN)):
        Path(file).write_text(token + "\n")
    devices = [{**DEVICE, "device_token": token} for token in (TOKEN, OTHER_TOKEN)]
    Path("devices.ndjson").write_text("".join(json.dumps(one) + "\n" for one in devices))

    # Who may call.
    key = does("key create", "admin", "--name", "ops", "--json").json["id"]
    session = does("session create", "--owner", OWNER, "--json").json["id"]
    assert key in [one["id"] for one in does("key list", "--json").json]
    assert [one["id"] for one in does("session list", "--owner", OWNER, "--json").json] == [session]
    does("key revoke", key)
    does("session revoke", session)
    does("key revoke", key, status=1)

    # By what Apple and Google are reached.
    does("app add", APPLICATION, "--key", str(credentials.apns_key), "--key-id", "ABC123DEFG")
    does("fcm add", "main", "--service-account", str(credentials.service_account))
    does("fcm add", "tablets", "--service-account", str(credentials.service_account))
    does("fcm default", "tablets")
    assert [(one["name"], one["default"]) for one in does("fcm list", "--json").json] == [
        ("main", False),
        ("tablets", True),
    ]
    does("fcm remove", "main")
    assert len(does("app list", "--json").json) == 1

    # Devices.
    does("device import", "devices.ndjson", "--json")
    assert len(does("device list", "--owner", OWNER, "--json").json) == 2
    does("device remove", "--token-file", "other.txt")
    assert len(does("device history", "--token-file", "other.txt", "--json").json) == 1
    does("device restore", "--token-file", "other.txt")
    assert {TOKEN, OTHER_TOKEN} <= set(does("device export", "--format", "csv").out.replace("\n", ",").split(","))
    for verb, more in (("release", ()), ("purge", ("--yes",))):
        in_store(load(), _quarantine)
        assert len(does("quarantine list", APPLICATION, "--json").json) == 1
        does(f"quarantine {verb}", APPLICATION, *more)
    assert len(does("device list", "--owner", OWNER, "--json").json) == 1

    # Events.
    event = asyncio.run(_refused_once())
    assert [one["id"] for one in does("deadletter list", "--json").json] == [event]
    assert does("event show", event, "--json").json["state"] == "dead"
    assert len(does("deliveries search", "--reason", "BadPriority", "--json").json["deliveries"]) == 1
    assert "1 dead letters are delivered again" in does("deadletter replay", event).err
    other = asyncio.run(_refused_once())
    assert other != event
    assert "1 dead letters are discarded" in does("deadletter discard", "--all").err
    does("send fax_new", "--owner", OWNER, *FAX)
    Path("tocsin.toml").write_text(f"[server]\nport = {free_ports(1)}\n")  # nobody serves there
    said["status"] = run("status", "--json")
    assert said["status"].json["waiting"]["events"] >= 1

    # The store.
    does("store check")
    assert does("store export-key").out.strip()
    does("store rekey")
    said["doctor"] = run("doctor", "--offline", "--json")
    assert "sound, and of this version" in said["doctor"].out
    assert does("user erase", OWNER, "--yes", "--json").json["devices"] == 1
    does("app remove", APPLICATION)

    # What the log has of all that.
    actions = {one["action"] for one in does("audit list", "--limit", "1000", "--json").json}
    assert {"key.revoke", "session.revoke", "device.restore", "store.rekey", "user.erase"} <= actions
    does("audit export")
    does("audit verify", "--json")
    return said


def test_every_command_works_on_both_stores(on_each: Run, credentials: Files) -> None:
    told = story(on_each, credentials)
    every = {" ".join(path) for path in LEAVES if path[0] != "send"} | {"send fax_new"}
    assert every - told.keys() == ELSEWHERE.keys(), "add a new command to the story"


@pytest.mark.parametrize("command", [("store", "backup", "copy.db"), ("store", "restore", "copy.db")])
def test_a_store_on_postgresql_is_copied_and_restored_by_its_own_means(
    on_postgres: Run, command: tuple[str, ...]
) -> None:
    ran = on_postgres(*command)
    assert ran.status == 1
    assert "is copied and restored by its own means" in ran.err
    assert "docs/scale.md" in ran.err
    assert not Path("copy.db").exists()
