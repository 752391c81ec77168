"""What an operator sees of a running server: a wrong key from its first answer to the delivery after its repair."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.system.running_system import RunningSystem, eventually
from tests.torture.http_client import Client, Response
from tests.torture.processes import APPLICATION

LANE = f"apns:production:{APPLICATION}"


class Operator:
    def __init__(self, system: RunningSystem) -> None:
        self._system = system
        made = system.server.run_cli("key", "create", "admin")
        assert made.returncode == 0, made.stderr
        self.key = made.stdout.split()[-1]

    async def call(self, method: str, path: str, body: Any = None) -> Response:
        client = Client(self._system.server.port, self.key)
        try:
            return await client.call(method, f"/api/admin{path}", b"" if body is None else msgspec.json.encode(body))
        finally:
            client.close()

    async def get(self, path: str) -> Any:
        response = await self.call("GET", path)
        assert response.status == 200, response
        return response.json()

    async def found(self, **fields: Any) -> list[Any]:
        response = await self.call("POST", "/deliveries/search", fields)
        assert response.status == 200, response
        rows: list[Any] = response.json()["deliveries"]
        return rows


async def test_a_wrong_key_is_seen_explained_mended_and_the_delivery_followed(
    shared: RunningSystem, tmp_path: Path
) -> None:
    operator = await asyncio.to_thread(Operator, shared)
    user = await shared.user()
    key_id, right = shared.emulator.summary["key_id"], Path(shared.emulator.summary["apns_key"]).read_text()
    key = ec.generate_private_key(ec.SECP256R1())
    wrong = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    async def use(pem: str) -> bool:
        put = await operator.call("PUT", f"/applications/{APPLICATION}", {"key_pem": pem, "key_id": key_id})
        assert put.status == 200, put
        checked = await operator.call("POST", f"/accounts/apns/{APPLICATION}/check", {})
        assert checked.status == 200, checked
        (account,) = [one for one in await operator.get("/accounts") if one["account"] == APPLICATION]
        assert account["last_check"] == checked.json()
        return bool(checked.json()["ok"])

    # At once: what is asked is the credential that was put a moment ago.
    for _ in range(5):
        assert await use(right)
        assert not await use(wrong)
    (event,) = await shared.send(user, 1)

    async def rows() -> Any:
        return await operator.found(owner=user.owner, outcome=["waiting"])

    await eventually(rows, 10, shared.explain)
    (row,) = await rows()
    assert (row["lane"], row["reason"]) == (LANE, "InvalidProviderToken")
    story = await operator.get(f"/events/{row['event_id']}")
    (device,) = story["devices"]
    assert device["explanation"]["code"] == "bad_credential"
    assert "Apple does not accept the key" in device["explanation"]["cause"]
    assert "tocsin app add" in device["explanation"]["remedy"]
    assert device["next"]["what"] == "paused"
    assert device["request"]["body"]["aps"] == {"content-available": 1}
    (lane,) = [one for one in (await operator.get("/figures"))["lanes"] if one["name"] == LANE]
    assert (lane["state"], lane["pauses"][0]["cause"]) == ("paused", "credential")
    assert lane["pauses"][0]["since"] < lane["pauses"][0]["next_at"]
    shown = await asyncio.to_thread(shared.server.run_cli, "event", "show", row["event_id"])
    assert "why: Apple does not accept the key" in shown.stdout

    assert await use(right)
    await shared.all_received([event], 10)

    async def delivered() -> Any:
        return await operator.found(owner=user.owner, outcome=["delivered"])

    await eventually(delivered, 10, shared.explain)
    story = await operator.get(f"/events/{row['event_id']}")
    assert (story["state"], story["content"]["state"]) == ("done", "gone")
    assert story["explanation"]["code"] == "delivered"
    assert [one["result"] for one in story["devices"][0]["attempts"]][-1] == "delivered"
    totals = (await operator.get("/figures"))["totals"]
    assert totals["accepted"] >= 1
    assert totals["sent"] >= 1


async def test_dead_letters_are_replayed_in_bulk_by_filter(shared: RunningSystem) -> None:
    operator = await asyncio.to_thread(Operator, shared)
    user = await shared.user()
    (device,) = user.devices
    await shared.faults({"match": {"token": device.token}, "status": 413, "reason": "PayloadTooLarge"})
    events = await shared.send(user, 300)
    wanted = {"action": "replay", "filter": {"owner": user.owner, "reason": "PayloadTooLarge"}}

    async def all_refused() -> bool:
        preview = await operator.call("POST", "/jobs/preview", wanted)
        assert preview.status == 200, preview
        return bool(preview.json()["estimate"] == 300)

    await eventually(all_refused, 20, shared.explain)
    await shared.faults()
    job = (await operator.call("POST", "/jobs", wanted)).json()
    await shared.all_received(events, 20)

    async def done() -> bool:
        return bool((await operator.get(f"/jobs/{job['id']}"))["state"] == "done")

    await eventually(done, 10, shared.explain)
    ended = await operator.get(f"/jobs/{job['id']}")
    assert (ended["done"], ended["skipped"], ended["total"]) == (300, 0, 300)


async def test_figures_are_streamed_and_the_stream_does_not_keep_a_server_from_stopping(system: RunningSystem) -> None:
    operator = await asyncio.to_thread(Operator, system)
    reader, writer = await asyncio.open_connection("127.0.0.1", system.server.port)
    head = f"GET /api/admin/figures/stream HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {operator.key}\r\n\r\n"
    writer.write(head.encode())
    async with asyncio.timeout(15):
        assert (await reader.readline()).split()[1] == b"200"
        seen = []
        while len(seen) < 2:
            line = await reader.readline()
            if line.startswith(b"data: "):
                seen.append(json.loads(line.removeprefix(b"data: ")))
    assert seen[0]["at"] < seen[1]["at"]
    assert seen[1]["nodes"][0]["gone"] is False
    assert await asyncio.to_thread(system.server.terminate) == 0
    writer.close()
