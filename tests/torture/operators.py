"""An operator who runs commands at random instants, by the real command line, beside the running server and whatever
happens to that.

No command may end with a traceback; where the store cannot be used, it says so. What is revoked is refused from the
command's end on.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from tests.torture.http_client import Client, NoResponse
from tests.torture.processes import APPLICATION, Emulator, Server
from tests.torture.something_to_do import SomethingToDo
from tests.torture.users import User

_COMMAND_S: Final = 60.0
_ANSWER_S: Final = 30.0
"""So long somebody calls with what was revoked until the server answers. It may be away for longer, but for the end."""
COMMANDS: Final = (
    "device restore",
    "quarantine release",
    "deadletter replay",
    "deadletter discard",
    "store rekey",
    "store backup",
    "key create",
    "key revoke",
    "session create",
    "session revoke",
    "app add",
    "fcm add",
)
"""What it runs, as the report calls it."""
_REFUSED: Final = (0, 1)
"""Done, or not possible now. 2 would be a wrong command line."""


class Operator:
    """Counts what it does by name, for the report; `errors` is what was wrong."""

    def __init__(
        self,
        server: Server,
        emulator: Emulator,
        users: list[User],
        to_do: SomethingToDo,
        directory: Path,
        counts: dict[str, int],
        rng: random.Random,
        say: Callable[[str], None],
    ) -> None:
        self._server = server
        self._emulator = emulator
        self._users = users
        self._to_do = to_do
        self._directory = directory
        self._counts = counts
        self._rng = rng
        self._say = say
        self._revoked: list[tuple[str, str, str]] = []
        """Method, path and secret of calls that must be refused."""
        self._copies: list[Path] = []
        self.errors: list[str] = []

    async def run(self, finished: Callable[[], bool], every_s: float) -> None:
        """One command after the other, until `finished`."""
        commands: list[Callable[[], Awaitable[None]]] = [
            self._restore,
            self._release,
            self._replay,
            self._discard,
            self._rekey,
            self._key,
            self._session,
            self._back_up,
            self._replace_apns,
            self._replace_fcm,
        ]
        # Each in turn, in another order every time: a short run has most of them.
        waiting: list[Callable[[], Awaitable[None]]] = []
        while not finished():
            if not waiting:
                waiting = self._rng.sample(commands, len(commands))
            await waiting.pop()()
            await asyncio.sleep(self._rng.random() * 2 * every_s)

    @property
    def never_done(self) -> list[str]:
        """The commands that have not once done what they are for."""
        return [command for command in COMMANDS if not self._counts.get(f"command: {command}")]

    async def check(self) -> None:
        """At the end: what was revoked is still refused, and the copies are whole."""
        for revoked in self._revoked:
            await self._check_refused(*revoked, must_answer=True)
        for copy in self._copies:
            with closing(sqlite3.connect(copy)) as connection:
                (found,) = connection.execute("PRAGMA integrity_check").fetchone()
            if found != "ok":
                self.errors.append(f"the copy {copy.name}: {found}")

    # -- commands ------------------------------------------------------------------------------------------------------

    async def _restore(self) -> None:
        """Mostly of a token that was removed; of a living one there is nothing to restore."""
        dead, living = self._to_do.dead_tokens, self._rng.choice(self._rng.choice(self._users).devices).token
        token = self._rng.choice([*dead, living])
        file = self._directory / "token"
        file.write_text(token)
        if await self._command("device", "restore", "--token-file", str(file)) is not None and token in dead:
            dead.remove(token)

    async def _release(self) -> None:
        await self._command("quarantine", "release", APPLICATION)

    async def _replay(self) -> None:
        await self._settle_letters("replay", self._to_do.to_replay, "--lifetime", "1h")

    async def _discard(self) -> None:
        await self._settle_letters("discard", self._to_do.to_discard)

    async def _settle_letters(self, what: str, letters: list[str], *arguments: str) -> None:
        """Those that were made for it; later all there are."""
        only_others = not (self._to_do.to_replay or self._to_do.to_discard)
        if not (letters or only_others):
            return
        if await self._command("deadletter", what, *(letters or ["--all"]), *arguments) is not None:
            letters.clear()

    async def _rekey(self) -> None:
        await self._command("store", "rekey")

    async def _key(self) -> None:
        await self._make_and_revoke("key", "producer", "POST", "/api/events")

    async def _session(self) -> None:
        owner = self._rng.choice(self._users).owner
        await self._make_and_revoke("session", f"--owner={owner}", "GET", "/api/push")

    async def _make_and_revoke(self, group: str, argument: str, method: str, path: str) -> None:
        made = await self._command(group, "create", argument, "--json")
        if made is None:
            return
        fields = msgspec.json.decode(made, type=dict[str, object])
        secret = str(fields.get("key") or fields.get("sid"))
        if await self._command(group, "revoke", str(fields["id"])) is not None:
            self._revoked.append((method, path, secret))
            await self._check_refused(method, path, secret)

    async def _back_up(self) -> None:
        copy = self._directory / f"copy-{len(self._copies)}-{time.time_ns()}.db"
        if await self._command("store", "backup", str(copy)) is not None:
            self._copies.append(copy)

    async def _replace_apns(self) -> None:
        summary = self._emulator.summary
        await self._command("app", "add", APPLICATION, "--key", summary["apns_key"], "--key-id", summary["key_id"])

    async def _replace_fcm(self) -> None:
        await self._command("fcm", "add", "--service-account", self._emulator.summary["service_account"])

    async def _command(self, *arguments: str) -> str | None:
        """What it printed; None where it said that it could not be done."""
        name = f"{arguments[0]} {arguments[1]}"
        self._say(f"command: {name}")
        try:
            done = await asyncio.to_thread(self._server.run_cli, *arguments, timeout_s=_COMMAND_S)
        except subprocess.TimeoutExpired:
            self.errors.append(f"{name} took longer than {_COMMAND_S:.0f} s")
            return None
        succeeded = done.returncode == 0
        what = f"command: {name}"
        if not succeeded:
            what += ", not possible then"
            self._say(f"{name}: {done.stderr.strip()[-200:]}")
        elif done.stderr.startswith("0 dead letters"):
            what += ", nothing to do"
        self._counts[what] = self._counts.get(what, 0) + 1
        if "Traceback" in done.stderr or done.returncode not in _REFUSED or not (succeeded or done.stderr.strip()):
            self.errors.append(f"{name} ended with status {done.returncode}: {done.stderr[-600:]}")
        return done.stdout if succeeded else None

    async def _check_refused(self, method: str, path: str, secret: str, *, must_answer: bool = False) -> None:
        client, until = Client(self._server.port, secret), time.monotonic() + _ANSWER_S
        try:
            while time.monotonic() < until:
                try:
                    response = await client.call(method, path, b"{}" if method == "POST" else b"")
                except NoResponse:
                    await asyncio.sleep(0.1)
                    continue
                if response.status == 401:
                    return
                if response.status != 503:
                    self.errors.append(f"{method} {path} was answered {response.status} with what was revoked")
                    return
                await asyncio.sleep(0.1)
            if must_answer:
                self.errors.append(f"{method} {path} with what was revoked had no answer within {_ANSWER_S:.0f} s")
        finally:
            client.close()
