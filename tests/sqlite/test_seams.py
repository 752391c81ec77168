"""Time, randomness and where jobs run come from outside: the same of each makes the same of everything else."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import date
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any, Final

import pytest
from tests.contract.support import OWNER
from tests.sqlite.loop_worker import LoopWorkers
from tests.sqlite.story import opened_with, story
from tests.support.clocks import Clocks

from tocsin.store.records import Role

FROM_OUTSIDE: Final = frozenset(
    {
        time.time,
        time.time_ns,
        time.monotonic,
        time.monotonic_ns,
        time.perf_counter,
        time.perf_counter_ns,
        time.process_time,
        time.clock_gettime,
        time.localtime,
        time.gmtime,
        time.sleep,
        os.urandom,
    }
)
WITH_THEIR_OWN_CLOCK: Final = ("asyncio", "sqlalchemy", "hypothesis")
"""The event loop's time is its own; SQLAlchemy measures how old its cached statements are; Hypothesis,
once imported, how long the garbage collector takes."""
MAY_USE_SECRETS: Final = ("new_session", "new_key")


async def told(directory: Path, seed: int) -> tuple[str, list[str]]:
    """What a store answers, and all the rows that are in the file that it leaves."""
    directory.mkdir()
    path, clocks = directory / "tocsin.db", Clocks()
    async with opened_with(path, clocks, Random(seed), LoopWorkers()) as store:
        answers = repr(await story(store, clocks))
    with closing(sqlite3.connect(path)) as left:
        return answers, [line for line in left.iterdump() if line.startswith("INSERT INTO")]


@pytest.mark.slow
async def test_the_same_clocks_and_seed_make_the_same_answers_and_the_same_rows(tmp_path: Path) -> None:
    first, again = await told(tmp_path / "1", 42), await told(tmp_path / "2", 42)
    assert first == again
    assert len(first[1]) > 20


IN_ANOTHER_PROCESS: Final = """
import asyncio, sys
from pathlib import Path
from tests.sqlite.test_seams import told

answers, rows = asyncio.run(told(Path(sys.argv[1]), 42))
print(answers, *rows, sep="\\n")
"""


@pytest.mark.slow
def test_nothing_depends_on_the_order_in_which_a_process_hashes_strings(tmp_path: Path) -> None:
    printed = []
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
        command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(tmp_path / seed)]
        printed.append(subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60).stdout)
    assert printed[0] == printed[1]
    assert printed[0]


@pytest.mark.slow
async def test_another_seed_makes_other_generations_and_other_ids_of_jobs(tmp_path: Path) -> None:
    first, other = await told(tmp_path / "1", 42), await told(tmp_path / "2", 43)
    assert "job_" in first[0]
    assert "generation=" in first[0]
    assert first[0] != other[0]


class Calls:
    """The calls of store code for the time or for randomness that nobody has given it.

    A profile function sees them all, also where the function was bound before a test could replace it.
    """

    def __init__(self, given: Random) -> None:
        self._given = given
        self.found: list[str] = []

    def __call__(self, frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and self._is_from_outside(function):
            caller = _store_code(frame)
            if caller is not None and caller.f_code.co_name not in MAY_USE_SECRETS:
                self.found.append(f"{caller.f_code.co_qualname} calls {function!r}")

    def _is_from_outside(self, function: Any) -> bool:
        owner = getattr(function, "__self__", None)
        if isinstance(owner, Random):
            return owner is not self._given
        if isinstance(owner, type) and issubclass(owner, date):
            return function.__name__ in ("now", "utcnow", "today")
        return function in FROM_OUTSIDE


def _store_code(frame: FrameType | None) -> FrameType | None:
    """The code of the store that made a call, also through another module."""
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        if module.startswith("tocsin.store"):
            return frame
        if module.startswith(WITH_THEIR_OWN_CLOCK):
            return None
        frame = frame.f_back
    return None


@contextmanager
def calls_for_what_was_not_given(given: Random) -> Iterator[list[str]]:
    calls, before = Calls(given), sys.getprofile()
    sys.setprofile(calls)
    try:
        yield calls.found
    finally:
        sys.setprofile(before)


async def test_store_code_asks_nobody_else_for_the_time_or_for_randomness(tmp_path: Path) -> None:
    clocks, given = Clocks(), Random(42)
    async with opened_with(tmp_path / "tocsin.db", clocks, given, LoopWorkers()) as store:
        with calls_for_what_was_not_given(given) as found:
            await story(store, clocks)
            secret, _ = await store.access.create_session(OWNER, store.now_ms() + 1000)
            key, _ = await store.access.create_key(Role.ADMIN, "a", None)
            assert await store.access.session(secret) is not None
            assert await store.access.key(key) is not None
            assert await store.access.revoke_session(secret)
            assert await store.access.revoke_key(key)
            assert await store.access.sessions() == []
            assert await store.access.keys() == []
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "import time; time.time()",
        "from time import monotonic; monotonic()",
        "import random; random.random()",
        "import random; random.SystemRandom().getrandbits(53)",
        "import random; random.choice([1, 2])",
        "import random; random.Random(1).random()",
        "import secrets; secrets.token_hex(6)",
        "import uuid; uuid.uuid4()",
        "from datetime import datetime; datetime.now()",
    ],
)
def test_such_a_call_would_be_found(code: str) -> None:
    given = Random(42)
    compiled = compile(code, "<store code>", "exec")
    with calls_for_what_was_not_given(given) as found:
        exec(compiled, {"__name__": "tocsin.store.sqlite.queue"})
    assert found
