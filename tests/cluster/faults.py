"""Makes nodes, servers and connections fail at random: what concerns the database, and beside it all the rest."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Final

from tests.cluster.proxy import Way
from tests.cluster.running import Cluster, Node
from tests.support.nats import NatsServer
from tests.support.postgres_server import remove
from tests.torture.processes import DidNotStart
from tests.torture.producers import Pace
from tests.torture.provider import FAULTS, Provider
from tests.torture.tokens import Tokens
from tests.torture.users import User
from tests.torture.verification import Disturbance

_START_S: Final = 240.0
"""A start that meets one fault of the database after the other takes long."""
_LONG_STOP_S: Final = 9.0
"""Its session is ended by another node six seconds after its last heartbeat, and its logs are taken over."""
_SESSIONS_OF: Final = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND ($1 = '' OR application_name = $1)"""
_APPLICATIONS: Final = """SELECT DISTINCT application_name FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'tocsin%'"""

Fault = Callable[[], Awaitable[None]]


class Faults:
    """Counts what it does by name, and notes when it may have made a duplicate."""

    def __init__(
        self,
        cluster: Cluster,
        users: list[User],
        pace: Pace,
        rng: random.Random,
        cut_s: float,
        say: Callable[[str], None],
    ) -> None:
        self._cluster = cluster
        self._pace = pace
        self._rng = rng
        self._cut_s = cut_s
        self._say = say
        self._provider = Provider(cluster.emulator, rng)
        self.tokens = Tokens(cluster.api_ports, users, self._provider, rng, self._note)
        self.counts: dict[str, int] = {}
        self.faults = 0
        """Of nodes, servers and connections; what tokens and the provider do is not counted here."""
        self.disturbances: list[Disturbance] = []
        self.database: Sequence[Fault] = (
            self._primary_dies,
            self._primary_is_isolated,
            self._primary_stands_still,
            self._standby_is_away,
            self._sessions_are_ended,
            self._all_are_cut_off,
        )
        """One at a time: the next begins when commits wait for a standby again."""
        self.others: Sequence[Fault] = (
            self._delivery_node_dies,
            self._api_node_dies,
            self._delivery_node_dies,
            self._delivery_node_stands_still,
            self._delivery_node_stands_still_for_long,
            self._api_node_stands_still,
            self._node_is_cut_off,
            self._answers_are_swallowed,
            self._answers_are_swallowed,
            self._nats_leader_dies,
            self._nats_server_dies,
            self._nats_server_stands_still,
            self._provider_fails,
            self.tokens.die,
            self._flood,
        )

    async def run(self, faults: Sequence[Fault], *, until: float, at_least: int, pause_s: float) -> None:
        """In a random order, each as often as the others; until that time (monotonic), and at least so many."""
        done = 0
        while time.monotonic() < until or done < at_least:
            for fault in self._rng.sample(faults, len(faults)):
                if time.monotonic() > until and done >= at_least:
                    break
                await fault()
                done += 1
                await asyncio.sleep(self._rng.random() * 2 * pause_s)

    def brief(self) -> tuple[Sequence[Fault], Sequence[Fault]]:
        """For a short run: of each part the fault that has most consequences."""
        database = self._rng.choice((self._primary_dies, self._primary_is_isolated))
        others = (
            self._delivery_node_dies,
            self._answers_are_swallowed,
            self._nats_leader_dies,
            self._node_is_cut_off,
            self._delivery_node_stands_still,
        )
        return (database,), others

    def close(self) -> None:
        self._provider.close()

    # -- the database --------------------------------------------------------------------------------------------------

    async def _primary_dies(self) -> None:
        database = self._cluster.database
        with self._failing("the primary is killed, the standby promoted"):
            before = database.primary
            await asyncio.to_thread(before.kill)
            await asyncio.sleep(self._rng.random() * 1.5)
            await database.promote()
            await asyncio.to_thread(remove, before)
            await database.make_standby()

    async def _primary_is_isolated(self) -> None:
        """It goes on running when the standby is promoted already: it takes connections and writes, and acknowledges
        nothing."""
        database = self._cluster.database
        stopped = self._rng.random() < 0.5
        how = "stopped (SIGSTOP), the standby promoted, and continued" if stopped else "isolated, the standby promoted"
        with self._failing(f"the primary is {how}"):
            if stopped:
                database.primary.send(signal.SIGSTOP)
                await asyncio.sleep(self._rng.random() * 2)
            before = await database.promote()
            await asyncio.sleep(self._rng.random() * 2)
            if stopped:
                before.send(signal.SIGCONT)
            await asyncio.sleep(1 + self._rng.random() * 2)
            await asyncio.to_thread(before.kill)
            await asyncio.to_thread(remove, before)
            await database.make_standby()

    async def _primary_stands_still(self) -> None:
        primary = self._cluster.database.primary
        with self._failing("the primary is stopped (SIGSTOP) for a while"):
            primary.send(signal.SIGSTOP)
            await asyncio.sleep(0.5 + self._rng.random() * 4)
            primary.send(signal.SIGCONT)

    async def _standby_is_away(self) -> None:
        database = self._cluster.database
        with self._failing("the standby is away for a while"):
            await database.stop_standby()
            await asyncio.sleep(1 + self._rng.random() * min(8, self._cut_s))
            await database.start_standby()

    async def _sessions_are_ended(self) -> None:
        """By an administrator: those of one node, or all."""
        ask = self._cluster.database.ask
        whose = ""
        if self._rng.random() < 0.7:
            whose = self._rng.choice(sorted(row[0] for row in await ask(_APPLICATIONS)) or [""])
        with self._failing("sessions of one node are ended" if whose else "all sessions are ended"):
            await ask(_SESSIONS_OF, whose)

    async def _all_are_cut_off(self) -> None:
        with self._failing("every connection to the database is cut for a while"):
            await self._cut(self._cluster.nodes, Way.CUT, self._cut_s)

    # -- nodes ---------------------------------------------------------------------------------------------------------

    async def _delivery_node_dies(self) -> None:
        await self._dies(self._rng.choice(self._cluster.delivery_nodes))

    async def _api_node_dies(self) -> None:
        await self._dies(self._rng.choice(self._cluster.api_nodes))

    async def _dies(self, node: Node) -> None:
        """While pushes are in flight, sometimes; and sometimes once more while it starts."""
        async with self._slow_provider(node):
            with self._failing(f"{_kind(node)} is killed"):
                node.kill()
        await asyncio.sleep(self._rng.random() * 3)
        if self._rng.random() < 0.2:
            await node.start(wait=False)
            await asyncio.sleep(self._rng.random() * 2)
            with self._failing(f"{_kind(node)} is killed while it starts"):
                node.kill()
        await self._start(node)

    async def _start(self, node: Node) -> None:
        """As whatever looks after services does: a start that fails, as the database is down, is repeated."""
        deadline = time.monotonic() + _START_S
        while True:
            try:
                await node.start(wait=False)
                await node.ready(_START_S)
                return
            except DidNotStart:
                if time.monotonic() > deadline or node.running:
                    raise
                self._note("starts that fail, as the database is down: repeated")
                await asyncio.sleep(0.5)

    async def _delivery_node_stands_still(self) -> None:
        await self._stands_still(self._rng.choice(self._cluster.delivery_nodes), 0.3 + self._rng.random() * 2.5, "")

    async def _delivery_node_stands_still_for_long(self) -> None:
        node = self._rng.choice(self._cluster.delivery_nodes)
        await self._stands_still(node, _LONG_STOP_S + self._rng.random() * 3, " for longer than its ownership lasts")

    async def _api_node_stands_still(self) -> None:
        await self._stands_still(self._rng.choice(self._cluster.api_nodes), 0.3 + self._rng.random() * 5, "")

    async def _stands_still(self, node: Node, for_s: float, how: str) -> None:
        async with self._slow_provider(node):
            pass
        with self._failing(f"{_kind(node)} is stopped (SIGSTOP){how}"):
            node.send(signal.SIGSTOP)
            try:
                await asyncio.sleep(for_s)
            finally:
                node.send(signal.SIGCONT)

    # -- connections ---------------------------------------------------------------------------------------------------

    async def _node_is_cut_off(self) -> None:
        node = self._rng.choice(self._cluster.nodes)
        way = self._rng.choice((Way.CUT, Way.SILENT))
        how = "connections to the database are cut" if way is Way.CUT else "way to the database is silent"
        with self._failing(f"{_kind(node)}'s {how}"):
            await self._cut([node], way, self._cut_s * (0.2 + 0.5 * self._rng.random()))

    async def _cut(self, nodes: Sequence[Node], way: Way, for_s: float) -> None:
        for node in nodes:
            node.proxy.set(way)
        try:
            await asyncio.sleep(for_s)
        finally:
            for node in nodes:
                node.proxy.set(Way.OPEN)

    async def _answers_are_swallowed(self) -> None:
        """Of some commits of one node: nobody tells it that they are done."""
        node = self._rng.choice(self._cluster.nodes)
        what = "settlement" if node.delivers else "append"
        before = node.proxy.swallowed.get(what, 0)
        with self._failing(f"the answer of {_kind(node)}'s commit ({what}) is swallowed"):
            node.proxy.swallow(what, self._rng.randint(1, 3))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    while node.proxy.swallowed.get(what, 0) == before:
                        await asyncio.sleep(0.02)
            await asyncio.sleep(0.5)
            node.proxy.swallow_no_more()
        self._count("answers of commits swallowed", node.proxy.swallowed.get(what, 0) - before)

    # -- NATS ----------------------------------------------------------------------------------------------------------

    async def _nats_leader_dies(self) -> None:
        async with self._cluster.bus() as bus:
            leader = await self._cluster.stream_leader(bus)
        if leader is not None:
            await self._nats_dies(leader, "the leader of the stream is killed")

    async def _nats_server_dies(self) -> None:
        await self._nats_dies(self._rng.choice(self._cluster.nats), "a NATS server is killed")

    async def _nats_dies(self, server: NatsServer, what: str) -> None:
        with self._failing(what):
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(0.5 + self._rng.random() * 3)
            await server.start()

    async def _nats_server_stands_still(self) -> None:
        server = self._rng.choice(self._cluster.nats)
        with self._failing("a NATS server is stopped (SIGSTOP)"):
            server.send(signal.SIGSTOP)
            await asyncio.sleep(0.5 + self._rng.random() * 4)
            server.send(signal.SIGCONT)

    # -- load and provider ---------------------------------------------------------------------------------------------

    async def _provider_fails(self) -> None:
        name = self._rng.choice(list(FAULTS))
        self._note(f"provider: {name}")
        await self._provider.script(FAULTS[name])
        await asyncio.sleep(0.3 + self._rng.random() * 1.2)
        await self._provider.script([])

    async def _flood(self) -> None:
        self._note("floods")
        self._pace.flooding = True
        await asyncio.sleep(0.5)
        self._pace.flooding = False

    # -- notes ---------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _slow_provider(self, node: Node) -> AsyncIterator[None]:
        """Sometimes the provider answers slowly, so that much is in flight at that node."""
        if not node.delivers or self._rng.random() < 0.5:
            yield
            return
        await self._provider.script(FAULTS["slow"])
        await asyncio.sleep(0.3)
        try:
            yield
        finally:
            await self._provider.script([])

    @contextlib.contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        self._note(what)
        self.faults += 1
        began = time.time()
        # Noted at once: a run may be given up in the middle.
        at = len(self.disturbances)
        self.disturbances.append(Disturbance(what, began, float("inf")))
        yield
        self.disturbances[at] = Disturbance(what, began, time.time())

    def _note(self, what: str) -> None:
        self._count(what, 1)
        self._say(what)

    def _count(self, what: str, number: int) -> None:
        if number:
            self.counts[what] = self.counts.get(what, 0) + number


def _kind(node: Node) -> str:
    return "a delivery node" if node.delivers else "an API node"
