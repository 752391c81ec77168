"""`make demo-cluster`: events through the bus of a whole cluster, while a delivery node and the primary are killed.

It lives beside the tests, as the servers that it starts come from the wheels of the tests.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Final

from tests.cluster.phones import Phones, Published
from tests.cluster.running import Cluster, running_cluster
from tocsin.cli.demo.events import EVENTS
from tocsin.cli.demo.users import ANNA, USERS

_RUNG_WITHIN_S: Final = 60.0
_FAXES: Final = 50
_EVERY_S: Final = 0.1
_FAULT_AFTER: Final = 15


class NotRung(Exception):  # noqa: N818
    """A phone has not rung in time, or one that should not have has."""


def say(text: str = "") -> None:
    print(text, flush=True)


async def tell(cluster: Cluster, phones: Phones) -> None:
    """The whole story. Raises NotRung."""
    for user in USERS:
        await phones.register(user)
    count = sum(len(user.phones) for user in USERS)
    say(f"{count} phones of {len(USERS)} users are registered, through both API nodes.")
    say(f"\n1. Five events for {ANNA.name}, published to JetStream:")
    for event in EVENTS:
        published = await phones.publish(event)
        await _all_rang(phones, [published])
        rang = f"rang at {len(published.rang)} of {len(ANNA.phones)} phones"
        say(f"  {published.message:<27} {rang}, the last after {published.waited_s * 1000:.0f} ms")

    say(f"\n2. {_FAXES} faxes for all three users; in the middle a delivery node is killed (SIGKILL):")
    victim, other = cluster.delivery_nodes

    async def kill_node() -> None:
        victim.kill()
        say(f"  {victim.name} is killed; its owners' events wait until {other.name} has taken its logs over")

    await _during(phones, kill_node)
    await victim.start()
    say(f"  {victim.name} is started again, and takes its share")

    say(f"\n3. {_FAXES} more; in the middle the database's primary is killed, and its standby promoted:")

    async def kill_primary() -> None:
        killed = cluster.database.primary.port
        began = time.monotonic()
        await cluster.database.fail_over()
        say(f"  the primary (port {killed}) is killed, and the standby promoted after {time.monotonic() - began:.1f} s")
        for _ in cluster.api_nodes:
            await phones.post_fax(ANNA)
        took_s = time.monotonic() - began
        say(f"  POST /api/events is answered with 202 again, by both API nodes, {took_s:.1f} s after the kill")
        await cluster.database.make_standby()
        say("  a new standby is copied from it, and every commit waits for it again")

    await _during(phones, kill_primary)
    _sum_up(phones)


async def _during(phones: Phones, fault: Callable[[], Awaitable[None]]) -> None:
    """Publish at a steady pace, with the fault in the middle; returns when all of it has rung."""
    before = len(phones.published)
    failing: asyncio.Task[None] | None = None
    for user in (user for _, user in zip(range(_FAXES), cycle(USERS), strict=False)):
        if len(phones.published) == before + _FAULT_AFTER:
            failing = asyncio.ensure_future(fault())
        await phones.publish_fax(user)
        await asyncio.sleep(_EVERY_S)
    assert failing is not None
    await failing
    # With what the fault itself has sent.
    events = list(phones.published.values())[before:]
    await _all_rang(phones, events)
    waits = sorted(event.waited_s for event in events)
    pushes = sum(len(event.rang) for event in events)
    median_ms, longest_s = waits[len(waits) // 2] * 1000, waits[-1]
    times = f"after {median_ms:.0f} ms in the median, {longest_s:.1f} s at most"
    say(f"  all {len(events)} rang, at {pushes} phones: {times}")


async def _all_rang(phones: Phones, events: Sequence[Published]) -> None:
    if not await phones.rung(events, _RUNG_WITHIN_S):
        late = sum(not event.has_rung_everywhere for event in events)
        raise NotRung(f"{late} of {len(events)} events have not rung at every phone within {_RUNG_WITHIN_S:.0f} s")


def _sum_up(phones: Phones) -> None:
    """Raises NotRung where something has rung that should not have."""
    if phones.wrong:
        raise NotRung(f"{phones.wrong} pushes reached phones that they were not for")
    events = phones.published.values()
    pushes = sum(len(event.rang) for event in events)
    twice = sum(len(times) - 1 for event in events for times in event.rang.values())
    say(f"\nEvery phone rang: {len(events)} events, {pushes} times; nobody else's did.")
    if twice:
        say(f"{twice} rang twice: on the wire when their node or the primary was killed, and not on record yet.")


async def run(directory: Path, *, once: bool) -> None:
    say("Starting PostgreSQL with a synchronous standby, three NATS servers, an emulator of Apple and Google,")
    say("and tocsin: two nodes that serve the API, and two that deliver.")
    began = time.monotonic()
    async with (
        running_cluster(directory, [user.id for user in USERS]) as cluster,
        cluster.bus() as bus,
    ):
        say(f"All of it runs after {time.monotonic() - began:.0f} s.\n")
        await tell(cluster, Phones(cluster, bus))
        if not once:
            say(f"\nRunning until Ctrl-C. Configurations and logs: {directory}")
            for node in cluster.nodes:
                say(f"  {node.name:<11} http://127.0.0.1:{node.port}")
            say(f"  NATS        {', '.join(server.url for server in cluster.nats)}")
            say(f"  PostgreSQL  {cluster.database.primary.url('tocsin')}")
            say(f"  a backend's key: {cluster.producer_key}")
            await asyncio.Event().wait()
    say("All processes have ended.")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo-cluster", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end when everything has arrived (0), or has not (1)")
    given = parser.parse_args()
    # SIGTERM ends it as Ctrl-C does: in order. A shell that starts it in the background has it ignore SIGINT.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="tocsin-cluster-") as directory:
        try:
            asyncio.run(run(Path(directory), once=given.once))
        except KeyboardInterrupt:
            say("\nStopped.")
            return 130 if given.once else 0
        except NotRung as error:
            say(f"\nFAILED: {error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
