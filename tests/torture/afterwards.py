"""After a run: what still waits, what the API says of every event, and the report."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from tests.torture.http_client import Client, NoResponse, Response
from tests.torture.sent_events import SentEvents
from tests.torture.verification import Findings

_FETCHED_AT_ONCE: Final = 16


async def backlog(client: Client) -> int:
    """Accepted events that are not settled, as the server counts them. `client` calls the private address."""
    while True:
        with contextlib.suppress(NoResponse):
            response = await client.call("GET", "/metrics")
            for line in response.body.decode().splitlines():
                if line.startswith("tocsin_backlog_events "):
                    return int(float(line.split()[1]))
        await asyncio.sleep(0.1)


async def fetch_reports(
    ports: Sequence[int], secret: str, sent: SentEvents, within_s: float, errors: list[str]
) -> dict[str, Any]:
    """`GET /api/events/{id}` for every event that was accepted; an error is added where that takes too long."""
    ids = dict.fromkeys(event.event_id for event in sent.events if event.accepted_at is not None)
    wanted = iter(ids)
    reports: dict[str, Any] = {}

    async def fetch(port: int) -> None:
        client = Client(port, secret)
        for id in wanted:
            assert id is not None
            response = await _answered(client, f"/api/events/{id}")
            if response.status == 200:  # an event without a report is an error of its own
                reports[id] = msgspec.json.decode(response.body)
        client.close()

    try:
        async with asyncio.timeout(within_s), asyncio.TaskGroup() as tasks:
            for number in range(_FETCHED_AT_ONCE):
                tasks.create_task(fetch(ports[number % len(ports)]))
    except TimeoutError:
        errors.append(f"{len(reports):,} of {len(ids):,} events could be asked for within {within_s:.0f} s")
    return reports


async def _answered(client: Client, path: str) -> Response:
    """Repeat the request while there is no answer, or one that says to repeat it."""
    while True:
        with contextlib.suppress(NoResponse):
            response = await client.call("GET", path)
            if response.status != 503:
                return response
        await asyncio.sleep(0.1)


def report(findings: Findings, failed: Mapping[str, int], sent: SentEvents, happened: str, took_s: float) -> list[str]:
    """The lines that a run ends with. `failed` counts what was made to fail; `happened` sums it up in a few words."""
    counts = findings.counts
    lines: list[str] = []
    for title, table in (
        ("What failed", failed),
        ("What the producers saw", sent.counts),
        ("What became of the events", counts),
    ):
        lines += [title, *(f"  {count:>9,}  {what}" for what, count in sorted(table.items())), ""]
    lines += [f"Latest push after a deletion was answered: {findings.latest_after_delete_s:.3f} s", ""]
    summary = (
        f"{counts['accepted']:,} events accepted, {happened}, {counts['deliveries owed']:,} deliveries owed, "
        f"{counts.get('duplicates', 0):,} duplicates, {took_s:.0f} s"
    )
    lines.append(f"{'FAILED' if findings.errors else 'All accounted for'}: {summary}")
    return lines + findings.lines()
