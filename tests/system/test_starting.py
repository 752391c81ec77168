"""A server that cannot start says why; one that could, if the disk were better, waits for it and says so meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.system.house import EVENTS, House, eventually
from tests.torture.disk import KINDS
from tests.torture.processes import environment, free_ports
from tests.torture.wire import Answer, NoAnswer


def _serve(house: House, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tocsin.cli", "serve", "--config", str(house.server.config)],
        env=environment({f"TOCSIN_{name}": value for name, value in settings.items()}),
        cwd=house.directory,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_a_second_server_on_the_same_file_is_refused_with_a_clear_message(shared: House) -> None:
    refused = _serve(shared, SERVER__PORT=str(free_ports(1)))
    assert refused.returncode == 1
    assert "another tocsin server is using it" in refused.stderr
    assert str(shared.server.database) in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_port_that_is_taken_is_named_in_a_clear_message(shared: House) -> None:
    refused = _serve(shared, STORE__PATH=str(shared.directory / "other.db"))
    assert refused.returncode == 1
    assert f"cannot listen on 127.0.0.1:{shared.server.port}" in refused.stderr
    assert "server.port" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_file_that_is_no_database_ends_it_with_a_clear_message(shared: House, tmp_path: Path) -> None:
    (tmp_path / "diary.db").write_bytes(b"Dear diary, " * 1000)
    refused = _serve(shared, STORE__PATH=str(tmp_path / "diary.db"), SERVER__PORT=str(free_ports(1)))
    assert refused.returncode == 1
    assert "not a SQLite database" in refused.stderr
    assert "Traceback" not in refused.stderr


# -- a disk that fails, and is mended ----------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """One of a test's own, whose disk can fail."""
    house = House(tmp_path)
    try:
        yield await house.open(disk=True)
    finally:
        house.close()


def _break(house: House, kind: str) -> None:
    assert house.disk is not None
    if not house.disk.shim:
        pytest.skip(reason="without a C compiler the shim that makes the disk fail cannot be built")
    house.disk.break_(kind)


async def _start_again(house: House) -> Answer:
    """What `/health/ready` answers as soon as the server listens again."""
    answers: list[Answer] = []

    async def answered() -> bool:
        assert house.server.running, house.explain()
        with contextlib.suppress(NoAnswer):
            answers.append(await house.get("/health/ready"))
        return bool(answers)

    house.server.kill()
    await house.server.start(wait=False)
    await eventually(answered, 20, house.explain)
    return answers[0]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_that_starts_on_a_failing_disk_refuses_everything_and_works_without_a_restart_once_it_is_mended(
    house: House, kind: str
) -> None:
    user = await house.user()
    _break(house, kind)
    starting = await _start_again(house)
    assert starting.status == 503
    assert starting.headers["retry-after"].isdigit()
    assert starting.json()["ready"] is False
    assert "the disk" in starting.json()["problems"][0]
    assert str(house.directory) not in starting.body.decode()
    refused = await house.offer(house.events(user, 2000))
    assert (refused.status, refused.headers["content-type"]) == (503, "application/problem+json")
    assert refused.headers["retry-after"].isdigit()
    assert refused.json()["type"] == "urn:tocsin:problem:store-unavailable"
    assert (await house.get("/health/live")).status == 200
    await asyncio.sleep(1.5)  # and it has tried again
    assert house.server.running, house.explain()
    log = house.server.log.read_text()
    assert log.count("every request is answered 503") == 1
    assert "still cannot be used" not in log
    assert "the store cannot write" not in log
    starts = house.server.starts
    assert house.disk is not None
    house.disk.mend()
    await house.server.ready(15)
    assert (house.server.starts, await house.problems()) == (starts, [])
    await house.all_arrive(await house.hand_in(user, 20))
    assert len(house.arrived()) == 20, "what was refused was delivered"


async def test_a_server_that_starts_on_a_locked_file_serves_once_it_is_released(house: House) -> None:
    house.server.kill()
    other = sqlite3.connect(house.server.database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    starting = await _start_again(house)
    assert "locked by another process" in starting.json()["problems"][0]
    other.close()
    await house.server.ready(20)
    assert await house.problems() == []


async def test_sigterm_ends_a_server_that_waits_for_its_disk(house: House) -> None:
    _break(house, "no space left")
    assert (await _start_again(house)).status == 503
    assert (await house.get(EVENTS)).status == 503
    assert await asyncio.to_thread(house.server.terminate) == 0
