"""The world around tocsin: the emulator, the network, the disk, what goes wrong with them, and tocsin's lives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar, cast

from tests.simulator import api
from tests.simulator.clocks import Clocks
from tests.simulator.disk import Disk, copy_of_what_was_synced
from tests.simulator.judge import Invariant, Judge
from tests.simulator.loop import VirtualLoop
from tests.simulator.model import Model, Standing
from tests.simulator.network import ProcessNetwork, SimulatedNetwork
from tests.simulator.phones import OTHER_PROJECT, PROJECT, Phone
from tests.simulator.plan import Plan
from tests.simulator.process import Killed, Outside, Process, ProcessOptions
from tests.simulator.quotas import Quotas
from tests.simulator.rows import DEATHS, Row, Scope
from tests.simulator.template import apns_key, service_account
from tests.simulator.trace import Trace
from tests.simulator.troubles import Trouble, draw_trouble, rules
from tocsin.delivery.lane import LaneOptions
from tocsin.domain.credentials import Credential
from tocsin.domain.devices import DeviceToken
from tocsin.emulator.faults import Latency, Script
from tocsin.emulator.options import EmulatorOptions
from tocsin.emulator.run import Emulator, start
from tocsin.http2.pool import PoolOptions
from tocsin.providers.apns.credentials import ApnsCredential
from tocsin.providers.fcm.credentials import stored
from tocsin.settings import Store
from tocsin.store.ports import StorageFailure, WriteFailure
from tocsin.store.records import TokenDeleted

T = TypeVar("T")

_UP_AGAIN_S: Final = 20.0
"""After a start: connections are opened, and what was left behind is claimed."""
_AWAKE_AGAIN_S: Final = 3 * 60.0
"""After it stood still, all requests that were out have failed at once, for which breakers open."""
_TRY_AGAIN_S: Final = 0.5
_ANSWER_BOUND_S: Final = 5 * 60.0
"""For no longer is anybody refused for now, where nothing is wrong with the storage or the process."""
_ONLY_HERE: Final = ("apns", "fcm")


class World:
    def __init__(self, plan: Plan, directory: Path, trace: Trace, secrets: api.Secrets) -> None:
        self.plan = plan
        self.burst = 0
        """How many times what goes wrong was mended before."""
        self.secrets = secrets
        self.trace = trace
        self.clocks = Clocks(plan.skew_s)
        self.loop = cast(VirtualLoop, asyncio.get_running_loop())
        self.model = Model(self.loop.time)
        self.troubles: list[Trouble] = []
        """Those that are on, and those that somebody may still feel."""
        self.all_troubles: list[Trouble] = []
        self.judge = Judge(self.model, self.clocks, trace, self.felt)
        self.judge.waits.may_stand_still = bool(plan.troubles & {"disk", "io", "suspends"})
        self.disk = Disk(self.random("disk"), plan.commit_s)
        self.network = SimulatedNetwork(self.random("network"), plan.latency, trace)
        self.phones: list[Phone] = []
        self.actors: set[asyncio.Task[Any]] = set()
        self._directory = directory
        self._lives = 0
        self.deaths: set[tuple[str, int, str]] = set()
        """As what providers have called phones dead: provider, status and reason."""
        self._by_life: dict[str, Process] = {}
        self.events = 0
        """How many events were made."""
        self.stopping = False
        """Who acts is to come to an end."""
        self._up = asyncio.Event()
        self.process: Process
        self.emulator: Emulator

    def random(self, name: str) -> Random:
        """Randomness of its own for each use: what one draws does not change what another does."""
        return Random(f"{self.plan.seed}:{name}" + (f":{self.burst}" if self.burst else ""))

    # -- start and end -------------------------------------------------------------------------------------------------

    async def start(self, held: AsyncExitStack) -> None:
        plan = self.plan
        options = EmulatorOptions(
            directory=self._directory / "emulator",
            tls=False,
            max_streams=plan.max_streams,
            start_with_one_stream=plan.start_with_one_stream,
            token_update_interval_s=plan.token_update_interval_s,
            more_projects=(OTHER_PROJECT,) if plan.two_projects else (),
        )
        self.emulator = await held.enter_async_context(
            start(
                options,
                clock=self.clocks.provider,
                random=self.random("emulator"),
                network=ProcessNetwork(self.network),
            )
        )
        self.quotas = Quotas(self)
        add = self.emulator.inbox.add

        def observed(provider: str, environment: str | None, token: bytes, id: bytes, *rest: Any, **more: Any) -> None:
            self.judge.arrives(provider, token, id, rest[1])
            add(provider, environment, token, id, *rest, **more)

        self.emulator.inbox.add = observed  # type: ignore[method-assign]
        urls = cast("dict[str, str]", self.emulator.summary["apns"])
        self._options = ProcessOptions(
            apns_production_url=urls["production"],
            apns_sandbox_url=urls["sandbox"],
            fcm_url=str(self.emulator.summary["fcm"]),
            token_origin=str(self.emulator.summary["token_uri"]).removesuffix("/token"),
            ca_file=self.emulator.files.ca,
            lane=LaneOptions(plan.lane_in_flight, plan.lane_waiting),
            pool=PoolOptions(request_timeout_s=plan.request_timeout_s),
            lease_s=plan.lease_s,
            max_backlog_events=10**6,
            max_backlog_bytes=10**9,
            lifetime_s=plan.lifetime_s,
            kept=Store(
                retention=timedelta(seconds=plan.retention_s), dead_letter_retention=timedelta(seconds=plan.letters_s)
            ),
        )
        self.ports = {
            "apns": self._ports(urls["production"], urls["sandbox"]),
            "fcm": self._ports(self._options.fcm_url),
        }
        self.apply()
        await self._start_process(self._directory / "tocsin.db")

    @staticmethod
    def _ports(*urls: str) -> list[int]:
        return [int(url.rpartition(":")[2]) for url in urls]

    async def _start_process(self, path: Path) -> None:
        self._lives += 1
        outside = Outside(
            clocks=self.clocks,
            network=self.network,
            disk=self.disk,
            random=self.random,
            sent=self.judge.sent,
            given=self.judge.given,
            answered=self.judge.waits.answered,
            signalled=self.judge.signalled,
        )
        while True:
            process = Process(self._options, outside, path, str(self._lives))
            self._by_life[process.life] = process
            process.spare(self.actors)
            try:
                await process.start()
                break
            except StorageFailure as failure:
                self.trace("process", f"cannot start: {failure.reason}")
                await process.kill()
                await asyncio.sleep(1)
        self.process = process
        self.trace("process", f"life {self._lives} has begun")
        self._up.set()

    async def crash(self) -> None:
        """Kill tocsin at this very moment; start it on a copy of what was synced."""
        trouble = self.begin(Trouble(name="tocsin crashed", scope=Scope.EVERYTHING, recovery_s=_UP_AGAIN_S))
        self._up.clear()
        self.model.crashes.append(self.loop.time())
        path = copy_of_what_was_synced(self.process.path, self._directory / f"life{self._lives + 1}")
        await self.process.kill()
        await self._start_process(path)
        await self._hear_of_removals()
        self.end(trouble)

    async def _hear_of_removals(self) -> None:
        """Tell the judge of tokens whose removal was committed right before a crash, and of which nobody was told."""
        asked_s, standing = self.loop.time(), self.model.standing(Standing.REGISTERED)
        owners = list(dict.fromkeys([one.owner for one in standing]))
        found = await self.ask(lambda process: process.store.registry.devices_of(owners))
        there = {(device.owner, device.key) for devices in found.values() for device in devices}
        for one in standing:
            if one.since_s <= asked_s and (one.owner, one.phone.key) not in there:
                self.judge.signalled(TokenDeleted(one.owner, one.phone.provider, DeviceToken(one.phone.token)))

    async def restart(self) -> None:
        """Stop tocsin in order, and start it again."""
        trouble = self.begin(Trouble(name="tocsin restarts", scope=Scope.EVERYTHING, recovery_s=_UP_AGAIN_S))
        self._up.clear()
        if not await self.process.stop():
            # The disk did not answer in time: what was delivered and is not on record is delivered again.
            self.model.crashes.append(self.loop.time())
        await self._start_process(self.process.path)
        self.end(trouble)

    async def suspend(self, seconds: float) -> None:
        """Tocsin stands still, as by SIGSTOP; the rest of the world goes on."""
        trouble = self.begin(Trouble(name="tocsin is suspended", scope=Scope.EVERYTHING, recovery_s=_AWAKE_AGAIN_S))
        self.loop.suspend(self.process.life)
        await asyncio.sleep(seconds)
        self.loop.resume(self.process.life)
        if seconds > self.plan.lease_s / 2:
            self.model.crashes.append(self.loop.time())
        self.end(trouble)

    async def ask(self, call: Callable[[Process], Coroutine[Any, Any, T]]) -> T:
        """What tocsin answers, in this life or a later one: who gets no answer, or a refusal for now, asks again."""
        asked_s = self.loop.time()
        while True:
            await self._up.wait()
            try:
                return await self.process.call(call(self.process))
            except (Killed, WriteFailure) as failure:
                await self._try_again(asked_s, repr(failure))

    async def request(
        self, method: str, path: str, secret: str, body: bytes = b"", *, content_type: bytes = api.JSON, ok: int = 200
    ) -> Any:
        """What the API answers (JSON), in this life or a later one. Who gets no answer, or is told that it is not
        possible for now, asks again; any other answer is a violation."""
        asked_s = self.loop.time()
        while True:
            await self._up.wait()
            try:
                answer = await self.process.answer(method, path, secret, body, content_type)
            except Killed as killed:
                await self._try_again(asked_s, repr(killed))
                continue
            if answer.status == ok:
                return answer.json() if answer.body else None
            if answer.status != 503 or not answer.headers.get(b"retry-after", b"").isdigit():
                text = answer.body[:500].decode(errors="replace")
                self.judge.violated(Invariant.ANSWERS, f"{method} {path}: {answer.status} {text}")
                await self.loop.create_future()  # the simulation ends
            await self._try_again(asked_s, f"{method} {path}: {answer.status}")

    async def _try_again(self, asked_s: float, why: str) -> None:
        waited_s = self.loop.time() - asked_s
        if waited_s > _ANSWER_BOUND_S and not any(one.scope is Scope.EVERYTHING for one in self.felt()):
            self.judge.violated(Invariant.ANSWERS, f"refused for {waited_s:.0f} s, the last time with {why}")
            await self.loop.create_future()  # the simulation ends
        await asyncio.sleep(_TRY_AGAIN_S)

    # -- troubles ------------------------------------------------------------------------------------------------------

    def felt(self) -> list[Trouble]:
        """The troubles that somebody may feel now."""
        now_s = self.loop.time()
        self.troubles = [trouble for trouble in self.troubles if not trouble.is_over(now_s)]
        return self.troubles

    def draw(self, random: Random, scope: Scope) -> Trouble | None:
        # A trouble as broad as the provider is only ever one provider's: the other one's phones must not feel it.
        provider = self.plan.bad_provider if scope is not Scope.DEVICE else random.choice(_ONLY_HERE)
        if scope is Scope.TOPIC or (scope is Scope.APPLICATION and not self.plan.two_projects):
            provider = "apns"
        elif scope is Scope.APPLICATION:
            provider = random.choice(_ONLY_HERE)
        return draw_trouble(random, scope, provider, self.phones, self._passed_over)

    def _passed_over(self, row: Row, scope: Scope) -> bool:
        if self.plan.rows and row.name not in self.plan.rows:
            return True
        # With one more, several devices would say it.
        return (
            row.fails
            and scope is Scope.DEVICE
            and any(one.fails and one.scope is Scope.DEVICE and one.provider == row.provider for one in self.felt())
        )

    def begin(self, trouble: Trouble) -> Trouble:
        self.trace("begins", f"{trouble.name} for {trouble.whom}")
        trouble.begun_s = self.loop.time()
        self.troubles.append(trouble)
        self.all_troubles.append(trouble)
        self.judge.trouble_began(trouble)
        self.apply()
        return trouble

    def end(self, trouble: Trouble) -> None:
        if trouble.ended_s is None:
            self.trace("ends", f"{trouble.name} for {trouble.whom}")
            trouble.ended_s = self.loop.time()
            self.apply()

    def end_all(self) -> None:
        """From now on nothing goes wrong."""
        for trouble in self.troubles:
            self.end(trouble)
        self.network.mend()
        self.disk.mend()

    def apply(self) -> None:
        """Give the emulator the rules of the troubles that are on."""
        active = [trouble for trouble in self.troubles if trouble.ended_s is None]
        mean_ms, p99_ms = self.plan.provider_latency_ms
        latency = Latency(mean_ms=mean_ms, p99_ms=p99_ms)
        self.emulator.faults.replace(Script(rules=rules(active, self.phones), latency=latency))

    def kill_phone(self, phone: Phone, registered_ms: int) -> None:
        """From now on its provider says that the token is dead."""
        phone.dead, phone.dead_from_s = True, self.loop.time()
        phone.death = self.random(f"death of {phone.number} at {phone.dead_from_s}").choice(DEATHS[phone.provider])
        self.deaths.add((phone.provider, *phone.death))
        phone.dead_since_ms = max(self.clocks.provider_now_ms(), registered_ms + 1)
        self.trace("dies", f"{phone!r}: {phone.death}")
        self.judge.phone_changed(phone)
        self.apply()

    def revive(self, phone: Phone) -> None:
        """Its app registers it again: the provider knows it."""
        if phone.dead:
            phone.dead = False
            self.apply()

    def skip(self, seconds: float) -> None:
        """Nothing happens for so long, to anybody."""
        if seconds > 0:
            self.loop.skip(seconds)

    def set_clock(self, offset_s: float) -> None:
        self.trace("clock", f"set by {offset_s - self.clocks.offset_s:+.1f} s")
        self.judge.waits.brought_forward.append(self.loop.time())
        self.clocks.offset_s = offset_s
        self.judge.trouble_began(Trouble(name="the clock was set", scope=Scope.EVERYTHING))

    def set_own_clock(self, offset_s: float) -> None:
        """Tocsin's alone."""
        self.trace("clock", f"tocsin's alone is set to {offset_s:+.1f} s")
        self.judge.waits.brought_forward.append(self.loop.time())
        self.judge.lifetimes_end()
        self.clocks.own_offset_s = offset_s
        self.judge.lifetimes_end()

    @property
    def clocks_agree(self) -> bool:
        return not self.plan.skew_s and not self.plan.troubles & {"clock", "hours"}

    @property
    def storage_may_fail(self) -> bool:
        return bool(self.plan.troubles & {"disk", "io"})

    def has_ended(self, life: str) -> bool:
        return life in self._by_life and self._by_life[life].was_killed

    # -- credentials ---------------------------------------------------------------------------------------------------

    def apns_credential(self, application: str, *, wrong: bool = False, spare: bool = False) -> Credential:
        """`spare`: the same key in another form, which makes tocsin replace its connections."""
        pem = apns_key(other=wrong) + ("\n" if spare else "")
        return ApnsCredential(pem, self.emulator.files.key_id).stored(application, self.clocks.now_ms())

    def fcm_credential(self, *, wrong: bool = False, project: str = PROJECT) -> Credential:
        account = service_account(self.emulator.files, project, other=wrong)
        return stored(project, account, default=project == PROJECT, changed_ms=self.clocks.now_ms())

    # -- watching ------------------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Check what is checked all the time, once a second."""
        while True:
            await asyncio.sleep(1)
            self.judge.check_deadlines()
            self.judge.check_dials(self.network.dials)
            if self._up.is_set():
                self._check_process(self.process, "tocsin")

    def _check_process(self, process: Process, name: str) -> None:
        if (error := process.crashed()) is not None:
            self.judge.violated(Invariant.RUNS, f"{name} has ended: {error!r}")
        self.judge.check_bounds(
            tasks=process.tasks,
            lanes=process.lanes(),
            in_flight=self.plan.lane_in_flight,
            waiting=self.plan.lane_waiting,
            connections=sum(pool.connections for one in process.providers.values() for pool in one.pools()),
        )
        self.judge.check_memory(process.held(), nothing_waits=False)

    def running(self) -> list[Process]:
        """The lives that go on."""
        return [self.process] if self._up.is_set() else []
