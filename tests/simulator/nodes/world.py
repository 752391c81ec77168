"""The world around several nodes: one model of the database, a way to it for each node, and their lives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar, cast

from tests.simulator import api
from tests.simulator.clocks import Clocks
from tests.simulator.judge import Invariant
from tests.simulator.model_store.database import ModelDatabase
from tests.simulator.model_store.rows import Row
from tests.simulator.model_store.way import SimulatedWay
from tests.simulator.nodes.judge import NodesJudge, NodeTrouble
from tests.simulator.nodes.node import Node
from tests.simulator.nodes.plan import NodesPlan
from tests.simulator.process import Killed, Outside, Process
from tests.simulator.rows import Scope
from tests.simulator.trace import Trace
from tests.simulator.troubles import Trouble
from tests.simulator.world import World
from tocsin.store.ports import StorageFailure, WriteFailure
from tocsin.store.records import Role
from tocsin.store.secrets import hash_of

T = TypeVar("T")


class NodeClocks(Clocks):
    """Those of one node: its own wall clock is ahead of the database's and the providers' by `skew_s`."""

    def __init__(self, all_others: Clocks, skew_s: float) -> None:
        super().__init__(skew_s)
        self._all_others = all_others

    def provider(self) -> float:
        return self._all_others.provider()


TAKEN_OVER_S: Final = 20.0
"""After a node was lost, or has come: its logs were taken over, or given up, and what they hold was read."""
_TRY_AGAIN_S: Final = 0.5


class NodesWorld(World):
    plan: NodesPlan

    def __init__(self, plan: NodesPlan, directory: Path, trace: Trace, secrets: api.Secrets) -> None:
        super().__init__(plan, directory, trace, secrets)
        self.judge = NodesJudge(self.model, self.clocks, trace, self.felt)
        self.judge.waits.may_stand_still = True
        self.nodes: list[Node] = []
        self._lives_of = [0] * plan.nodes
        self._chosen = self.random("which node")
        commits = self.random("commits")
        most_s = 20 * plan.commit_s
        self.database = ModelDatabase(self.clocks.provider, lambda: min(commits.expovariate(1 / plan.commit_s), most_s))
        self.judge.watch(self.database)

    # -- lives ---------------------------------------------------------------------------------------------------------

    async def _start_process(self, path: Path) -> None:
        self._let_in()
        self.nodes = [self._new_life(at) for at in range(self.plan.nodes)]
        await asyncio.gather(*[self._begin(at) for at in range(self.plan.nodes)])
        self.process = self.nodes[0]
        if self.plan.narrow:
            self.begin(trouble_of_all("lanes are narrow"))
        # Until each has its share of the logs.
        await asyncio.sleep(2)

    def _let_in(self) -> None:
        """The keys and sessions of those who call."""
        database, secrets = self.database, self.secrets
        for number, (owner, secret) in enumerate(secrets.sessions.items()):
            session = {"hash": hash_of(secret), "id": f"ses_{number}", "owner": owner, "created_ms": 0}
            database.session.add(Row({**session, "expires_ms": None}))
        for role, secret in ((Role.PRODUCER, secrets.producer), (Role.ADMIN, secrets.admin)):
            key = {"hash": hash_of(secret), "id": f"key_{role.value}", "role": role.value, "name": "", "created_ms": 0}
            database.api_key.add(Row({**key, "expires_ms": None, "limits": None}))

    def _new_life(self, at: int) -> Node:
        judge = cast(NodesJudge, self.judge)
        self._lives_of[at] += 1
        name = f"{at + 1}.{self._lives_of[at]}"
        outside = Outside(
            clocks=NodeClocks(self.clocks, self.plan.skews_s[at]),
            network=self.network,
            disk=self.disk,
            random=self.random,
            sent=lambda requests: judge.sent_by(node.store.ownership.node, requests),
            given=judge.given,
            answered=judge.waits.answered,
            signalled=lambda signal: None,
        )
        way = SimulatedWay(self.database, self.random(f"way {name}"), self.plan.way_s)
        node = self._by_life[f"life {name}"] = Node(self._options, outside, way, name)
        return node

    async def _begin(self, at: int) -> None:
        """Start a node's life. One that cannot use the database ends, and whoever watches over it starts another."""
        while True:
            node = self.nodes[at]
            try:
                await node.start()
                break
            except (StorageFailure, WriteFailure) as failure:
                self.trace("node", f"{node.life} cannot start: {failure}")
                await node.kill()
                await asyncio.sleep(1)
                self.nodes[at] = self._new_life(at)
        self.trace("node", f"{node.life} has begun")

    def living(self) -> list[Node]:
        """Those that answer at present."""
        return [node for node in self.nodes if node.alive and not node.is_suspended]

    def running(self) -> list[Process]:
        return [node for node in self.nodes if node.alive]

    # -- what befalls nodes --------------------------------------------------------------------------------------------

    async def replace(self, node: Node, *, in_order: bool, away_s: float = 0.0) -> None:
        """Stop a node, in order or at this very moment, and start it again after a while."""
        at = self.nodes.index(node)
        if in_order:
            if not await node.stop():
                self.repeats()
        else:
            self.repeats()
            await node.kill()
        self.trace("node", f"{node.life} has ended")
        await asyncio.sleep(away_s)
        self.nodes[at] = self._new_life(at)
        await self._begin(at)

    async def stand_still(self, node: Node, seconds: float) -> None:
        self.repeats()
        self.loop.suspend(node.life)
        await asyncio.sleep(seconds)
        self.loop.resume(node.life)
        self.repeats()

    def repeats(self) -> None:
        """What is on the wire now may be sent again."""
        self.model.crashes.append(self.loop.time())

    # -- for the actors ------------------------------------------------------------------------------------------------

    async def _some_node(self) -> Node:
        """As what stands before the nodes chooses: of those that say they are ready, as long as there are any."""
        while not (living := self.living()):
            await asyncio.sleep(_TRY_AGAIN_S)
        return self._chosen.choice([node for node in living if not node.store.failures()] or living)

    async def ask(self, call: Callable[[Process], Coroutine[Any, Any, T]]) -> T:
        while True:
            node = await self._some_node()
            try:
                return await node.call(call(node))
            except (Killed, WriteFailure):
                await asyncio.sleep(_TRY_AGAIN_S)

    async def request(
        self, method: str, path: str, secret: str, body: bytes = b"", *, content_type: bytes = api.JSON, ok: int = 200
    ) -> Any:
        self._up.set()
        while True:
            self.process = await self._some_node()
            node = self.process
            try:
                answer = await node.answer(method, path, secret, body, content_type)
            except Killed:
                await asyncio.sleep(_TRY_AGAIN_S)
                continue
            if answer.status == ok:
                return answer.json() if answer.body else None
            if answer.status != 503 or not answer.headers.get(b"retry-after", b"").isdigit():
                text = answer.body[:500].decode(errors="replace")
                self.judge.violated(Invariant.ANSWERS, f"{method} {path}: {answer.status} {text}")
                await self.loop.create_future()  # the simulation ends
            await asyncio.sleep(_TRY_AGAIN_S)

    def set_clock(self, offset_s: float) -> None:
        super().set_clock(offset_s)
        cast(NodesJudge, self.judge).clock_set_s = self.loop.time()

    @property
    def storage_may_fail(self) -> bool:
        return bool(self.plan.troubles)

    @property
    def clocks_agree(self) -> bool:
        return "clocks" not in self.plan.troubles

    # -- watching ------------------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(1)
            self.judge.check_deadlines()
            self.judge.check_dials(self.network.dials)
            for node in self.nodes:
                if node.alive:
                    self._check_process(node, node.life)

    def waits(self) -> list[str]:
        """What is neither settled nor has expired: read from the tables themselves, as it is committed."""
        database = self.database
        settled = {
            (row.stream, row.xid, row.seq)
            for row in database.settlement.all()
            if row.unit == 0 and database.is_committed(row)
        }
        events = [row for row in database.event.all() if row.id is not None]
        fresh = [row.id for row in events if (row.stream, row.xid, row.seq) not in settled]
        return fresh + [f"parked {row.lane} {row.seq}" for row in database.parked.all()]


def trouble_of_all(name: str) -> Trouble:
    return Trouble(name=name, scope=Scope.EVERYTHING, recovery_s=TAKEN_OVER_S)


def trouble_of(node: Node, name: str) -> Trouble:
    return NodeTrouble(name=f"{node.life} {name}", scope=Scope.EVERYTHING, recovery_s=TAKEN_OVER_S)


def any_node(world: NodesWorld, random: Random) -> Node | None:
    """One that runs, of those that nothing is wrong with."""
    living = world.living()
    return random.choice(living) if living else None
