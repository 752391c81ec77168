"""Whether the time that a key or a session takes to be refused tells how much of it was right.

    python -m benchmarks.key_timing [--attempts 40000]

Two classes of secrets that open nothing are given to the store, in random order: those that are like a real one but for
their end, and those that have nothing in common with it but the role in front. Welch's t test compares their times, as
dudect does (Reparaz, Balasch, Verbauwhede, "Dude, is my code constant time?", 2017): of all times, and of those below
some percentiles, where less noise of the machine is in them. With |t| under 4.5 there is no evidence that they differ.
A comparison that stops at the first wrong character is measured in the same way, to see that it would be found.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import math
import secrets
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from random import SystemRandom
from tempfile import TemporaryDirectory
from typing import Final

from tocsin.domain.events import UserId
from tocsin.store.ports import Access
from tocsin.store.records import Role
from tocsin.store.sqlite.opening import open_store
from tocsin.store.sqlite.store import SqliteOptions

BOUND: Final = 4.5
"""The value of t from which a difference counts (dudect; ISO/IEC 17825)."""
_WRONG_END: Final = 6
_PERCENTILES: Final = (50, 75, 90, 95, 99, 100)
_WARM_UP: Final = 500
_OWNER: Final = UserId("9aed5e94-3803-11e3-8475-0024e8f90cc0")

Open = Callable[[str], Awaitable[object]]
"""Returns what a secret opens, or None."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Whether the time of a refusal tells how much of a key was right.")
    parser.add_argument("--attempts", type=int, default=40_000, help="with each class of secrets")
    found = asyncio.run(_measure_all(parser.parse_args().attempts))
    print(f"{'':24}{'like a real one':>18}{'unlike':>12}{'|t|':>8}")
    for name, (close, far) in found.items():
        medians = [f"{statistics.median(times) / 1000:.2f} us" for times in (close, far)]
        print(f"{name:24}{medians[0]:>18}{medians[1]:>12}{largest_t(close, far):8.2f}")
    leaks = [name for name, times in found.items() if largest_t(*times) >= BOUND]
    expected = ["stops at the first wrong"]
    print("as it must be" if leaks == expected else f"differ: {', '.join(leaks) or 'none'}; only {expected[0]} may")
    return 0 if leaks == expected else 1


async def _measure_all(attempts: int) -> dict[str, tuple[list[int], list[int]]]:
    with TemporaryDirectory() as directory:
        options = SqliteOptions(max_events=1, max_bytes=1, lease_s=60, say=lambda sentence: None)
        store = await open_store(Path(directory) / "tocsin.db", options)
        try:
            key, sid = await _fill(store.access)
            return {
                "keys": await times_of(store.access.key, key, _wrong_key, attempts),
                "sessions": await times_of(store.access.session, sid, _wrong_sid, attempts),
                "stops at the first wrong": await times_of(leaky(key), key, _wrong_key, attempts),
            }
        finally:
            await store.close()


async def _fill(access: Access) -> tuple[str, str]:
    """Keys and sessions among which to look; returns one of each, which has been used before as they all have."""
    for _ in range(50):
        key, _ = await access.create_key(Role.ADMIN, "", None)
        sid, _ = await access.create_session(_OWNER, None)
        assert await access.key(key) is not None
        assert await access.session(sid) is not None
    return key, sid


def _wrong_key() -> str:
    return f"tocsin_admin_{secrets.token_urlsafe(32)}"


def _wrong_sid() -> str:
    return secrets.token_urlsafe(32)


async def times_of(open_: Open, right: str, wrong: Callable[[], str], attempts: int) -> tuple[list[int], list[int]]:
    """The nanoseconds that each refusal takes: of secrets like `right`, and of others."""
    like = [right[:-_WRONG_END] + secrets.token_urlsafe(32)[:_WRONG_END] for _ in range(attempts + _WARM_UP)]
    unlike = [wrong() for _ in range(attempts + _WARM_UP)]
    given = [(secret, 0) for secret in like] + [(secret, 1) for secret in unlike]
    SystemRandom().shuffle(given)
    times: tuple[list[int], list[int]] = ([], [])
    gc.disable()
    try:
        for number, (secret, which) in enumerate(given):
            started = time.perf_counter_ns()
            opened = await open_(secret)
            took = time.perf_counter_ns() - started
            assert opened is None
            if number >= 2 * _WARM_UP:
                times[which].append(took)
    finally:
        gc.enable()
    return times


def leaky(right: str) -> Open:
    """A comparison as it must not be: character by character, until one is wrong."""

    async def open_(secret: str) -> object:
        for one, other in zip(secret, right, strict=True):
            if one != other:
                return None
        return right

    return open_


def largest_t(one: Sequence[int], other: Sequence[int]) -> float:
    """The largest |t| of all percentiles below which times are taken."""
    pooled = sorted([*one, *other])
    found = []
    for percentile in _PERCENTILES:
        limit = pooled[min(len(pooled) - 1, len(pooled) * percentile // 100)]
        found.append(abs(welch_t([x for x in one if x <= limit], [x for x in other if x <= limit])))
    return max(found)


def welch_t(one: Sequence[float], other: Sequence[float]) -> float:
    """Welch's t of two samples that may vary differently. Where one has less than two values, they differ."""
    if min(len(one), len(other)) < 2:
        return math.inf
    variance = statistics.variance(one) / len(one) + statistics.variance(other) / len(other)
    difference = statistics.fmean(one) - statistics.fmean(other)
    return difference / math.sqrt(variance) if variance else math.copysign(math.inf, difference) if difference else 0.0


if __name__ == "__main__":
    sys.exit(main())
