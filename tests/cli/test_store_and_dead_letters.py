"""`tocsin store` and `tocsin deadletter`, on a real file."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.line import make_event

from tocsin.store.opening import open_store
from tocsin.store.ports import Attempt, NewEvent, Settlement


def _tocsin(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TOCSIN_STORE__PATH": str(directory / "tocsin.db"), "PYTHONPATH": "src"}
    return subprocess.run(
        [sys.executable, "-m", "tocsin", *arguments], capture_output=True, text=True, env=environment, check=False
    )


async def _fail_one(path: Path) -> str:
    """An event whose only device was refused."""
    async with open_store(path, max_events=100, max_bytes=10**6, lease_s=60) as store:
        await store.queue.start()
        event = make_event()
        await store.queue.append([NewEvent(event)])
        [item] = await store.queue.claim(10, {})
        attempt = Attempt(event.accepted_ms, "apns:" + "0" * 64, "apns:production:x", "refused", 400, "BadPriority")
        await store.queue.settle([Settlement(item, [attempt], [])])
        return event.id


def test_dead_letters_are_listed_replayed_and_discarded(tmp_path: Path) -> None:
    ids = [asyncio.run(_fail_one(tmp_path / "tocsin.db")) for _ in range(2)]
    listed = json.loads(_tocsin(tmp_path, "deadletter", "list", "--json").stdout)
    assert {letter["id"] for letter in listed} == set(ids)
    assert listed[0]["devices"][0]["reason"] == "BadPriority"
    assert "1 dead letters are delivered again" in _tocsin(tmp_path, "deadletter", "replay", ids[0]).stderr
    assert "1 dead letters are discarded" in _tocsin(tmp_path, "deadletter", "discard", "--all").stderr
    assert json.loads(_tocsin(tmp_path, "deadletter", "list", "--json").stdout) == []
    shown = json.loads(_tocsin(tmp_path, "event", "show", ids[0], "--json").stdout)
    assert shown["state"] == "delivering"


def test_wrong_choices_of_dead_letters_are_refused_with_a_reason(tmp_path: Path) -> None:
    asyncio.run(_fail_one(tmp_path / "tocsin.db"))
    for arguments, status, reason in (
        (["replay"], 2, "name events by their id, or --all"),
        (["replay", "--all", "--lifetime", "never"], 2, "does not live for ever"),
        (["discard", "00000000-0000-4000-8000-000000000000"], 1, "none of these is a dead letter"),
    ):
        ended = _tocsin(tmp_path, "deadletter", *arguments)
        assert ended.returncode == status
        assert reason in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_sound_store_is_copied_and_both_are_well(tmp_path: Path) -> None:
    asyncio.run(_fail_one(tmp_path / "tocsin.db"))
    assert _tocsin(tmp_path, "store", "check").returncode == 0
    copy = tmp_path / "restored" / "tocsin.db"
    copy.parent.mkdir()
    assert _tocsin(tmp_path, "store", "backup", str(copy)).returncode == 0
    assert _tocsin(copy.parent, "store", "check").returncode == 0
    assert len(json.loads(_tocsin(copy.parent, "deadletter", "list", "--json").stdout)) == 1
    again = _tocsin(tmp_path, "store", "backup", str(copy))
    assert again.returncode == 1
    assert "never overwrites" in again.stderr


def test_a_damaged_store_is_said_to_be_damaged(tmp_path: Path) -> None:
    (tmp_path / "tocsin.db").write_bytes(b"this is no database at all, but it is long enough to be read as one" * 100)
    ended = _tocsin(tmp_path, "store", "check")
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert ended.stdout.strip()
