"""`python -m benchmarks.peers.aioapns_peer PORT KEY KEY_ID TEAM_ID CA`: see the package."""

from __future__ import annotations

import asyncio
import ssl
import sys
import time
from pathlib import Path

from aioapns import APNs, NotificationRequest, PushType
from aioapns.connection import APNsProductionClientProtocol

_AT_ONCE = 500
_WARM_UP = 2000
_PAYLOAD = {
    "aps": {"content-available": 1},
    "owner": "00000000-0000-4000-8000-000000000000",
    "message": "fax_new",
    "fax": "af729cc0-3251-11e2-81c1-0800200c9a66",
    "phone": "+492215587412",
    "page_count": 2,
}


async def _push(client: APNs, count: int, offset: int) -> float:
    numbers = iter(range(offset, offset + count))

    async def worker() -> None:
        for number in numbers:
            request = NotificationRequest(
                device_token=f"a{number:063x}", message=_PAYLOAD, push_type=PushType.BACKGROUND, priority=5
            )
            response = await client.send_notification(request)
            if not response.is_successful:
                raise RuntimeError(response.description)

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(_AT_ONCE)))
    return time.perf_counter() - started


async def main() -> None:
    port, key, key_id, team_id, ca = sys.argv[1:]
    client = APNs(
        key=Path(key).read_text(),
        key_id=key_id,
        team_id=team_id,
        topic="de.cospace.app",
        max_connections=1,
        ssl_context=ssl.create_default_context(cafile=ca),
    )

    class Protocol(APNsProductionClientProtocol):  # type: ignore[misc]
        APNS_SERVER = "localhost"
        APNS_PORT = int(port)

    client.pool.protocol_class = Protocol
    await _push(client, _WARM_UP, 1_000_000_000)
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        count, offset = map(int, line.split())
        print(await _push(client, count, offset), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
