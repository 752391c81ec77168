"""A backend that hands in events. Run it beside `tocsin demo`:

TOCSIN_ADDRESS=http://127.0.0.1:8080 PRODUCER_KEY=tocsin_producer_… OWNER=9aed5e94-… python examples/backend.py
"""

from __future__ import annotations

import asyncio
import os
from uuid import uuid4

from tocsin_client import AsyncBuffer, AsyncClient, FaxNew, RecordingNew


async def main() -> None:
    owner = os.environ["OWNER"]
    async with AsyncClient(os.environ["TOCSIN_ADDRESS"], os.environ["PRODUCER_KEY"]) as client:
        # One event. It is durable when the call returns; a lost answer is repeated with the same id.
        event_id = await client.send(FaxNew(owner=owner, fax=uuid4(), phone="+492215587412", page_count=2))

        # What became of it, when every device of its owner has its outcome.
        report = await client.wait_settled(event_id)
        for device in report.devices:
            print(f"{report.message}: {device.system} {device.outcome}")

        # Events of many tasks: gathered into few requests, and each task still learns when its own is durable.
        async with AsyncBuffer(client) as buffer:
            events = [RecordingNew(owner=owner, recording=uuid4(), phone="") for _ in range(100)]
            ids = await asyncio.gather(*(buffer.send(event) for event in events))
        print(f"{len(ids)} recordings handed in")


if __name__ == "__main__":
    asyncio.run(main())
