"""A cluster that is upgraded without a stop: processes of this version, and of a wheel of a newer one beside them."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.postgres import MASTER_KEY, fetch
from tests.system.running_system import RunningSystem, eventually
from tests.torture.http_client import NoResponse
from tests.torture.processes import ROOT, Server
from tests.torture.sent_events import SentEvent
from tests.torture.users import User
from tocsin import __version__
from tocsin.store.postgres import schema

NEXT_VERSION = "99.0.0"
NEXT_STEP = """

_present_steps = steps


def steps() -> list[Step]:
    known = _present_steps()
    sql = "ALTER TABLE device ADD COLUMN label text NOT NULL DEFAULT ''"
    return [*known, Step(known[-1].number + 1, known[-1].oldest, sql)]
"""

pytestmark = pytest.mark.slow


def newer_version(directory: Path) -> Path:
    """Where a newer version is installed: the present source with a later number, and a step more that only adds."""
    source, wheels, installed = directory / "source", directory / "wheels", directory / "installed"
    skipped = shutil.ignore_patterns("*.egg-info", "__pycache__", "build")
    shutil.copytree(ROOT / "src", source / "src", ignore=skipped)
    shutil.copytree(ROOT / "requirements", source / "requirements")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    for name in ("pyproject.toml", "src/tocsin/__init__.py"):
        file = source / name
        assert f'version = "{__version__}"' in file.read_text() or f'__version__ = "{__version__}"' in file.read_text()
        file.write_text(file.read_text().replace(f'"{__version__}"', f'"{NEXT_VERSION}"', 1))
    with (source / "src/tocsin/store/postgres/schema.py").open("a") as steps:
        steps.write(NEXT_STEP)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, *offline, "--wheel-dir", wheels, source], check=True, capture_output=True, cwd=directory)
    (wheel,) = wheels.glob("tocsin-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    return installed


class Backend:
    """Sends events through each process in turn, and repeats through the next one what is not accepted."""

    def __init__(self, system: RunningSystem, user: User, servers: list[Server]) -> None:
        self._system = system
        self._user = user
        self._servers = servers
        self.accepted: dict[Path, list[SentEvent]] = {}
        self.enough = asyncio.Event()

    async def run(self) -> None:
        turn = 0
        while not self.enough.is_set():
            events = self._system.events(self._user, 2)
            while True:
                turn += 1
                server = self._servers[turn % len(self._servers)]
                if await self._is_accepted(server, events):
                    break
                await asyncio.sleep(0.02)
            self.accepted.setdefault(server.directory, []).extend(events)
            await asyncio.sleep(0.02)

    async def _is_accepted(self, server: Server, events: list[SentEvent]) -> bool:
        self._system.server = server
        try:
            response = await self._system.post(events)
        except NoResponse:
            return False
        assert response.status in (202, 503), response
        return response.status == 202

    async def has_sent_through(self, *servers: Server) -> None:
        """Returns when ten more events were accepted by each of these."""
        before = {one.directory: len(self.accepted.get(one.directory, ())) for one in servers}
        await eventually(
            lambda: all(len(self.accepted.get(at, ())) >= count + 10 for at, count in before.items()),
            60,
            servers[0].last_lines,
        )


async def test_a_cluster_goes_on_while_a_wheel_of_a_newer_version_takes_the_place_of_this_one(
    tmp_path: Path, database: str
) -> None:
    building = asyncio.create_task(asyncio.to_thread(newer_version, tmp_path))
    settings = {"store": {"url": database}, "secrets": {"key": MASTER_KEY}}
    system = RunningSystem(tmp_path, settings)
    try:
        await system.open()
        user, old = await system.user(), system.server
        new = Server(tmp_path / "new", system.emulator, settings)
        system._processes.append(new)
        new.extra = {"PYTHONPATH": str(await building)}
        servers = [old]
        backend = Backend(system, user, servers)
        sending = asyncio.create_task(backend.run())
        await backend.has_sent_through(old)

        # The newer one adds to the tables, while the older one uses them.
        await new.start()
        servers.append(new)
        assert await schema_of(database) == schema.steps()[-1].number + 1
        await backend.has_sent_through(old, new)
        await eventually(lambda: _versions(database, {__version__, NEXT_VERSION}), 30, new.last_lines)
        # Then the older one is upgraded, too.
        servers.remove(old)
        assert old.terminate() == 0
        old.extra = new.extra
        await old.start()
        servers.append(old)
        await backend.has_sent_through(old, new)
        await eventually(lambda: _versions(database, {NEXT_VERSION}), 30, new.last_lines)
        backend.enough.set()
        await sending
        await system.all_received([event for events in backend.accepted.values() for event in events], 60)
        assert old.running
        assert new.running
    finally:
        building.cancel()
        system.close()


async def _versions(database: str, expected: set[str]) -> bool:
    """Whether the processes that run are of these versions."""
    living = "SELECT convert_from(status, 'UTF8')::json ->> 'version' FROM node WHERE status IS NOT NULL"
    return {version for (version,) in await fetch(database, living)} == expected


async def schema_of(database: str) -> int:
    ((number,),) = await fetch(database, "SELECT value FROM meta WHERE name = 'schema'")
    return int(number)
